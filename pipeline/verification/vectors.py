"""Whether chunks hold their own text, and vectors that the generation's model makes of it.

A chunk's id is a hash of its document and its text, so a stored text proves itself against the id
that the head lists. Its vector is held against what the model makes of the text now.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.embedding.batches import NORM_TOLERANCE, embed_all
from pipeline.identity import DocumentKey, chunk_id, content_hash
from pipeline.points import Head, StoredChunk, Vectors
from pipeline.ports import Collection, Embedder
from pipeline.verification.findings import EXAMPLES

#: What two runs of one model over one text agree in, whatever the batch, the device and, for half
#: precision, the rounding; other weights do not.
COSINE: Final = 0.999
#: Of the statement that a sample without a finding makes.
CONFIDENCE: Final = 0.95
#: A collection of fewer than so many times the sample is listed, and drawn from exactly. Of a larger
#: one a chunk is found by the id after a random one, which takes some more draws to say as much.
_LISTED: Final = 32
#: Texts of one call to the model, and chunks of one page.
_TEXTS: Final = 256
_DOCUMENTS: Final = 64


class _Item(NamedTuple):
    content_hash: str
    text: str
    tokens: int


class Checked(NamedTuple):
    """What chunks hold against the model."""

    wrong: Mapping[str, str]
    """Chunks whose vector is not what their text makes: by id, why not."""
    unchecked: Mapping[str, str]
    """Those whose text cannot be embedded here, which says nothing of them: by id, why not."""


class VectorCheck:
    """Holds chunks against the model of their generation.

    Args:
        embedder: the generation's own model.
        batch_tokens: padded tokens of one forward pass; what suits the model's device if None.
        batch_items: texts of one forward pass.
    """

    def __init__(self, embedder: Embedder, batch_tokens: int | None, batch_items: int) -> None:
        self._embedder = embedder
        self._batch_tokens = batch_tokens
        self._batch_items = batch_items

    def checked(self, chunks: Sequence[StoredChunk]) -> Checked:
        """Hold chunks with their vectors against what their texts make. Each text is embedded once; memory holds the
        vectors of all.

        Raises:
            Fatal: the model fails on any text.
            Transient: it cannot work now.
        """
        found: dict[str, str] = {}
        unchecked: dict[str, str] = {}
        sound: list[tuple[StoredChunk, Vectors]] = []
        for chunk in chunks:
            why = self._malformed(chunk.vector)
            if why:
                found[chunk.id] = why
            elif chunk.vector is not None:
                sound.append((chunk, chunk.vector))
        made, failed = self._made({chunk.text for chunk, _ in sound})
        for chunk, vector in sound:
            if chunk.text in failed:
                # Whoever has embedded it could: a smaller machine, or another device, is no fault of the store's.
                unchecked[chunk.id] = failed[chunk.text]
            elif why := self._differs(vector, made[chunk.text]):
                found[chunk.id] = why
        return Checked(found, unchecked)

    def _malformed(self, vector: Vectors | None) -> str:
        spec = self._embedder.spec
        if vector is None:
            return "it has no vector"
        if vector.shape != (spec.dimension,):
            return f"it has {vector.size} numbers, not {spec.dimension}"
        if not np.isfinite(vector).all():
            return "it is not finite"
        norm = float(np.linalg.norm(vector))
        if spec.normalize and abs(norm - 1.0) > NORM_TOLERANCE:
            return f"its length is {norm:.4g}, not 1"
        return ""

    def _differs(self, stored: Vectors, made: Vectors) -> str:
        lengths = float(np.linalg.norm(stored)), float(np.linalg.norm(made))
        cosine = float(stored @ made) / (lengths[0] * lengths[1]) if all(lengths) else float(lengths[0] == lengths[1])
        if cosine <= COSINE:
            return f"the model makes another one of its text (cosine {cosine:.4f})"
        # With the cosine as distance the store itself keeps no lengths.
        free = not self._embedder.spec.normalize and self._embedder.spec.distance != "cosine"
        if free and not math.isclose(*lengths, rel_tol=NORM_TOLERANCE):
            return f"its length is {lengths[0]:.4g}, and {lengths[1]:.4g} as the model makes it"
        return ""

    def _made(self, texts: set[str]) -> tuple[dict[str, Vectors], dict[str, str]]:
        ordered = sorted(texts)
        hashes = {content_hash(text): text for text in ordered}
        tokens = self._embedder.tokenizer.count(ordered) if ordered else []
        items = [_Item(content, text, count) for (content, text), count in zip(hashes.items(), tokens, strict=True)]
        made, failed = embed_all(self._embedder, items, self._batch_tokens, self._batch_items)
        return (
            {hashes[content]: vector for content, vector in made.items()},
            {hashes[content]: why for content, why in failed.items()},
        )


def wrong_text(chunk: StoredChunk, head: Head) -> str:
    """Why the text of a chunk that a head lists is not the one that its id was made of; empty if it is. Pure."""
    content = content_hash(chunk.text)
    if content != chunk.content_hash:
        return f"its text has the hash {content}, and it says {chunk.content_hash}"
    # Of equal texts each has its place among them in its id; there are no more than the list is long.
    if any(chunk_id(head.key, content, nth) == chunk.id for nth in range(len(head.chunks))):
        return ""
    return "its text is not the one that its id was made of"


@dataclass(frozen=True, slots=True)
class Sample:
    """What random chunks have shown."""

    seed: int
    asked: int
    """Chunks that were asked for."""
    looked: int
    """Chunks that were looked at, each once."""
    whole: int
    """Chunks of the collection when it began."""
    wrong: int
    reasons: tuple[tuple[str, str], ...] = ()
    """Of some wrong chunks their document's key and what is wrong."""
    unchecked: int = 0
    """Chunks that were drawn and whose text the model cannot embed here: nothing is said of their like."""

    @property
    def all(self) -> bool:
        """Every chunk was looked at, of those that the model can embed."""
        return self.looked + self.unchecked >= self.whole

    @property
    def bound(self) -> float:
        """With 95 % confidence, what part of the chunks is wrong at most, if none of the sample is."""
        if self.all:
            return 0.0
        checked = self.asked - self.unchecked
        return 1 - (1 - CONFIDENCE) ** (1 / checked) if checked > 0 else 1.0

    @property
    def statement(self) -> str:
        """What it shows, for people."""
        unchecked = f"; the model cannot embed {self.unchecked} more here" if self.unchecked else ""
        return self._shown() + unchecked

    def _shown(self) -> str:
        if not self.whole:
            return "there are no chunks"
        if self.all:
            return f"all {self.looked} chunks were looked at, {self.wrong} are wrong"
        if self.wrong:
            return f"{self.wrong} of {self.looked} random chunks are wrong (of {self.whole}; seed {self.seed})"
        return (
            f"none of {self.looked} random chunks is wrong (of {self.whole}; seed {self.seed}): with 95 % confidence "
            f"fewer than {self.bound:.2%} are"
        )

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the reports."""
        return {
            "seed": self.seed,
            "chunks": self.looked,
            "of": self.whole,
            "wrong": self.wrong,
            "unchecked": self.unchecked,
            "confidence": CONFIDENCE,
            "fewer_than": self.bound if not self.wrong else None,
            "reasons": [list(one) for one in self.reasons],
            "statement": self.statement,
        }


class Examined(NamedTuple):
    """Chunks that were held against their heads' lists, their texts and the model."""

    judged: int
    """How many; what no head lists is on its way in or out, and not judged."""
    unchecked: int
    """How many of them only by their text: the model cannot embed it here."""
    reasons: Mapping[str, tuple[DocumentKey, str]]
    """Of those that are wrong, by id, the document and what is wrong."""


def sample(
    collection: Collection,
    check: VectorCheck,
    count: int,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, whole: None,
) -> tuple[Sample, frozenset[str]]:
    """Look at random chunks: text and vector. While others write; memory holds a page of vectors.

    Args:
        collection: of the generation.
        check: with the generation's model.
        count: how many chunks; each as likely as any other.
        seed: of the choice.
        on_progress: told after each page how many of how many; what it raises ends the sample.

    Returns:
        What it shows, and the documents of wrong chunks, by their ids: a full look at these tells all.

    Raises:
        StoreUnavailable, StoreBusy: call again.
        Fatal, Transient: from the model.
    """
    whole = collection.count_chunks()
    places = _places(collection, count, whole, random.Random(seed))  # noqa: S311 - nothing secret
    seen: set[str] = set()
    wrong: dict[str, DocumentKey] = {}
    judged = unchecked = 0
    for start in range(0, len(places), _TEXTS):
        page = {chunk.id: chunk for place in places[start : start + _TEXTS] for chunk in _at(collection, place)}
        found = examined(collection, check, [chunk for id, chunk in page.items() if id not in seen])
        seen |= page.keys()
        judged += found.judged
        unchecked += found.unchecked
        wrong.update((id, key) for id, (key, _) in found.reasons.items())
        on_progress(min(start + _TEXTS, len(places)), len(places))
    # A second look: what a repair has mended, or a newer version removed, since the first is none.
    still: dict[str, tuple[DocumentKey, str]] = {}
    for chunks in _pages(collection, sorted({key.doc for key in wrong.values()})):
        still.update(examined(collection, check, [chunk for chunk in chunks if chunk.id in wrong]).reasons)
    reasons = sorted((key.text, why) for key, why in still.values())[:EXAMPLES]
    shown = Sample(seed, count, judged - unchecked, whole, len(still), tuple(reasons), unchecked)
    return shown, frozenset(key.doc for key, _ in still.values())


def examined(collection: Collection, check: VectorCheck, chunks: Sequence[StoredChunk]) -> Examined:
    """Hold chunks with their vectors against their heads' lists, their texts and the model."""
    heads = collection.heads(list(dict.fromkeys(chunk.doc for chunk in chunks)))
    listed = {chunk.id: head for head in heads.values() for chunk in head.chunks}
    owned = [(chunk, listed[chunk.id]) for chunk in chunks if chunk.id in listed and listed[chunk.id].doc == chunk.doc]
    checked = check.checked([chunk for chunk, _ in owned])
    wrong = dict(checked.wrong)
    for chunk, head in owned:
        why = wrong_text(chunk, head)
        if why:
            wrong[chunk.id] = why
    reasons = {chunk.id: (head.key, wrong[chunk.id]) for chunk, head in owned if chunk.id in wrong}
    return Examined(len(owned), len(checked.unchecked), reasons)


def _places(collection: Collection, count: int, whole: int, random_: random.Random) -> list[str]:
    """Ids; the chunk at or after each is drawn."""
    if whole <= _LISTED * count:
        return _sampled(_ids(collection), count, random_)
    # A chunk is as likely as the gap before its id is wide. Ids are hashes, so the gaps of k wrong
    # chunks together are as wide as a beta distribution says, and so many draws find one of them
    # with the confidence that `count` draws of equally likely chunks would.
    faults = whole * (1 - (1 - CONFIDENCE) ** (1 / count))
    draws = math.ceil(whole * ((1 - CONFIDENCE) ** (-1 / faults) - 1))
    return [str(uuid.UUID(int=random_.getrandbits(128))) for _ in range(draws)]


def _at(collection: Collection, place: str) -> list[StoredChunk]:
    """The chunk at or after an id; behind the last comes the first."""
    found, _ = collection.scan_chunks(place, 1, vectors=True)
    return found or collection.scan_chunks(None, 1, vectors=True)[0]


def _sampled(items: Iterator[str], count: int, random_: random.Random) -> list[str]:
    """So many of the items, all equally likely, in one pass."""
    kept: list[str] = []
    for place, item in enumerate(items):
        if place < count:
            kept.append(item)
        elif (chosen := random_.randrange(place + 1)) < count:
            kept[chosen] = item
    return kept


def _ids(collection: Collection) -> Iterator[str]:
    """Every chunk's id."""
    after: str | None = None
    while True:
        page, after = collection.scan_chunks(after, _TEXTS)
        yield from (chunk.id for chunk in page)
        if after is None:
            return


def _pages(collection: Collection, docs: Sequence[str]) -> Iterator[list[StoredChunk]]:
    """The chunks of documents, with their vectors."""
    for start in range(0, len(docs), _DOCUMENTS):
        after: str | None = None
        while True:
            page, after = collection.scan_chunks(after, _TEXTS, docs[start : start + _DOCUMENTS], vectors=True)
            yield page
            if after is None:
                break
