"""A text that is being collected from a document: within its limit, sound, and with its anchors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pipeline.anchors import anchors
from pipeline.errors import Poison

_BREAKS: Final = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
#: No text has these: lone surrogates, controls, what PDFium writes for a hyphen that it joined.
_UNSOUND: Final = re.compile(r"[\ud800-\udfff\x00-\x08\x0e-\x1f\x7f]")
_BLANK: Final = re.compile(r"[ \t\u00a0]+")


class OverLimit(Poison):
    """The text is longer than documents may be."""

    def __init__(self, limit: int) -> None:
        super().__init__("over_limit", f"its text is over the limit of {limit / 1e6:.1f} MB")


class Text:
    """Parts of a document's text.

    Args:
        limit: most bytes of it in UTF-8. Collecting ends there, however much the document would give.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._length = 0
        self._parts: list[str] = []
        self._starts: list[int] = []

    def add(self, part: str) -> None:
        """Append a part. Its line breaks become line feeds, and what is no text U+FFFD.

        Raises:
            OverLimit: that is too much.
        """
        if len(part) > self._limit - self._size:
            raise OverLimit(self._limit)
        part = sound(part)
        self._size += len(part.encode())
        self._length += len(part)
        if self._size > self._limit:
            raise OverLimit(self._limit)
        self._parts.append(part)

    def block(self, part: str) -> None:
        """Append a paragraph, a heading, a table: with an empty line between it and what follows."""
        part = part.strip("\n")
        if part.strip():
            self.add(part + "\n\n")

    def begin(self) -> None:
        """A page, slide or section begins here."""
        self._starts.append(self._length)

    @property
    def length(self) -> int:
        """Code points so far."""
        return self._length

    @property
    def parts(self) -> int:
        """How many pages, slides or sections have begun."""
        return len(self._starts)

    def text(self) -> str:
        """All of it; ends with one line break."""
        text = "".join(self._parts).rstrip()
        return text + "\n" if text else ""

    def anchors(self, kind: str) -> str:
        """The parts as metadata. The first one counts from the text's beginning."""
        ends = [*self._starts[1:], self._length]
        return anchors(kind, [end - start for start, end in zip([0, *self._starts[1:]], ends, strict=True)])


def sound(text: str) -> str:
    """A text with one kind of line break and nothing that is no text."""
    return _UNSOUND.sub("\ufffd", _BREAKS.sub("\n", text))


def line(text: str) -> str:
    """A text on one line."""
    return _BLANK.sub(" ", " ".join(sound(text).split()))


def row(cells: Sequence[str]) -> str:
    """A row of a table; empty if all of its cells are. Empty cells at its end are left out."""
    flat = [line(cell).replace("|", "\\|") for cell in cells]
    while flat and not flat[-1]:
        flat.pop()
    return "| " + " | ".join(flat) + " |" if flat else ""
