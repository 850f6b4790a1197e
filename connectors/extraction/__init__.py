"""Bytes of a file to text that the chunker understands: a seam made for adding formats.

Texts are read here and now: a format is one function from decoded text to :class:`Extracted`, entered in
:data:`connectors.extraction.formats.FORMATS` under its suffixes. Documents (PDF, Office, books, mail) are read in a
process of their own: :class:`Extractor`, and :mod:`connectors.extraction.documents` for their formats. The
same bytes and suffix give the same text on every machine; the file's name is never part of it, so that a rename
embeds nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from connectors.extraction.decoding import SAMPLE_BYTES, binary, binary_suffix, decoded
from connectors.extraction.documents import EXTRA, document_format
from connectors.extraction.formats import Extracted, format_of
from connectors.extraction.reader import ExtractionLimits, Reader
from pipeline.deadline import Deadline
from pipeline.errors import Poison

__all__ = [
    "SAMPLE_BYTES",
    "VERSION",
    "Extracted",
    "ExtractionLimits",
    "Extractor",
    "binary",
    "extract",
    "is_text",
    "revision_of",
]

log = logging.getLogger(__name__)

#: Documents whose failure is remembered.
_FAILED: Final = 1000

#: Raised with any change of how bytes become text for all formats: every document is then read again.
VERSION: Final = 1


def is_text(path: str) -> bool:
    """False if a file of this name is a document, whatever its first bytes look like."""
    return document_format(path) is None


def revision_of(path: str) -> str:
    """Part of a document's revision: another whenever its bytes may give another text than before, because
    its format's code is another, or its library, or that is installed now.
    """
    document = document_format(path)
    if document is not None:
        return f"{VERSION}-{document.revision}"
    return f"{VERSION}-{format_of(path).revision}"


class _Failed(NamedTuple):
    """Why a document could not be read. No exception: its traceback would hold the whole file."""

    revision: str
    reason: str
    detail: str


class Extractor:
    """One connector's way from bytes to text. Used by one thread, but for :meth:`close`.

    Args:
        limits: of documents that are no texts.
        text_limit: most bytes of a document's text in UTF-8; of a text file, its size.
    """

    def __init__(self, limits: ExtractionLimits, text_limit: int) -> None:
        self._limits = limits
        self._text_limit = text_limit
        self._reader = Reader(limits, text_limit)
        self._told: set[str] = set()
        self._failed: dict[str, _Failed] = {}

    def left_out(self, path: str) -> Literal["binary", "no_reader"] | None:
        """Why a file of this name is not read, whatever is in it; None: it is.

        The first one whose reader is not installed is logged, with what to install.
        """
        if binary_suffix(path):
            return "binary"
        document = document_format(path)
        if document is None or not document.missing:
            return None
        if document.name not in self._told:
            self._told.add(document.name)
            log.warning(
                "documents are left out: what reads them is not installed",
                extra={"format": document.name, "missing": ", ".join(document.missing), "remedy": f"install {EXTRA}"},
            )
        return "no_reader"

    def limit(self, path: str) -> int:
        """Most bytes of a file of this name."""
        return self._text_limit if document_format(path) is None else self._limits.file_limit_bytes

    def extract(
        self, data: bytes, path: str, revision: str | None = None, deadline: Deadline | None = None
    ) -> Extracted | None:
        """The text of a document and what it says about itself; None if it is binary.

        The runner looks again at one that cannot be read, since it may be half written; as long as it is the
        very same, it is not read again, which may have taken half a minute.

        Args:
            data: the whole file.
            path: only its suffix, or the name of a file without one, chooses the format. It is not left out.
            revision: of ``data``; None: nothing is remembered.
            deadline: for whoever has to fetch it first; None: it may take all the time that there is for one.

        Raises:
            Poison: it cannot be read as it is.
            Transient: the machine had no time or memory for it.
            SourceUnavailable: closed.
        """
        if revision is None:
            return self._read(data, path, deadline)
        failed = self._failed.pop(path, None)
        if failed is None or failed.revision != revision:
            try:
                return self._read(data, path, deadline)
            except Poison as error:
                failed = _Failed(revision, error.reason, error.detail)
        if len(self._failed) >= _FAILED:
            self._failed.clear()
        self._failed[path] = failed
        raise Poison(failed.reason, failed.detail)

    def _read(self, data: bytes, path: str, deadline: Deadline | None) -> Extracted | None:
        document = document_format(path)
        if document is None:
            return extract(data, path)
        found = self._reader.read(data, document, deadline)
        metadata = {
            **found.metadata,
            "source_media_type": document.media_type,
            "extractor": f"{document.name}/{document.version}",
        }
        return Extracted(found.text, found.media_type, metadata, found.found)

    def close(self) -> None:
        """End the process; from any thread, more than once."""
        self._reader.close()


def extract(data: bytes, path: str, *, declares: bool = True) -> Extracted | None:
    """The text of a text file and what it says about itself; None if it is binary, as documents are.

    Args:
        data: the whole file.
        path: only its suffix, or the name of a file without one, chooses the format.
        declares: what it says of its own encoding counts; False: it was recoded, to UTF-8.

    Raises:
        Poison: the format's library cannot read it.
    """
    if document_format(path) is not None:
        return None
    found = decoded(data, declares=declares and format_of(path).declares_encoding)
    if found is None:
        return None
    text, encoding = found
    extracted = extract_text(text, path)
    if encoding == "utf-8":
        return extracted
    return replace(extracted, metadata={**extracted.metadata, "encoding": encoding})


def extract_text(text: str, path: str) -> Extracted:
    """Likewise, of a text that is decoded already, whatever it says of its encoding; ``path`` is not a document's.

    Raises:
        Poison: the format's library cannot read it.
    """
    format_ = format_of(path)
    try:
        extracted = format_.extract(text, path)
    except Poison:
        raise
    except Exception as error:  # a library's error on one file is about that file
        raise Poison("extraction_failed", f"{format_.name}: {type(error).__name__}: {error}") from error
    metadata = {**extracted.metadata, "extractor": f"{format_.name}/{format_.version}"}
    return replace(extracted, metadata=metadata)
