"""EPUB: the chapters in reading order, as Markdown."""

from __future__ import annotations

import re
from typing import Final

from connectors.extraction.decoding import decoded
from connectors.extraction.documents.packages import Package, dublin_core, joined
from connectors.extraction.documents.writing import Text, line
from connectors.extraction.formats import Extracted
from connectors.extraction.html import html_to_markdown
from pipeline.anchors import ANCHORS
from pipeline.errors import Poison

_CONTAINER: Final = "META-INF/container.xml"
_HEADING: Final = re.compile(r"^#{1,6} ", re.MULTILINE)
_PAGES: Final = ("application/xhtml+xml", "text/html")


def read(data: bytes, limit: int) -> Extracted:
    """All chapters of the spine, with an anchor for each.

    Raises:
        Poison: no book, protected, or over the limit.
    """
    package = Package(data)
    roots = [one.get("full-path") or "" for one in package.xml(_CONTAINER).iter("{*}rootfile")]
    if not roots:
        raise Poison("malformed_document", f"{_CONTAINER} names no book")
    book = package.xml(roots[0])
    folder = roots[0].rpartition("/")[0]
    items = {
        one.get("id"): joined(folder, one.get("href") or "")
        for one in book.iter("{*}item")
        if one.get("media-type") in _PAGES
    }
    spine = [items[one.get("idref")] for one in book.iter("{*}itemref") if one.get("idref") in items]
    text = Text(limit)
    for name in spine:
        text.begin()
        if name in package and (found := decoded(package.read(name), declares=True)) is not None:
            page = html_to_markdown(found[0], framed=False)
            if page.title and not _HEADING.search(page.text):
                # Without a heading of its own it would stand under that of the chapter before.
                text.block(f"# {line(page.title)}")
            text.block(page.text)
    if spine and not text.length:
        raise Poison("no_text", "its chapters have no text that can be read: protected, or images only")
    metadata = dublin_core(book)
    if text.length:
        metadata[ANCHORS] = text.anchors("section")
    return Extracted(text.text(), "text/markdown", metadata)
