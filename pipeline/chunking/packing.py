"""Blocks packed into chunks by the model's tokens, so that an edit moves few boundaries.

1. Cut the text into blocks (structure). A block over the limit is cut into sentences or lines,
   and what is still over it at content-defined places between tokens.
2. Pack neighbours. A boundary falls where a section begins; else, once half the target is
   reached, before a block whose own hash says so; else at the limit. Since a block's hash does not
   depend on what is before it, boundaries after an edit fall where they fell before.
3. Count each chunk's tokens exactly, with its context; what does not fit is cut in two.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.chunking.structure import Block, blocks
from pipeline.identity import content_hash
from pipeline.ports import Tokenizer
from pipeline.records import ChunkSpan
from pipeline.specs import ChunkingSpec

#: Raise it whenever any document would be cut differently or embedded with another context:
#: it is part of the fingerprint, so that a change of this code is a new generation.
ALGORITHM: Final = 1

#: A section ends a chunk only if the chunk has at least this part of the target: a heading with
#: one line below it is no chunk of its own.
_TINY: Final = 6
#: From half the target on, one block in so many begins a new chunk.
_ANCHOR: Final = 2
#: The context takes at most this part of a chunk.
_CONTEXT: Final = 4
_SENTENCE: Final = re.compile(r"(?<=[.!?。！？])[\"')\]]*\s+|\n")
_LINE: Final = re.compile(r"\n")
#: Bytes around a place in unbroken text that decide whether it is a boundary.
_WINDOW: Final = 16


def chunk(text: str, media_type: str, spec: ChunkingSpec, tokenizer: Tokenizer) -> list[ChunkSpan]:
    """The chunks of a document, in reading order. Pure and deterministic.

    Every character that is not white space lies in exactly one span, and no chunk's embedded text
    (context + span) has more than ``spec.max_tokens`` tokens.

    Args:
        text: as extracted.
        media_type: decides the structure.
        spec: limits and context.
        tokenizer: the model's.
    """
    offsets = _Tokens(tokenizer.offsets(text))
    packer = _Packer(text, spec, tokenizer, offsets)
    drafts = packer.pack(blocks(text, media_type))
    fitted = packer.fit(drafts)
    return [
        ChunkSpan(
            draft.start,
            draft.end,
            content_hash(draft.context + text[draft.start : draft.end]),
            tokens,
            draft.headings,
            draft.context,
        )
        for draft, tokens in fitted
    ]


@dataclass(frozen=True, slots=True)
class _Draft:
    start: int
    end: int
    headings: tuple[str, ...]
    context: str


class _Tokens:
    """Token counts of spans, from one tokenisation of the whole text. An estimate: a span on its
    own may have a token more or less at its ends.
    """

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        self.starts = [start for start, _ in offsets]

    def count(self, start: int, end: int) -> int:
        return bisect_left(self.starts, end) - bisect_left(self.starts, start)

    def between(self, start: int, end: int) -> list[int]:
        return self.starts[bisect_left(self.starts, start) : bisect_left(self.starts, end)]


class _Packer:
    def __init__(self, text: str, spec: ChunkingSpec, tokenizer: Tokenizer, tokens: _Tokens) -> None:
        self._text = text
        self._spec = spec
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._contexts: dict[tuple[str, ...], tuple[str, int]] = {(): ("", 0)}

    def pack(self, found: Sequence[Block]) -> list[_Draft]:
        """Steps 1 and 2."""
        drafts: list[_Draft] = []
        group: list[Block] = []
        size = 0
        for block in (piece for whole in found for piece in self._pieces(whole)):
            tokens = self._tokens.count(block.start, block.end)
            if group and self._boundary(group, size, block, tokens):
                drafts.append(self._draft(group))
                group, size = [], 0
            group.append(block)
            size += tokens
        if group:
            drafts.append(self._draft(group))
        return drafts

    def fit(self, drafts: Sequence[_Draft]) -> list[tuple[_Draft, int]]:
        """Step 3."""
        counts = self._tokenizer.count([draft.context + self._text[draft.start : draft.end] for draft in drafts])
        fitted: list[tuple[_Draft, int]] = []
        for draft, count in zip(drafts, counts, strict=True):
            if count <= self._spec.max_tokens:
                fitted.append((draft, count))
            elif draft.context and draft.end - draft.start == 1:
                fitted += self.fit([replace(draft, context="")])
            elif draft.end - draft.start == 1:
                fitted.append((draft, count))  # one character; no tokenizer gives it more than a few
            else:
                fitted += self.fit(self._halves(draft))
        return fitted

    def _boundary(self, group: Sequence[Block], size: int, block: Block, tokens: int) -> bool:
        target = self._spec.target_tokens
        if size + tokens > self._room(group[0].headings):
            return True
        if block.opens:
            return size >= target // _TINY
        if size >= target:
            return True
        return size >= target // 2 and self._hash(block.start, block.end) % _ANCHOR == 0

    def _draft(self, group: Sequence[Block]) -> _Draft:
        headings = group[0].headings
        for block in group[1:]:
            headings = _common(headings, block.headings)
        # A heading's own line is in the text already; above it stands only what it is part of.
        above = headings[:-1] if group[0].opens and headings == group[0].headings else headings
        return _Draft(group[0].start, group[-1].end, headings or group[0].headings[:1], self._context(above)[0])

    def _room(self, headings: tuple[str, ...]) -> int:
        return self._spec.max_tokens - self._context(headings)[1]

    def _context(self, headings: tuple[str, ...]) -> tuple[str, int]:
        """What is embedded before the text, and its tokens: outer headings go first when it is too long."""
        if self._spec.context == "none":
            return "", 0
        if headings not in self._contexts:
            context = " > ".join(headings) + "\n\n"
            (count,) = self._tokenizer.count([context])
            within = count <= self._spec.max_tokens // _CONTEXT
            self._contexts[headings] = (context, count) if within else self._context(headings[1:])
        return self._contexts[headings]

    def _pieces(self, block: Block) -> Iterator[Block]:
        """A block, or its parts if it is over the limit."""
        if self._tokens.count(block.start, block.end) <= self._room(block.headings):
            yield block
            return
        first = True
        for start, end in self._split(block.start, block.end, _SENTENCE if block.kind == "prose" else _LINE):
            if self._tokens.count(start, end) <= self._room(block.headings):
                spans: Iterator[tuple[int, int]] = iter([(start, end)])
            else:
                spans = self._unbroken(start, end, self._room(block.headings))
            for piece_start, piece_end in spans:
                yield replace(block, start=piece_start, end=piece_end, opens=block.opens and first)
                first = False

    def _split(self, start: int, end: int, at: re.Pattern[str]) -> Iterator[tuple[int, int]]:
        last = start
        for match in at.finditer(self._text, start, end):
            if self._text[last : match.start()].strip():
                yield self._stripped(last, match.start())
                last = match.end()
        if self._text[last:end].strip():
            yield self._stripped(last, end)

    def _unbroken(self, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
        """Text without sentences or lines: cut between tokens, where the characters before say so."""
        target = min(self._spec.target_tokens, limit)
        least = max(1, target // 2)
        # An average run of half a target after the least gives chunks near the target.
        odds = max(1, target // 2)
        starts = self._tokens.between(start, end)
        if not starts:  # characters that the tokenizer leaves out
            yield start, end
            return
        first, begin = 0, start
        for index in range(1, len(starts)):
            size = index - first
            # The least is counted from the last boundary, so a wrong start is forgotten at the first
            # boundary that lies a least behind both.
            if size >= limit or (
                size >= least and self._hash(max(begin, starts[index] - _WINDOW), starts[index]) % odds == 0
            ):
                if self._text[begin : starts[index]].strip():
                    yield self._stripped(begin, starts[index])
                first, begin = index, starts[index]
        if self._text[begin:end].strip():
            yield self._stripped(begin, end)

    def _halves(self, draft: _Draft) -> list[_Draft]:
        starts = [place for place in self._tokens.between(draft.start, draft.end) if place > draft.start]
        middle = starts[len(starts) // 2] if starts else (draft.start + draft.end) // 2
        spans = [
            self._stripped(a, b) for a, b in ((draft.start, middle), (middle, draft.end)) if self._text[a:b].strip()
        ]
        return [replace(draft, start=start, end=end) for start, end in spans]

    def _stripped(self, start: int, end: int) -> tuple[int, int]:
        part = self._text[start:end]
        return start + len(part) - len(part.lstrip()), start + len(part.rstrip())

    def _hash(self, start: int, end: int) -> int:
        # crc32 is the same on every machine and version; its low bits are not random enough for
        # short texts, so they are mixed.
        value = zlib.crc32(self._text[start:end].encode("utf-8", "surrogatepass"))
        return (value * 0x9E3779B1 & 0xFFFFFFFF) >> 8


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    shared = []
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared.append(a)
    return tuple(shared)
