"""HTML to Markdown: the main text with its headings, lists, tables and code; no navigation, no scripts."""

from __future__ import annotations

import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipeline.errors import Poison

#: What is around the text of a page, and what is no text.
_DROPPED: Final = (
    "script", "style", "noscript", "template", "svg", "nav", "header", "footer", "aside", "form", "iframe", "head",
)  # fmt: skip
_BLOCKS: Final = frozenset(
    (
        "address", "article", "blockquote", "body", "dd", "details", "div", "dl", "dt", "figcaption", "figure",
        "hr", "html", "main", "ol", "p", "section", "summary", "table", "tbody", "tfoot", "thead", "ul",
    )
)  # fmt: skip
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}
_SPACE: Final = re.compile(r"\s+")
#: Elements inside elements: no page is deeper, and a hostile one must not end the process.
_DEEPEST: Final = 400


def markdown_of(data: bytes) -> tuple[str, str]:
    """The text of a page as Markdown, and its title.

    Raises:
        Poison: elements are nested too deep.
    """
    page = LexborHTMLParser(data)
    title = page.css_first("title")
    name = _SPACE.sub(" ", title.text()).strip() if title is not None else ""
    for dropped in _DROPPED:
        for node in page.css(dropped):
            # A page's own header holds navigation; an article's holds its title.
            if not (dropped == "header" and node.css_first("h1") is not None):
                node.decompose()
    root = page.css_first("main") or page.css_first("article") or page.body
    writer = _Writer()
    if root is not None:
        writer.write(root, 0)
    return writer.text(), name


class _Writer:
    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._line: list[str] = []

    def text(self) -> str:
        self._end()
        return "\n\n".join(self._blocks)

    def write(self, node: LexborNode, depth: int) -> None:
        """One node and what is in it."""
        if depth > _DEEPEST:
            raise Poison("too_deep", f"elements are nested deeper than {_DEEPEST}")
        tag = node.tag or ""
        if tag == "-text":
            self._line.append(node.text(deep=False))
        elif tag in _HEADINGS:
            self._end()
            self._line.append(node.text())
            self._end(f"{_HEADINGS[tag]} ")
        elif tag == "pre":
            self._end()
            self._blocks.append("```\n" + node.text().strip("\n") + "\n```")
        elif tag == "br":
            self._line.append(" ")
        elif tag == "li":
            self._end()
            self._children(node, depth)
            self._end("- ")
        elif tag == "tr":
            self._end()
            cells = [_SPACE.sub(" ", cell.text()).strip() for cell in node.iter() if cell.tag in ("td", "th")]
            if any(cells):
                self._blocks.append("| " + " | ".join(cells) + " |")
        elif tag in _BLOCKS:
            self._end()
            self._children(node, depth)
            self._end()
        else:
            self._children(node, depth)

    def _children(self, node: LexborNode, depth: int) -> None:
        for child in node.iter(include_text=True):
            self.write(child, depth + 1)

    def _end(self, prefix: str = "") -> None:
        line = _SPACE.sub(" ", "".join(self._line)).strip()
        self._line = []
        if line:
            self._blocks.append(prefix + line)
