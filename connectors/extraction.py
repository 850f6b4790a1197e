"""Bytes to text: one small function a format, chosen by the file's suffix; deterministic.

To add a format, write a function ``bytes -> Extracted`` and name its suffixes in ``_FORMATS``.
The name of a file never gets into its text, so that a rename costs no embedding.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from connectors.html import markdown_of
from pipeline.chunking.structure import blocks
from pipeline.errors import Poison
from pipeline.identity import MetadataValue

#: Raise it when any document's text would come out differently.
EXTRACTOR: Final = "1"
#: How much of a file tells whether it is text.
SNIFFED_BYTES: Final = 8192
#: Text has few control characters; what has more is compressed or encrypted.
_CONTROL_SHARE: Final = 0.02
_CONTROLS: Final = frozenset(range(32)) - {9, 10, 12, 13, 27}
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document's text."""

    text: str
    media_type: str
    """Of the text, as the chunker understands it: HTML becomes Markdown."""
    metadata: dict[str, MetadataValue] = field(default_factory=dict)


Extract = Callable[[bytes], Extracted]


def extract(data: bytes, path: str) -> Extracted:
    """The text of a document.

    Args:
        data: the whole file.
        path: its suffix decides the format.

    Raises:
        Poison: the file is broken in a way that its format does not allow.
    """
    suffix = os.path.splitext(path)[1].lower()
    extracted = _FORMATS.get(suffix, _as_text("text/plain"))(data)
    return Extracted(extracted.text, extracted.media_type, {**extracted.metadata, "extractor": EXTRACTOR})


def is_binary(start: bytes) -> bool:
    """True if a file that begins like this is not text."""
    if start.startswith(tuple(mark for mark, _ in _MARKS)):
        return False
    controls = sum(byte in _CONTROLS for byte in start)
    return b"\0" in start or controls > _CONTROL_SHARE * len(start)


def decoded(data: bytes) -> tuple[str, str]:
    """The text and its encoding: by its mark, else UTF-8, else Latin-1, in which every byte means something.

    Raises:
        Poison: a marked text is broken.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding), encoding
            except UnicodeDecodeError as error:
                if encoding != "utf-8":
                    raise Poison("not_text", f"marked as {encoding}, but: {error}") from None
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _as_text(media_type: str) -> Extract:
    def read(data: bytes) -> Extracted:
        text, encoding = decoded(data)
        metadata: dict[str, MetadataValue] = {}
        title = _title(text, media_type)
        if title:
            metadata["title"] = title
        if encoding != "utf-8":
            metadata["encoding"] = encoding
        return Extracted(text, media_type, metadata)

    return read


def _html(data: bytes) -> Extracted:
    text, title = markdown_of(data)
    metadata: dict[str, MetadataValue] = {"source_media_type": "text/html"}
    if title:
        metadata["title"] = title
    return Extracted(text, "text/markdown", metadata)


def _title(text: str, media_type: str) -> str:
    """The first heading, for formats that have headings."""
    if media_type not in ("text/markdown", "text/x-rst"):
        return ""
    # A title stands at the top: the whole of a long document need not be looked at.
    found = (block.headings[0] for block in blocks(text[:SNIFFED_BYTES], media_type) if block.headings)
    return next(found, "")


_CODE: Final = {
    "text/x-python": ".py .pyi .pyx",
    "text/x-c": ".c .h .cc .cpp .cxx .hpp .hh",
    "text/x-java": ".java .kt .kts .scala .groovy",
    "text/x-go": ".go",
    "text/x-rust": ".rs",
    "text/x-ruby": ".rb",
    "text/x-php": ".php",
    "text/x-shellscript": ".sh .bash .zsh",
    "text/x-csharp": ".cs",
    "text/x-swift": ".swift",
    "text/x-lua": ".lua",
    "text/x-perl": ".pl .pm",
    "text/x-css": ".css .scss .less",
    "application/javascript": ".js .mjs .cjs .jsx",
    "application/typescript": ".ts .tsx",
    "application/json": ".json .ipynb .jsonl",
    "application/toml": ".toml",
    "application/yaml": ".yaml .yml",
    "application/xml": ".xml .svg",
    "application/sql": ".sql",
}
_FORMATS: Final[dict[str, Extract]] = {
    **{suffix: _as_text(kind) for kind, suffixes in _CODE.items() for suffix in suffixes.split()},
    **dict.fromkeys((".md", ".markdown", ".mdx"), _as_text("text/markdown")),
    ".rst": _as_text("text/x-rst"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _html),
}
