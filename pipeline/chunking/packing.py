"""Blocks packed into chunks by the model's tokens, so that an edit moves few boundaries.

1. Cut the text into blocks (structure). A block over the limit is cut at sentences, then at lines,
   and what is still over it at places that its own characters choose (splitting).
2. Pack neighbours. A boundary falls where a section begins; else, once half the target is
   reached, before a block whose first characters say so; else at the limit. None of this depends
   on what came long before, so boundaries behind an edit fall where they fell before. A heading
   stays with what is below it.
3. Count each chunk's tokens exactly, with its context; what does not fit is cut in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.chunking.places import Places, hash_of
from pipeline.chunking.splitting import split, stripped
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
#: So many characters of a block decide that. Few, so that an edit inside it rarely does.
_FIRST: Final = 16
#: The context takes at most this part of a chunk.
_CONTEXT: Final = 4


def chunk(text: str, media_type: str, spec: ChunkingSpec, tokenizer: Tokenizer) -> list[ChunkSpan]:
    """The chunks of a document, in reading order. Pure and deterministic.

    Every character that is not white space lies in exactly one span, and no chunk's embedded text
    (context + span) has more than ``spec.max_tokens`` tokens.

    Args:
        text: as extracted.
        media_type: decides the structure.
        spec: limits and context.
        tokenizer: the model's.

    Raises:
        Poison: the text is not Unicode (it has lone surrogates).
    """
    packer = _Packer(text, spec, tokenizer)
    return [
        ChunkSpan(
            draft.start,
            draft.end,
            content_hash(draft.context + text[draft.start : draft.end]),
            tokens,
            draft.headings,
            draft.context,
        )
        for draft, tokens in packer.fit(packer.pack(blocks(text, media_type)))
    ]


@dataclass(frozen=True, slots=True)
class _Draft:
    start: int
    end: int
    headings: tuple[str, ...]
    context: str


class _Packer:
    def __init__(self, text: str, spec: ChunkingSpec, tokenizer: Tokenizer) -> None:
        self._text = text
        self._spec = spec
        self._tokenizer = tokenizer
        self._places = Places(text, tokenizer.offsets(text))
        self._contexts: dict[tuple[str, ...], tuple[str, int]] = {(): ("", 0)}

    def pack(self, found: Sequence[Block]) -> list[_Draft]:
        """Steps 1 and 2."""
        drafts: list[_Draft] = []
        group: list[Block] = []
        size = 0
        for whole in found:
            for block in self._pieces(whole, group):
                tokens = self._size(block)
                if group and self._boundary(group, size, block, tokens):
                    kept = len(group) - len(_headings_at_end(group)) or len(group)
                    drafts.append(self._draft(group[:kept]))
                    group = group[kept:]
                    size = sum(map(self._size, group))
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
            if count <= self._spec.max_tokens or (draft.end - draft.start == 1 and not draft.context):
                fitted.append((draft, count))
            elif draft.end - draft.start == 1:
                fitted += self.fit([replace(draft, context="")])
            else:
                fitted += self.fit(self._halves(draft))
        return fitted

    def _pieces(self, block: Block, group: Sequence[Block]) -> list[Block]:
        """A block, or its parts if it is over the limit with the headings that it follows."""
        room = self._room(block.headings)
        above = sum(map(self._size, _headings_at_end(group)))
        room -= min(above, room // 2)
        if self._size(block) <= room:
            return [block]
        target = min(room, self._spec.target_tokens)
        low = max(1, target // 2)
        high = max(low + 1, min(room, target + target // 2))
        return list(split(self._text, block, self._places, low, high))

    def _boundary(self, group: Sequence[Block], size: int, block: Block, tokens: int) -> bool:
        target = self._spec.target_tokens
        if size + tokens > self._room(group[0].headings):
            return True
        if group[-1].kind == "heading":
            return False
        if block.opens:
            return size >= target // _TINY
        if size < target // 2:
            return False
        # A cut piece was given its size by its own text: packing it again would undo that.
        return size >= target or "piece" in (block.kind, group[-1].kind) or self._says_so(block)

    def _says_so(self, block: Block) -> bool:
        return hash_of(self._text[block.start : min(block.end, block.start + _FIRST)]) % _ANCHOR == 0

    def _size(self, block: Block) -> int:
        return self._places.size(block.start, block.end)

    def _draft(self, group: Sequence[Block]) -> _Draft:
        headings = group[0].headings
        for block in group[1:]:
            headings = _common(headings, block.headings)
        # A heading's own line is in the text already; above it stands only what it is part of.
        own = group[0].kind == "heading" and headings == group[0].headings
        context, _ = self._context(headings[:-1] if own else headings)
        return _Draft(group[0].start, group[-1].end, headings or group[0].headings[:1], context)

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

    def _halves(self, draft: _Draft) -> list[_Draft]:
        """Two parts, neither empty, so that cutting in two comes to an end."""
        places = self._places.within(draft.start, draft.end)
        middle = places[len(places) // 2] if places else (draft.start + draft.end) // 2
        return [
            replace(draft, start=start, end=end)
            for start, end in (
                stripped(self._text, draft.start, middle),
                stripped(self._text, middle, draft.end),
            )
        ]


def _headings_at_end(group: Sequence[Block]) -> Sequence[Block]:
    first = len(group)
    while first and group[first - 1].kind == "heading":
        first -= 1
    return group[first:]


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    shared = []
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared.append(a)
    return tuple(shared)
