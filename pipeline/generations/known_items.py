"""Queries whose one answer is known, drawn from the documents themselves.

One full pass over a collection looks at every chunk that a head lists. Of the texts met, those
with the lowest seeded hashes are kept: a uniform sample of all *distinct* texts that does not
depend on the order of the pass. A text that is kept at the end was kept since it was first met, so
whether another document has it too is known for certain, and memory is bounded by the sample.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pipeline.errors import ConfigError
from pipeline.points import Head, ListedChunk, StoredChunk
from pipeline.ports import Collection

MAX_ITEMS: Final = 10_000
#: Texts kept for each item that is wanted: some turn out to be in several documents, and with a
#: choice, each document is asked for once before any is asked for twice.
_SPARE: Final = 4
#: A head can list thousands of chunks, so a page has few.
_HEADS: Final = 64
_CHUNKS: Final = 256
#: A shorter sentence says too little to have one answer.
_SENTENCE_WORDS: Final = 4
_HEADING_WORDS: Final = 3
#: Characters of a query: the first sentence of a minified file is all of it.
_LONGEST: Final = 300

#: A sentence ends at its mark, or a closing one behind it (without white space where scripts use none),
#: or at an empty line.
_END: Final = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+|(?<=[。！？])|\n\s*\n")
#: Marks of headings, lists and quotes before the first word.
_MARKS: Final = re.compile(r"^[\W_]+")
#: A character of a script that has no spaces between words (Thai to Khmer, kana, Han) counts as one.
_WORD: Final = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+"
)


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A query and the one document that it was drawn from."""

    query: str
    key: str
    """``source:path``."""


def known_items(collection: Collection, count: int, seed: int) -> list[KnownItem]:
    """Up to ``count`` queries, sentence and heading path by turns; fewer if there are no more texts.

    A sentence is the first one of a chunk's own text that has four words or more, without the
    heading's line and cut at 300 characters; a heading path has three words or more. A text that
    several documents have (whatever its case and white space) is left out: it has no single answer.
    Equal for equal contents and seeds, whatever the order of the store.

    Args:
        collection: whose documents; all of it is read once.
        count: 1 to 10,000.
        seed: another one draws others.

    Raises:
        ConfigError: ``count`` is out of range.
        StoreUnavailable, StoreBusy: draw again.
    """
    if not 1 <= count <= MAX_ITEMS:
        raise ConfigError(f"{count} known items are out of range", f"draw 1 to {MAX_ITEMS}")
    sentences, paths = _Sample(count * _SPARE, seed), _Sample(count * _SPARE, seed)
    for head, listed, chunk in _listed(collection):
        path = " ".join(listed.headings)
        if _words(path) >= _HEADING_WORDS:
            paths.offer(_cut(path), head.key.text)
        sentence = _sentence(chunk.text[len(chunk.text) - (listed.end - listed.start) :], listed.headings)
        if sentence:
            sentences.offer(sentence, head.key.text)
    return _by_turns(sentences.items(), paths.items(), count)


class _Sample:
    """The texts with the lowest hashes, each with its document, or None where several have it."""

    def __init__(self, most: int, seed: int) -> None:
        self._most = most
        self._seed = seed
        self._kept: dict[int, KnownItem | None] = {}
        self._highest: list[int] = []
        """The hashes of what is kept, negated: a heap has its lowest first."""

    def offer(self, query: str, key: str) -> None:
        hashed = self._hash(query)
        if hashed in self._kept:
            kept = self._kept[hashed]
            if kept is not None:
                # Of spellings that differ in case, one whatever the order of the pass.
                self._kept[hashed] = KnownItem(min(kept.query, query), key) if kept.key == key else None
        elif len(self._kept) < self._most:
            self._kept[hashed] = KnownItem(query, key)
            heapq.heappush(self._highest, -hashed)
        elif hashed < -self._highest[0]:
            self._kept[hashed] = KnownItem(query, key)
            del self._kept[-heapq.heapreplace(self._highest, -hashed)]

    def items(self) -> list[KnownItem]:
        """By hash, but each document's first before any document's second."""
        items = [item for _, item in sorted(self._kept.items(), key=lambda entry: entry[0]) if item is not None]
        met: Counter[str] = Counter()
        turns = []
        for item in items:
            turns.append(met[item.key])
            met[item.key] += 1
        return [item for _, item in sorted(zip(turns, items, strict=True), key=lambda turn: turn[0])]

    def _hash(self, query: str) -> int:
        text = f"{self._seed}\0{query.casefold()}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")


def _listed(collection: Collection) -> Iterator[tuple[Head, ListedChunk, StoredChunk]]:
    """Every chunk that lies in the collection and that a head, not of a deleted document, lists."""
    after: str | None = None
    while True:
        page, after = collection.scan_heads(after, _HEADS)
        heads = {
            head.doc: (head, {listed.id: listed for listed in head.chunks})
            for head in page
            if head.state != "deleted" and head.chunks
        }
        following: str | None = None
        while heads:
            chunks, following = collection.scan_chunks(following, _CHUNKS, list(heads))
            for chunk in chunks:
                head, listed = heads[chunk.doc]
                if chunk.id in listed:
                    yield head, listed[chunk.id], chunk
            if following is None:
                break
        if after is None:
            return


def _by_turns(sentences: list[KnownItem], paths: list[KnownItem], count: int) -> list[KnownItem]:
    """Every second a heading path, as long as there are both; no query twice."""
    items: dict[str, KnownItem] = {}
    kinds = deque(sentences), deque(paths)
    while len(items) < count and any(kinds):
        kind = kinds[len(items) % 2] or kinds[1 - len(items) % 2]
        item = kind.popleft()
        items.setdefault(item.query.casefold(), item)
    return list(items.values())


def _sentence(text: str, headings: tuple[str, ...]) -> str | None:
    """The first sentence that is long enough, below the heading's own line."""
    titles = {tuple(_WORD.findall(heading)) for heading in headings} | {()}
    lines = text.split("\n")
    while lines and tuple(_WORD.findall(lines[0])) in titles:
        del lines[0]
    for part in _END.split("\n".join(lines)):
        if _words(part) >= _SENTENCE_WORDS:
            return _cut(_MARKS.sub("", " ".join(part.split())))
    return None


def _words(text: str) -> int:
    return len(_WORD.findall(text))


def _cut(query: str) -> str:
    """At most so many characters, cut between words where there are any."""
    if len(query) <= _LONGEST:
        return query
    whole, _, _ = query[: _LONGEST + 1].rpartition(" ")
    return whole or query[:_LONGEST]
