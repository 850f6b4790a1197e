"""Places where a text may be cut, and how much lies between them."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

#: Bytes of text before a place that decide its hash: enough to be rarely the same, few enough
#: that an edit disturbs only the places right behind it.
_WINDOW: Final = 16
#: A token or a gap longer than this counts as several: WordPiece makes one unknown token of a word
#: of megabytes, and no tokenizer counts white space or control characters that it leaves out.
_LONG: Final = 32
#: Inside such a stretch one place in so many is taken, and none nearer to the last one.
_ODDS: Final = 16
_NEAR: Final = 8
_FACTORS: Final = tuple(pow(0x9E3779B1, power, 1 << 32) for power in range(1, _WINDOW + 1))


class Places:
    """The starts of a text's tokens in order, with more of them inside long stretches.

    The number of places in a span is its size: the tokens that it has as a part of the whole text,
    which may be a token more or less than on its own.

    Args:
        text: the document.
        offsets: the spans of its tokens.
    """

    def __init__(self, text: str, offsets: Iterable[tuple[int, int]]) -> None:
        self._text = text
        # 8 bytes a token: a list of spans would be ten times the document.
        self._starts = array("q")
        last = 0
        for start, _ in offsets:
            if start - last > _LONG:
                self._starts.extend(_inside(text, last, start))
            self._starts.append(start)
            last = start
        if len(text) - last > _LONG:
            self._starts.extend(_inside(text, last, len(text)))

    def size(self, start: int, end: int) -> int:
        """How many there are in a span."""
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def within(self, start: int, end: int) -> array[int]:
        """Those in a span, its start left out."""
        return self._starts[bisect_left(self._starts, start + 1) : bisect_left(self._starts, end)]

    def rank(self, place: int) -> tuple[bool, int]:
        """Decides between places, the lowest first, by nothing but the characters before each.

        Between words is better than inside of one, unless there are no words.
        """
        before = self._text[max(0, place - _WINDOW) : place]
        inside = not before[-1:].isspace() and before.split(maxsplit=1) != [before]
        return inside, hash_of(before)


def hash_of(text: str) -> int:
    """24 bits, the same on every machine and version."""
    # The low bits of a crc32 of short texts are not random enough, so they are mixed.
    return (zlib.crc32(text.encode("utf-8", "surrogatepass")) * 0x9E3779B1 & 0xFFFFFFFF) >> 8


def _inside(text: str, start: int, end: int) -> Iterator[int]:
    """Places between two others, chosen by the characters before them: 16 characters apart or so,
    and never more than 64.
    """
    codes = np.frombuffer(text[start:end].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    mixed = np.zeros(len(codes), dtype=np.uint32)
    for back, factor in enumerate(_FACTORS[: len(codes)]):
        mixed[back:] += codes[: len(codes) - back] * np.uint32(factor)
    chosen = np.flatnonzero((mixed >> np.uint32(16)) % _ODDS == 0) + start + 1
    last = start
    for place in (*chosen.tolist(), end):
        while place - last > 2 * _LONG:
            last += 2 * _LONG
            yield last
        if last + _NEAR <= place < end:
            last = place
            yield place
