"""A document's parts: blocks with exact spans and the headings above them. Light line scanners:
they never fail, and every character that is not white space lies in exactly one block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Kind = Literal["heading", "prose", "lines", "piece"]
"""A heading's own line; ``prose`` is split into sentences when it is too long, ``lines`` (code,
tables) into lines; a ``piece`` was cut from unbroken text."""

# No pattern may look back over what it matched: a line can have megabytes.
_FENCE: Final = re.compile(r"[ \t]*(`{3,}|~{3,})")
_ATX: Final = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_FRONT_MATTER: Final = re.compile(r"[\w.-]+[ \t]*[:=]|#")
_SETEXT: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_ITEM: Final = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]+\S")
_ADORNMENT: Final = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}[ \t]*$")
_CODE_TYPES: Final = re.compile(r"text/x-|application/(json|javascript|typescript|toml|yaml|xml|sql)")
#: A heading is known by so many characters, and a path by so many headings: each chunk carries it.
_TITLE: Final = 200
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document: a half-open span of code points without white space at its ends."""

    start: int
    end: int
    kind: Kind
    headings: tuple[str, ...] = ()
    """The headings above it, its own section's included."""
    opens: bool = False
    """It begins a section, with the heading's own line."""


class _Line(NamedTuple):
    start: int
    end: int
    """Without the line break."""
    text: str
    """Without a byte order mark."""


def blocks(text: str, media_type: str) -> list[Block]:
    """The blocks of a text, in order.

    Args:
        text: as extracted.
        media_type: ``text/markdown``, ``text/x-rst``, a source code type, or anything (plain text).
    """
    lines = list(_lines(text))
    if media_type == "text/markdown":
        found = _markdown(lines)
    elif media_type == "text/x-rst":
        found = _restructured(lines)
    elif _CODE_TYPES.match(media_type):
        found = _code(lines)
    else:
        found = _paragraphs(lines)
    return [trimmed for block in found if (trimmed := _trim(block, text)) is not None]


def _lines(text: str) -> Iterator[_Line]:
    # Only real line breaks: str.splitlines would also split at form feeds and Unicode separators.
    start, visible = 0, int(text.startswith("\ufeff"))
    for match in re.finditer(r"\r\n|\n|\r", text):
        yield _Line(start, match.start(), text[max(start, visible) : match.start()])
        start = match.end()
    if start < len(text):
        yield _Line(start, len(text), text[max(start, visible) :])


def _trim(block: Block, text: str) -> Block | None:
    part = text[block.start : block.end]
    start = block.start + len(part) - len(part.lstrip())
    end = block.start + len(part.rstrip())
    return Block(start, end, block.kind, block.headings, block.opens) if start < end else None


class _Outline:
    """The path of headings, by level."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []

    def open(self, level: int, title: str) -> None:
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, " ".join(title[: 4 * _TITLE].split())[:_TITLE].rstrip()))

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._path if title)[:_DEPTH]


def _markdown(lines: list[_Line]) -> Iterator[Block]:
    outline = _Outline()
    group: list[_Line] = []
    index = 0

    def flush(kind: Kind = "prose") -> Iterator[Block]:
        if group:
            yield Block(group[0].start, group[-1].end, kind, outline.path)
            group.clear()

    if len(lines) > 2 and lines[0].text.rstrip() == "---" and _FRONT_MATTER.match(lines[1].text):
        end = next((n for n in range(1, len(lines)) if lines[n].text.rstrip() in ("---", "...")), None)
        if end is not None:
            yield Block(lines[0].start, lines[end].end, "lines")
            index = end + 1
    while index < len(lines):
        line = lines[index]
        fence = _FENCE.match(line.text)
        heading = _ATX.match(line.text)
        if fence:
            yield from flush(_kind(group))
            last = _closing(lines, index, fence.group(1))
            yield Block(line.start, lines[last].end, "lines", outline.path)
            index = last + 1
            continue
        if heading:
            yield from flush(_kind(group))
            outline.open(len(heading.group(1)), _title(line.text[heading.end() :]))
            yield Block(line.start, line.end, "heading", outline.path, opens=True)
        elif len(group) == 1 and _SETEXT.match(line.text) and not _ITEM.match(group[0].text):
            title = group.pop()
            outline.open(1 if "=" in line.text else 2, title.text)
            yield Block(title.start, line.end, "heading", outline.path, opens=True)
        elif not line.text.strip():
            yield from flush(_kind(group))
        elif _ITEM.match(line.text) and group:
            yield from flush(_kind(group))
            group.append(line)
        else:
            group.append(line)
        index += 1
    yield from flush(_kind(group))


def _closing(lines: list[_Line], opening: int, mark: str) -> int:
    """The line that ends a fenced block: only marks, at least as many; the last line if there is none."""
    for index in range(opening + 1, len(lines)):
        text = lines[index].text.strip()
        if text.startswith(mark) and not text.strip(mark[0]):
            return index
    return len(lines) - 1


def _title(rest: str) -> str:
    """A heading's text without closing marks, which stand after a space."""
    title = rest.strip()
    bare = title.rstrip("#")
    return bare.rstrip() if not bare or bare[-1].isspace() else title


def _kind(group: list[_Line]) -> Kind:
    """Tables and indented code are split by lines."""
    tabular = bool(group) and all(line.text.lstrip().startswith("|") or line.text.startswith("    ") for line in group)
    return "lines" if tabular else "prose"


def _restructured(lines: list[_Line]) -> Iterator[Block]:
    outline = _Outline()
    levels: list[str] = []
    group: list[_Line] = []
    index = 0

    def flush() -> Iterator[Block]:
        if group:
            kind: Kind = "lines" if all(line.text.startswith((" ", "\t")) for line in group) else "prose"
            yield Block(group[0].start, group[-1].end, kind, outline.path)
            group.clear()

    def level_of(style: str) -> int:
        # Levels are known by the order in which their adornments appear.
        if style not in levels:
            levels.append(style)
        return levels.index(style) + 1

    while index < len(lines):
        line = lines[index]
        following = lines[index + 1].text if index + 1 < len(lines) else ""
        third = lines[index + 2].text if index + 2 < len(lines) else ""
        over = _ADORNMENT.match(line.text)
        if over and following.strip() and third.strip() == line.text.strip():
            yield from flush()
            outline.open(level_of(line.text[0] * 2), following)
            yield Block(line.start, lines[index + 2].end, "heading", outline.path, opens=True)
            index += 3
            continue
        under = _ADORNMENT.match(following)
        title = line.text.rstrip()
        if (
            under
            and title.strip()
            and not title.startswith(" ")
            and not group
            and len(following.rstrip()) >= len(title) // 2
        ):
            outline.open(level_of(following[0]), title)
            yield Block(line.start, lines[index + 1].end, "heading", outline.path, opens=True)
            index += 2
            continue
        if not line.text.strip():
            yield from flush()
        else:
            group.append(line)
        index += 1
    yield from flush()


def _paragraphs(lines: list[_Line]) -> Iterator[Block]:
    group: list[_Line] = []
    for line in lines:
        if line.text.strip():
            group.append(line)
        elif group:
            yield Block(group[0].start, group[-1].end, "prose")
            group = []
    if group:
        yield Block(group[0].start, group[-1].end, "prose")


def _code(lines: list[_Line]) -> Iterator[Block]:
    """Groups of lines between blank lines; a group that begins at the margin opens a section, so
    that functions and classes stay whole where they fit.
    """
    group: list[_Line] = []

    def block() -> Block:
        first = group[0].text
        margin = not first[:1].isspace() and first.strip() not in ("}", "};", ")", "]", "end")
        return Block(group[0].start, group[-1].end, "lines", (), margin)

    for line in lines:
        if line.text.strip():
            group.append(line)
        elif group:
            yield block()
            group = []
    if group:
        yield block()
