"""Blocks over the limit cut into pieces: at sentences, then at lines, then where the text itself says.

Unbroken text (a minified file, a log line of megabytes, a script without spaces) is cut where, in
a window behind the last cut, the hash of the characters before a place is lowest. An edit then
moves the cuts near it, and the next lowest place is soon the same as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from pipeline.chunking.places import Places
from pipeline.chunking.structure import Block

#: After the end of a sentence: with white space behind it, or without where scripts use none.
_SENTENCE: Final = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])")
_LINE: Final = re.compile(r"\n")


def split(text: str, block: Block, places: Places, low: int, high: int) -> Iterator[Block]:
    """The parts of a block, in order; together they have all of it but white space.

    Args:
        text: the document.
        block: over ``high``.
        places: of the document.
        low: least places of a part of unbroken text.
        high: most places of any part.
    """
    kind = block.kind
    patterns = (_LINE,) if kind == "lines" else (_SENTENCE, _LINE)
    for index, (start, end, unbroken) in enumerate(_parts(text, block.start, block.end, places, low, high, patterns)):
        part = replace(block, start=start, end=end, opens=block.opens and index == 0)
        if unbroken:
            part = replace(part, kind="piece")
        elif index > 0 and kind == "heading":
            part = replace(part, kind="prose")
        yield part


def stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _parts(
    text: str, start: int, end: int, places: Places, low: int, high: int, patterns: Sequence[re.Pattern[str]]
) -> Iterator[tuple[int, int, bool]]:
    if places.size(start, end) <= high:
        yield start, end, False
    elif patterns:
        for part_start, part_end in _between(text, start, end, patterns[0]):
            yield from _parts(text, part_start, part_end, places, low, high, patterns[1:])
    else:
        for part_start, part_end in _unbroken(text, start, end, places, low, high):
            yield part_start, part_end, True


def _between(text: str, start: int, end: int, at: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    last = start
    for match in at.finditer(text, start, end):
        if text[last : match.start()].strip():
            yield stripped(text, last, match.start())
        last = match.end()
    if text[last:end].strip():
        yield stripped(text, last, end)


def _unbroken(text: str, start: int, end: int, places: Places, low: int, high: int) -> Iterator[tuple[int, int]]:
    within = places.within(start, end)
    first, begin = 0, start
    while len(within) - first >= high:
        # The last of equals: text that repeats is cut into few pieces.
        index = min(range(first + low, first + high), key=lambda at: (*places.rank(within[at - 1]), -at)) - 1
        if text[begin : within[index]].strip():
            yield stripped(text, begin, within[index])
        first, begin = index + 1, within[index]
    if text[begin:end].strip():
        yield stripped(text, begin, end)
