"""HTML to Markdown, as far as structure goes: headings, paragraphs, lists, tables, code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from connectors.extraction.nesting import refuse_hostile
from pipeline.errors import Poison

_SKIPPED: Final = frozenset(
    {
        "button",
        "canvas",
        "head",
        "iframe",
        "input",
        "math",
        "nav",
        "noscript",
        "object",
        "option",
        "script",
        "select",
        "style",
        "svg",
        "template",
        "textarea",
    }
)
_HEADINGS: Final = {f"h{level}": "#" * level for level in range(1, 7)}
_BLOCKS: Final = frozenset(
    {
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "hr",
        "li",
        "main",
        "ol",
        "p",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
    }
)
#: Around the text of a page, unless within one of the sections: there they belong to it.
_FRAME: Final = "header, footer, aside, " + ", ".join(
    f'[role~="{role}" i]' for role in ("navigation", "banner", "contentinfo", "complementary", "search")
)
_SECTIONS: Final = frozenset({"article", "main", "section"})
_SPACE: Final = re.compile(r"[ \t\n\r\f]+")
#: A paragraph that would read as a heading.
_FALSE_HEADING: Final = re.compile(r"#{1,6}[ \t]")
_TITLE_SIZE: Final = 1000
#: An item of a list is indented, in a thousand lists by 2 kB: a text may be so many times as long as the page, and
#: some more.
_GROWTH: Final = 4
_MORE: Final = 1 << 20


class Page(NamedTuple):
    """A page's text and title."""

    text: str
    title: str


def html_to_markdown(html: str, *, framed: bool = True) -> Page:
    """A page's main text: of its one ``main``, of its one ``article`` if that is most of it, or of its body.

    Args:
        html: the page.
        framed: it may be one of a site, with headers, footers and side bars around its text. Chapters and mails have
            none: all of their body counts.

    Raises:
        Poison: the page would keep the parser busy for minutes, or fill the memory.
    """
    refuse_hostile(html)
    tree = LexborHTMLParser(html)
    most = _GROWTH * len(html) + _MORE
    text = _main_text(tree, most) if framed else _written(tree.body, most)
    title = tree.css_first("head > title") or tree.css_first("h1")
    return Page(text, "" if title is None else title.text()[:_TITLE_SIZE])


def _main_text(tree: LexborHTMLParser, most: int) -> str:
    named = False
    for selector in ("main", '[role~="main" i]'):
        if len(found := tree.css(selector)) == 1:
            named = True
            if text := _written(found[0], most):
                return text
    text = _written(tree.body, most, _frame(tree))
    articles = tree.css("article")
    # One of few words is a teaser of another page.
    if len(articles) == 1 and 2 * len(article := _written(articles[0], most)) > len(text):
        return article
    # Scripts fill an empty ``main``: what stands around it is not the page's text.
    return text if text or named else _written(tree.body, most)


def _frame(tree: LexborHTMLParser) -> frozenset[int]:
    """What may stand around a page's text, by id. What holds the only ``h1`` holds its title, and is none."""
    frame = {node.mem_id for node in tree.css(_FRAME)}
    headings = tree.css("h1")
    node = headings[0] if len(headings) == 1 else None
    while node is not None:
        frame.discard(node.mem_id)
        node = node.parent
    return frozenset(frame)


def _written(root: LexborNode | None, most: int, frame: frozenset[int] = frozenset()) -> str:
    """As Markdown, without what is of the frame."""
    writer = _Writer(most)
    if root is not None:
        for node, entering in _steps(root, frame):
            if entering:
                writer.enter(node)
            else:
                writer.leave(node)
    return writer.text()


def _steps(root: LexborNode, frame: frozenset[int]) -> Iterator[tuple[LexborNode, bool]]:
    """Every node on the way in and out. A loop: pages nest deeper than Python's stack."""
    stack = [(root, True)]
    sections = 0
    while stack:
        node, entering = stack.pop()
        yield node, entering
        if node.tag in _SECTIONS:
            sections += 1 if entering else -1
        if entering and node.tag not in _SKIPPED:
            stack.append((node, False))
            child = node.last_child
            while child is not None:
                if sections or child.mem_id not in frame:
                    stack.append((child, True))
                child = child.prev


class _Writer:
    """Collects blocks of Markdown.

    Args:
        most: characters.
    """

    def __init__(self, most: int) -> None:
        self._room = most
        self._blocks: list[str] = []
        self._inline: list[str] = []
        self._opening = ""
        self._lists: list[int | None] = []
        self._row: list[str] | None = None
        self._rows: list[list[str]] = []
        self._code: list[str] | None = None
        self._tight = False

    def text(self) -> str:
        """All of it."""
        self._flush()
        return "".join(self._blocks).lstrip("\n") + "\n" if self._blocks else ""

    def enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == "-text":
            self._write(node.text_content or "")
        elif tag == "br":
            self._write("\n" if self._code is not None else " ")
        elif tag == "img" and self._code is None:
            self._inline.append(f" {(node.attributes.get('alt') or '')} ")
        elif tag == "pre" and self._code is None:
            self._flush()
            self._code = []
        elif self._row is not None or self._code is not None:
            if tag in _BLOCKS:
                self._write(" " if self._code is None else "\n")
        elif tag in _HEADINGS:
            self._flush()
            self._opening = _HEADINGS[tag] + " "
        elif tag in ("ul", "ol"):
            self._flush()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._flush()
            self._opening = self._bullet()
        elif tag == "tr":
            self._flush()
            self._row = []
        elif tag in _BLOCKS:
            self._flush()

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == "pre" and self._code is not None:
            code, self._code = "".join(self._code).strip("\n"), None
            if code.strip():
                mark = "```" if "```" not in code else "~~~~"
                self._add(f"{mark}\n{code}\n{mark}")
        elif self._code is not None:
            return
        elif self._row is not None:
            if tag in ("td", "th"):
                self._row.append(self._taken().replace("|", "\\|"))
            elif tag in ("tr", "table"):
                self._rows.append(self._row)
                self._row = None
                if any(self._rows[-1]):
                    self._add("| " + " | ".join(self._rows[-1]) + " |", tight=len(self._rows) > 1)
        elif tag in ("ul", "ol"):
            self._flush()
            if self._lists:
                self._lists.pop()
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._flush()
            if tag == "li" or tag in _HEADINGS:
                self._opening = ""  # it was empty
        if tag == "table":
            self._rows = []

    def _write(self, text: str) -> None:
        (self._inline if self._code is None else self._code).append(text)

    def _bullet(self) -> str:
        indent = "  " * max(0, len(self._lists) - 1)
        number = self._lists[-1] if self._lists else None
        if number is None:
            return f"{indent}- "
        self._lists[-1] = number + 1
        return f"{indent}{number}. "

    def _taken(self) -> str:
        text = _SPACE.sub(" ", "".join(self._inline)).strip(" ")
        self._inline = []
        return text

    def _flush(self) -> None:
        text = self._taken()
        if not text:
            return
        opening, self._opening = self._opening, ""
        if not opening and _FALSE_HEADING.match(text):
            text = "\\" + text
        item = opening.lstrip()[:1] in ("-", *"0123456789") and bool(opening)
        self._add(opening + text, tight=item and self._tight)
        self._tight = item

    def _add(self, block: str, *, tight: bool = False) -> None:
        """A block of its own, or (a list's item, a table's row) the next line of the one before."""
        self._tight = False
        self._room -= len(block)
        if self._room < 0:
            raise Poison("extraction_failed", f"html: its text is more than {_GROWTH} times as long as the page")
        self._blocks.append(("\n" if tight else "\n\n") + block)
