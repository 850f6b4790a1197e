"""The text of a row or a record as the chunker takes it: HTML goes the way of files that are HTML."""

from __future__ import annotations

from typing import Final

from connectors.extraction import Extracted, extract_text, revision_of
from connectors.extraction.decoding import without_nul

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
#: Only its suffix counts.
_NAME: Final = "text.html"


def readable(text: str, media_type: str) -> Extracted:
    """HTML as Markdown, with what the page says of itself and its extractor; any other text as it is.

    Raises:
        Poison: nobody can read it, as it nests too deeply.
    """
    return extract_text(without_nul(text), _NAME) if _is_html(media_type) else Extracted(text, media_type)


def bounded(text: str, media_type: str, limit: int) -> tuple[Extracted, int]:
    """A text as :func:`readable` has it, and its bytes of UTF-8. One over the limit is not read; what another one is
    read as may be over it as well.

    Raises:
        Poison: nobody can read it.
    """
    size = len(text.encode())
    if size > limit or not _is_html(media_type):
        return Extracted(text, media_type), size
    read = readable(text, media_type)
    return read, len(read.text.encode())


def reading(media_type: str) -> tuple[str, ...]:
    """Part of a revision: another one whenever a text of this type may be read as another than before. Nothing for
    those that stay as they are.
    """
    return (revision_of(_NAME),) if _is_html(media_type) else ()


def _is_html(media_type: str) -> bool:
    return media_type.partition(";")[0].strip().lower() in _HTML
