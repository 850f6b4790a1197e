"""Media types of requests, and what they are read as."""

from __future__ import annotations

import posixpath
from email.message import Message
from typing import Final

from connectors.extraction.documents import FORMATS as DOCUMENTS
from connectors.extraction.formats import CODE_TYPES
from connectors.http.problems import Problem

#: By media type, the suffix under which its format is found.
_SUFFIXES: Final[dict[str, str]] = {
    "text/plain": "",
    "text/markdown": ".md",
    "text/html": ".html",
    "application/xhtml+xml": ".xhtml",
    "text/x-rst": ".rst",
    "text/prs.fallenstein.rst": ".rst",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.ms-excel.sheet.binary.macroenabled.12": ".xlsb",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "text/javascript": ".js",
    "text/xml": ".xml",
    "text/yaml": ".yaml",
}
#: Says nothing of what is in it: then the key's suffix does.
_ANYTHING: Final = "application/octet-stream"

for _suffix, _type in CODE_TYPES.items():
    _SUFFIXES.setdefault(_type, _suffix)
for _suffix, _format in DOCUMENTS.items():
    _SUFFIXES.setdefault(_format.media_type, _suffix)
#: All that is known, for whoever asks what to send.
KNOWN: Final = tuple(sorted(_SUFFIXES))


def parsed(header: str) -> tuple[str, str | None]:
    """A ``Content-Type`` as media type, in lower case, and charset."""
    message = Message()
    message["Content-Type"] = header or _ANYTHING
    charset = message.get_param("charset")
    return message.get_content_type(), charset if isinstance(charset, str) else None


def suffix_of(media_type: str, path: str) -> str:
    """The suffix under which a document of this media type is read.

    Raises:
        Problem: it cannot be read.
    """
    if media_type == _ANYTHING:
        return posixpath.splitext(path)[1].lower()
    suffix = _SUFFIXES.get(media_type.lower())
    if suffix is None:
        raise Problem(
            "unsupported-media-type", f"documents of {media_type!r} cannot be read; text/plain reads any text"
        )
    return suffix
