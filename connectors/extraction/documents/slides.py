"""PowerPoint as Markdown: a heading for each slide, its texts, tables and notes, with an anchor for each.

python-pptx would do, but brings an image library and a writer of spreadsheets to everybody who reads slides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lxml import etree

from connectors.extraction.documents.packages import Package
from connectors.extraction.documents.writing import Text, line, row
from connectors.extraction.formats import Extracted
from pipeline.anchors import ANCHORS
from pipeline.errors import Poison

_TITLES: Final = ("title", "ctrTitle")
#: Placeholders that repeat on every slide.
_REPEATED: Final = ("sldNum", "dt", "ftr", "hdr")


def read(data: bytes, limit: int) -> Extracted:
    """All slides in their order.

    Raises:
        Poison: no presentation, or over the limit.
    """
    package = Package(data)
    main = package.main()
    related = package.related(main)
    text = Text(limit)
    for name in _slides(package, main, related):
        text.begin()
        if name in package:
            _slide(package, name, text)
    if not text.parts:
        raise Poison("malformed_document", "it has no slides")
    metadata = {**package.properties(), "slides": text.parts}
    if text.length:
        metadata[ANCHORS] = text.anchors("slide")
    return Extracted(text.text(), "text/markdown", metadata)


def _slides(package: Package, main: str, related: dict[str, tuple[str, str]]) -> Iterator[str]:
    for one in package.xml(main).iter("{*}sldId"):
        for name, id in one.attrib.items():
            if str(name).endswith("}id"):
                kind, part = related.get(str(id), ("", ""))
                if kind == "slide":
                    yield part


def _slide(package: Package, name: str, text: Text) -> None:
    title, blocks = "", []
    for shape in _shapes(package.xml(name)):
        if (tag := etree.QName(shape).localname) == "tbl":
            rows = ([_said(cell) for cell in one.iterfind("{*}tc")] for one in shape.iterfind("{*}tr"))
            blocks.append("\n".join(filter(None, map(row, rows))))
            continue
        assert tag == "sp"  # there is nothing else
        kind = _placeholder(shape)
        said = _said(shape)
        if kind in _TITLES and not title:
            title = line(said)
        elif kind not in _REPEATED:
            blocks.append(said)
    if not title:
        # Without one, its text would stand under the title of the slide before.
        texts = (block for block in blocks if block.strip() and not block.startswith("|"))
        title = line(next(texts, "").strip().split("\n", 1)[0])[:200]
    if title or any(block.strip() for block in blocks):
        text.block(f"# {title}".rstrip())
    for block in blocks:
        text.block(block)
    for kind, part in package.related(name).values():
        if kind == "notesSlide" and part in package:
            for shape in _shapes(package.xml(part)):
                if _placeholder(shape) == "body":
                    text.block(_said(shape))


def _shapes(root: etree._Element) -> Iterator[etree._Element]:
    """Shapes with text and tables, in groups too, in order; what is said twice for older readers once."""
    stack = [root]
    while stack:
        one = stack.pop()
        if not isinstance(one.tag, str):
            continue
        match etree.QName(one).localname:
            case "sp" | "tbl":
                yield one
            case "Fallback":
                continue
            case _:
                stack.extend(reversed(one))


def _placeholder(shape: etree._Element) -> str:
    found = next(shape.iter("{*}ph"), None)
    return "" if found is None else found.get("type") or "body"


def _said(shape: etree._Element) -> str:
    """Its paragraphs, a line each."""
    lines = []
    for paragraph in shape.iter("{*}p"):
        parts = []
        for one in paragraph.iter("{*}t", "{*}br", "{*}tab"):
            match etree.QName(one).localname:
                case "t":
                    parts.append(one.text or "")
                case "br":
                    parts.append(" ")
                case _:
                    parts.append("\t")
        lines.append("".join(parts))
    return "\n".join(lines)
