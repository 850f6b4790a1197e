"""Where the pages, slides or sections of a document begin: beside its text, not in it.

Metadata, so that a page more at the front embeds nothing: a heading ``Page 12`` would be embedded with
each of its chunks, and every later page would have another one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

#: The name of the metadata.
ANCHORS: Final = "anchors"


class Place(NamedTuple):
    """Where a span lies: ``page 12``, or pages 12 to 13."""

    kind: str
    first: int
    """Counted from 1."""
    last: int

    def __str__(self) -> str:
        return f"{self.kind} {self.first}" + (f"-{self.last}" if self.last > self.first else "")


def anchors(kind: str, lengths: Sequence[int]) -> str:
    """As metadata: the kind, then of each part in order how many code points of the text are its."""
    return " ".join([kind, *map(str, lengths)])


def place(found: object, start: int, end: int) -> Place | None:
    """Where a half-open span lies; None if the document has no such parts, or it lies behind them.

    Args:
        found: the document's metadata of that name. Whatever somebody else wrote there is no place.
        start: of the span, in code points.
        end: of the span.
    """
    kind, *lengths = found.split(" ") if isinstance(found, str) else [""]
    if not kind or not lengths or not all(length.isdecimal() and length.isascii() for length in lengths):
        return None
    ends = list(accumulate(int(length[:9]) for length in lengths))
    if end > ends[-1] or start >= end:
        return None
    # A part without text ends where it begins, and is never what a character lies in.
    return Place(kind, bisect_right(ends, start) + 1, bisect_right(ends, end - 1) + 1)
