"""Word documents as Markdown: headings by their outline level, lists, tables, notes.

python-docx reads paragraphs and tables, but not what stands in content controls, in text boxes or in
tracked insertions: text would be missing without a word. So the body is walked here, over lxml.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lxml import etree

from connectors.extraction.documents.packages import Package
from connectors.extraction.documents.writing import Text, line, row
from connectors.extraction.formats import Extracted

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
#: The same in files of the strict kind.
_STRICT: Final = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_DEEPEST_HEADING: Final = 6
#: Word's levels 1 to 9; the tenth is body text.
_HEADINGS: Final = 9
#: In the place of a level: an item of a list.
_ITEM: Final = -1
#: Of these, the content is gone, hidden or said twice.
_LEFT_OUT: Final = frozenset({"del", "moveFrom", "Fallback", "pPr", "rPr", "instrText", "delText", "tblPr", "sectPr"})


def read(data: bytes, limit: int) -> Extracted:
    """The body, then foot- and endnotes. Headers and footers repeat on every page and are left out.

    Raises:
        Poison: no Word document, or over the limit.
    """
    package = Package(data)
    main = package.main()
    related = package.related(main)
    styles = _styles(package, related)
    text = Text(limit)
    _body(_named(package.xml(main)), text, styles)
    for wanted in ("footnotes", "endnotes"):
        for kind, name in related.values():
            if kind == wanted and name in package:
                for note in _named(package.xml(name)).iter("footnote", "endnote"):
                    if note.get("type") is None:  # separators have one
                        text.block(_flat(note))
    return Extracted(text.text(), "text/markdown", package.properties())


def _named(root: etree._Element) -> etree._Element:
    """The tree with names without their namespaces: of a strict or a usual file, they are the same."""
    for one in root.iter():
        if isinstance(one.tag, str):
            one.tag = one.tag.rpartition("}")[2]
            for name in list(one.attrib):
                if name.startswith((_W, _STRICT)):
                    one.set(name.rpartition("}")[2], one.attrib.pop(name))
    return root


def _styles(package: Package, related: dict[str, tuple[str, str]]) -> dict[str, int]:
    """By id of a style, the heading level that it gives (0 is the title), or that it makes items of lists."""
    found: dict[str, int] = {}
    parents: dict[str, str] = {}
    for kind, name in related.values():
        if kind != "styles" or name not in package:
            continue
        for style in _named(package.xml(name)).iter("style"):
            id = style.get("styleId") or ""
            outline, called, parent = style.find("pPr/outlineLvl"), style.find("name"), style.find("basedOn")
            if called is not None and (called.get("val") or "").lower() == "title":
                found[id] = 0
            elif outline is not None and (outline.get("val") or "").isdecimal():
                found[id] = int(outline.get("val") or 0) + 1
            elif style.find("pPr/numPr") is not None:
                found[id] = _ITEM
            elif parent is not None:
                parents[id] = parent.get("val") or ""
    for id, above in parents.items():
        seen = {id}
        while above not in found and above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
        if above in found:
            found[id] = found[above]
    return found


def _body(root: etree._Element, text: Text, styles: dict[str, int]) -> None:
    body = root.find("body")
    for one in _blocks(root if body is None else body):
        if one.tag == "tbl":
            text.block("\n".join(filter(None, map(row, _rows(one)))))
            continue
        said = _flat(one)
        level = _level(one, styles)
        if level is None or not line(said):
            text.block(said)
        elif level == _ITEM:
            text.block(f"- {line(said)}")
        else:
            text.block(f"{'#' * min(max(level, 1), _DEEPEST_HEADING)} {line(said)}")


def _blocks(root: etree._Element) -> Iterator[etree._Element]:
    """Paragraphs and outermost tables in order, whatever they are wrapped in. A loop: no stack to run out of."""
    stack = [root]
    while stack:
        one = stack.pop()
        if one.tag in ("p", "tbl"):
            yield one
        elif one.tag not in _LEFT_OUT:
            stack.extend(reversed(one))


def _rows(table: etree._Element) -> Iterator[list[str]]:
    for found in table.iter("tr"):
        if next(found.iterancestors("tbl"), None) is table:
            cells = (one for one in found.iter("tc") if next(one.iterancestors("tr"), None) is found)
            yield [_flat(cell) for cell in cells]


def _flat(root: etree._Element) -> str:
    """The text of a paragraph, a cell or a note."""
    parts: list[str] = []
    stack = [root]
    while stack:
        one = stack.pop()
        match one.tag:
            case "t":
                parts.append(one.text or "")
            case "tab" | "ptab":
                parts.append("\t")
            case "br" | "cr":
                parts.append("\n")
            case "noBreakHyphen":
                parts.append("-")
            case "r" if (hidden := one.find("rPr/vanish")) is not None and hidden.get("val") not in ("0", "false"):
                continue
            case "p" if parts:
                parts.append("\n")  # a text box or a cell holds paragraphs
                stack.extend(reversed(one))
            case tag if tag not in _LEFT_OUT:
                stack.extend(reversed(one))
    return "".join(parts)


def _level(paragraph: etree._Element, styles: dict[str, int]) -> int | None:
    outline, style = paragraph.find("pPr/outlineLvl"), paragraph.find("pPr/pStyle")
    level = None if style is None else styles.get(style.get("val") or "")
    if outline is not None and (outline.get("val") or "").isdecimal():
        level = int(outline.get("val") or 0) + 1
    if level is not None and 0 <= level <= _HEADINGS:
        return level
    return _ITEM if level == _ITEM or paragraph.find("pPr/numPr") is not None else None
