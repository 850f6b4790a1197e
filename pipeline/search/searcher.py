"""Search that never shows too much: every hit is held against its document's head.

1. Embed the query with the model of the very collection that is searched.
2. One vector search for chunks, one request for the heads of their documents *with the caller's
   own filter*. A hit that its head does not list, or whose head does not pass, is dropped.
3. If that leaves too few, search again without the documents that were dropped: three rounds at
   most, then the answer says ``complete: false``.

A deleted or re-permissioned document is therefore gone with its head, whatever chunks are left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.anchors import ANCHORS, Place, place
from pipeline.errors import ConfigError, FingerprintMismatch
from pipeline.identity import MetadataValue
from pipeline.points import Head, ListedChunk, ScoredChunk, Where
from pipeline.ports import Collection, Embedder

_ROUNDS: Final = 3
#: Chunks asked for beyond the wanted hits, so that one document with many hits, or a few stale
#: ones, seldom costs a second round.
_OVERSAMPLE: Final = 2
MAX_TOP: Final = 1_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers, with what its document's head says about it."""

    key: str
    """``source:path``."""
    score: float
    text: str
    span: tuple[int, int]
    """Half-open, in code points of the document's text."""
    headings: tuple[str, ...]
    metadata: Mapping[str, MetadataValue]
    state: str
    """The head's state: ``complete``, or why the text may be older or partial."""
    version: int
    """The version whose text this is."""
    place: Place | None = None
    """The pages or slides that it lies on, where the document has such."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the service."""
        return {
            "key": self.key,
            "score": self.score,
            "text": self.text,
            "span": list(self.span),
            "headings": list(self.headings),
            "place": None if self.place is None else self.place._asdict(),
            "metadata": dict(self.metadata),
            "state": self.state,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search found."""

    hits: list[Hit]
    complete: bool
    """False if fewer hits than asked for were found although there may be more."""
    generation: str
    model: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the service."""
        return {
            "hits": [hit.as_json() for hit in self.hits],
            "complete": self.complete,
            "generation": self.generation,
            "model": self.model,
            "seconds": round(self.seconds, 6),
        }


class Searcher:
    """Searches one collection with its own model.

    Raises:
        FingerprintMismatch: the model is not the one that made the collection's vectors.
    """

    def __init__(self, collection: Collection, embedder: Embedder) -> None:
        if embedder.spec.fingerprint != collection.spec.model_fingerprint:
            raise FingerprintMismatch(
                f"model {embedder.spec.name} has fingerprint {embedder.spec.fingerprint}; the vectors of "
                f"{collection.spec.name} were made by {collection.spec.model_fingerprint}",
                "search with the model of the live generation, or migrate to the new model",
            )
        self._collection = collection
        self._embedder = embedder

    @property
    def generation(self) -> str:
        """Of the collection."""
        return self._collection.spec.generation

    def search(self, query: str, top: int = 5, where: Where | None = None, *, by_document: bool = False) -> Answer:
        """The ``top`` best hits, best first.

        Args:
            query: a text; the model's query prompt is added.
            top: how many, 1 to 1,000.
            where: values for declared filter fields; all fields must match, each by any value.
            by_document: at most one hit, the best, of each document.

        Raises:
            ConfigError: ``top`` is out of range, or a filter field is not declared.
            StoreUnavailable, StoreBusy: ask again.
        """
        started = time.monotonic()
        self._check(top, where)
        vector = self._embedder.embed_query(query)
        hits, complete = self._find(
            lambda limit, without: self._collection.search(vector, limit, where, without), top, where, by_document
        )
        spec = self._collection.spec
        return Answer(hits, complete, spec.generation, self._embedder.spec.name, time.monotonic() - started)

    def _find(
        self,
        search: Callable[[int, Sequence[str]], list[ScoredChunk]],
        top: int,
        where: Where | None,
        by_document: bool,
    ) -> tuple[list[Hit], bool]:
        hits: dict[str, tuple[ScoredChunk, Hit]] = {}
        replaced: set[str] = set()
        without: list[str] = []
        limit = top * _OVERSAMPLE
        for _ in range(_ROUNDS):
            found = search(limit, without)
            docs = list(dict.fromkeys(chunk.doc for chunk in found))
            heads = self._collection.heads(docs, where)
            # A head without a list (deleted, or never readable) refuses as one that is not there.
            listed = {
                doc: (head, {chunk.id: chunk for chunk in head.chunks}) for doc, head in heads.items() if head.chunks
            }
            # A later look at a head counts: what it lists no more is no hit any more.
            hits = {
                name: (chunk, hit)
                for name, (chunk, hit) in hits.items()
                if chunk.doc not in docs or (chunk.doc in listed and chunk.id in listed[chunk.doc][1])
            }
            unlisted = set()
            for chunk in found:
                head, chunks = listed.get(chunk.doc, (None, {}))
                if head is not None and chunk.id in chunks:
                    name = chunk.doc if by_document else chunk.id
                    hits.setdefault(name, (chunk, _hit(chunk, head, chunks[chunk.id])))
                elif head is not None:
                    unlisted.add(chunk.id)
            exhausted = len(found) < limit
            # A head that was replaced between the search and the look at it lists chunks that only a
            # later search finds. One more look tells: what is unlisted again was left by a dead writer.
            moved = bool(unlisted - replaced)
            replaced |= unlisted
            if (len(hits) >= top or exhausted) and not moved:
                return self._best(hits, top), True
            # A document is left out only if its head refused it; one stale chunk of a live document
            # must not hide its others, so then more is asked for instead.
            refused = [doc for doc in docs if doc not in listed]
            grouped = [doc for doc in docs if doc in hits] if by_document else []
            without = list(dict.fromkeys([*without, *refused, *grouped]))
            limit = min(2 * limit, MAX_TOP * _OVERSAMPLE)
        return self._best(hits, top), False

    def _best(self, hits: Mapping[str, tuple[ScoredChunk, Hit]], top: int) -> list[Hit]:
        """Rounds find in their own order; a distance is the better the smaller it is."""
        nearer = -1 if self._collection.spec.distance == "euclid" else 1
        return sorted((hit for _, hit in hits.values()), key=lambda hit: -nearer * hit.score)[:top]

    def _check(self, top: int, where: Where | None) -> None:
        if not 1 <= top <= MAX_TOP:
            raise ConfigError(f"top = {top} is out of range", f"ask for 1 to {MAX_TOP} hits")
        declared = self._collection.spec.filter_fields
        for name, values in (where or {}).items():
            if not values:
                raise ConfigError(f"filter {name!r} has no value", "leave it out to match every document")
            if name not in declared:
                raise ConfigError(
                    f"{name!r} is not a declared filter field (declared: {', '.join(sorted(declared)) or 'none'})",
                    "declare it under pipeline.filter_fields; a new field means a new generation",
                )


def parse_where(arguments: Sequence[str]) -> Where:
    """``key=value`` arguments to a filter; the same key twice means either value.

    Raises:
        ConfigError: an argument has no ``=``.
    """
    where: dict[str, tuple[str | int | float | bool, ...]] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise ConfigError(f"filter {argument!r} is not of the form key=value", "for example --filter source=docs")
        where[name] = (*where.get(name, ()), value)
    return where


def typed_where(where: Where, collection: Collection) -> Where:
    """A filter of strings, with the types of the declared fields.

    Raises:
        ConfigError: a value does not fit its field's type.
    """
    return {
        name: tuple(_typed(name, value, collection.spec.filter_fields.get(name, "keyword")) for value in values)
        for name, values in where.items()
    }


def _typed(name: str, value: Any, kind: str) -> str | int | float | bool:
    try:
        match kind:
            case "integer":
                number = int(value)
                if not -(1 << 63) <= number < 1 << 63:  # the store keeps integers in 64 bits
                    raise ValueError
                return number
            case "float":
                real = float(value)
                if not math.isfinite(real):
                    raise ValueError
                return real
            case "bool":
                return {"true": True, "false": False}[str(value).lower()]
            case _:
                return str(value)
    except (ValueError, KeyError):
        raise ConfigError(f"filter {name}={value} does not fit the field's type {kind}") from None


def _hit(chunk: ScoredChunk, head: Head, listed: ListedChunk) -> Hit:
    text = chunk.text
    return Hit(
        key=head.key.text,
        score=chunk.score,
        # The stored text is what was embedded, its heading context first; the span's own text is its end.
        text=text[len(text) - (listed.end - listed.start) :],
        span=(listed.start, listed.end),
        headings=listed.headings,
        metadata={name: value for name, value in head.metadata.items() if name != ANCHORS},
        state=head.state,
        version=head.content_version,
        # The anchors are those of the newest version, and so must the span be.
        place=place(head.metadata.get(ANCHORS), listed.start, listed.end)
        if head.content_version == head.version
        else None,
    )
