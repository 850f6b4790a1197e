"""The text of a row or a record as the chunker takes it: HTML goes the way of files that are HTML."""

from __future__ import annotations

import codecs
from typing import Final

from connectors.extraction import Extracted, extract, revision_of

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
#: Only its suffix counts.
_NAME: Final = "text.html"


def readable(text: str, media_type: str) -> Extracted:
    """HTML as Markdown, with what the page says of itself and its extractor; any other text as it is.

    Raises:
        Poison: nobody can read it, as it nests too deeply.
    """
    if not _is_html(media_type):
        return Extracted(text, media_type)
    # It is decoded already: with the mark, what the page says of its encoding does not count.
    found = extract(codecs.BOM_UTF8 + text.encode(), _NAME)
    assert found is not None  # nothing with that mark counts as binary
    return found


def reading(media_type: str) -> tuple[str, ...]:
    """Part of a revision: another one whenever a text of this type may be read as another than before. Nothing for
    those that stay as they are.
    """
    return (revision_of(_NAME),) if _is_html(media_type) else ()


def _is_html(media_type: str) -> bool:
    return media_type.partition(";")[0].strip().lower() in _HTML
