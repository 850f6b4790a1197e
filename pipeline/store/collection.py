"""The Collection port over any engine that speaks Qdrant's points, filters and update modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np

from pipeline.cells import CELLS, Counts, no_counts
from pipeline.errors import BadVector, FingerprintMismatch, ForeignCollection
from pipeline.points import (
    Alignment,
    ChunkPoint,
    Head,
    HeadState,
    ScoredChunk,
    StoredChunk,
    Sweep,
    Vectors,
    Where,
    highest,
)
from pipeline.ports import CollectionSpec, Tallied
from pipeline.store import conditions
from pipeline.store.conditions import Filter, slices
from pipeline.store.payload import (
    CELLS_OF,
    Payload,
    aligned_payload,
    chunk_payload,
    head_of,
    head_payload,
    scored_chunk,
    stored_chunk,
    vector_of,
)

Mode = Literal["upsert", "insert_only", "update_only"]

#: Raised when the meaning of the payload changes.
FORMAT: Final = 2
_FOREIGN: Final = (
    "was it written by another program? delete the point, and `vectide verify --fix` writes what belongs there"
)
#: Clauses of one request; Qdrant answers 1,000 correctly in 0.1 s, strict mode may allow fewer.
_CLAUSES: Final = 256
_POINTS: Final = 256
_IDS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RawPoint:
    """A point as an engine has it."""

    id: str
    payload: Payload
    vector: object = None


class Engine(Protocol):
    """Points of one collection. Filters are Qdrant's REST JSON; every error is one of ours."""

    def upsert(
        self, points: Sequence[tuple[str, Vectors | None, Payload]], condition: Filter | None, mode: Mode
    ) -> None: ...
    def delete(self, matching: Filter) -> None: ...
    def set_payload(self, changes: Sequence[tuple[Filter, Payload]]) -> None: ...
    def retrieve(self, ids: Sequence[str], payload: bool, vector: bool) -> list[RawPoint]: ...
    def scroll(
        self, matching: Filter, limit: int, after: str | None, vector: bool, fields: Sequence[str] | None = None
    ) -> tuple[list[RawPoint], str | None]: ...
    def first_of_each(self, filters: Sequence[Filter]) -> list[RawPoint]: ...
    def search(self, vector: Vectors, matching: Filter, limit: int) -> list[tuple[RawPoint, float]]: ...
    def count(self, matching: Filter) -> int: ...
    def facet(self, key: str, matching: Filter, limit: int) -> dict[str, int]: ...
    def tally(self, key: str, limit: int) -> dict[int, int]: ...
    def rewrite(self, ids: Sequence[str], matching: Filter) -> None: ...
    def flush(self) -> None: ...


class PointCollection:
    """One collection: the port's rules as conditional requests.

    Args:
        spec: what it was made with.
        engine: where its points are.
        durable: a write is durable when it returns (a server), without :meth:`flush`.
    """

    def __init__(self, spec: CollectionSpec, engine: Engine, *, durable: bool) -> None:
        self._spec = spec
        self._engine = engine
        self._durable = durable

    @property
    def spec(self) -> CollectionSpec:
        """What it was made with."""
        return self._spec

    def heads(self, docs: Sequence[str], where: Where | None = None) -> dict[str, Head]:
        """The heads of these documents, those that pass ``where``."""
        found: list[RawPoint] = []
        for ids in slices(docs, _IDS):
            if where:
                matching = {"must": [{"has_id": ids}, conditions.equals("kind", "head"), *self._passing(where)]}
                found += self._engine.scroll(matching, len(ids), None, vector=False)[0]
            else:
                found += self._engine.retrieve(ids, payload=True, vector=False)
        return {head.doc: head for head in map(self._head, found)}

    def existing(self, chunk_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a point."""
        found: set[str] = set()
        for ids in slices(chunk_ids, _IDS):
            found |= {point.id for point in self._engine.retrieve(ids, payload=False, vector=False)}
        return found

    def vectors(self, content_hashes: Sequence[str]) -> dict[str, Vectors]:
        """For each content hash that some chunk here has, its vector."""
        found: dict[str, Vectors] = {}
        for hashes in slices(dict.fromkeys(content_hashes), _CLAUSES):
            # One answer for each hash: a text that occurs in ten thousand documents must not come
            # back ten thousand times.
            filters = [{"must": [conditions.equals("hash", content)]} for content in hashes]
            for point in self._engine.first_of_each(filters):
                vector = vector_of(point.vector)
                if vector is not None:
                    found[point.payload["hash"]] = vector
        return found

    def upsert_chunks(self, chunks: Sequence[ChunkPoint], fences: Mapping[str, int]) -> None:
        """Insert absent chunks; overwrite present ones below their document's fence.

        Raises:
            BadVector: a vector has the wrong shape or is not finite; nothing is written.
        """
        for chunk in chunks:
            # All before any: one bad vector would apply a request in part.
            if chunk.vector.shape != (self._spec.dimension,) or not np.isfinite(chunk.vector).all():
                raise BadVector(f"chunk {chunk.id}: not {self._spec.dimension} finite numbers")
        # Of equal ids in one request the last would win, whatever its stamp.
        for batch in slices(highest(chunks, lambda chunk: chunk.id), _POINTS):
            clauses = [
                conditions.fence(doc, fences[doc])
                for doc in dict.fromkeys(chunk.doc for chunk in batch)
                if doc in fences
            ]
            points = [(chunk.id, chunk.vector, chunk_payload(chunk)) for chunk in batch]
            if clauses:
                self._engine.upsert(points, conditions.any_of(clauses), "upsert")
            else:
                self._engine.upsert(points, None, "insert_only")

    def insert_heads(self, heads: Sequence[Head]) -> None:
        """Write heads of documents that have none."""
        for batch in slices(highest(heads, lambda head: head.doc), _POINTS):
            self._engine.upsert([(head.doc, None, head_payload(head)) for head in batch], None, "insert_only")

    def replace_heads(self, heads: Sequence[Head], read: Mapping[str, int]) -> None:
        """Overwrite each head only if it still has the stamp ``read[doc]``."""
        for batch in slices(highest(heads, lambda head: head.doc), _CLAUSES):
            condition = conditions.any_of([conditions.head_at(head.doc, read[head.doc]) for head in batch])
            points = [(head.doc, None, head_payload(head)) for head in batch]
            self._engine.upsert(points, condition, "update_only")

    def drop_tombstones(self, read: Mapping[str, int]) -> None:
        """Delete each head that is a tombstone and still has the stamp ``read[doc]``."""
        for batch in slices(list(read), _CLAUSES):
            self._engine.delete(conditions.any_of([conditions.tombstone_at(doc, read[doc]) for doc in batch]))

    def sweep(self, sweeps: Sequence[Sweep]) -> None:
        """Delete the chunks of each document that are not kept and not above its stamp."""
        for batch in slices(sweeps, _CLAUSES):
            self._engine.delete(conditions.any_of([conditions.swept(sweep) for sweep in batch]))

    def misaligned(self, alignments: Sequence[Alignment]) -> set[str]:
        """The documents for which :meth:`align` would change something."""
        found: set[str] = set()
        for batch in slices(alignments, _CLAUSES):
            matching = conditions.any_of([conditions.misaligned(alignment) for alignment in batch])
            found |= set(self._engine.facet("doc", matching, len(batch)))
        return found

    def align(self, alignments: Sequence[Alignment]) -> None:
        """Set filter fields, filter hash and stamp where the hash differs, up to each stamp."""
        for batch in slices(alignments, _CLAUSES):
            self._engine.set_payload(
                [
                    (
                        conditions.misaligned(one),
                        {**aligned_payload(one.doc, one.filters, one.filter_hash), "stamp": one.stamp},
                    )
                    for one in batch
                ]
            )

    def search(
        self, vector: Vectors, limit: int, where: Where | None = None, without: Sequence[str] = ()
    ) -> list[ScoredChunk]:
        """The chunks nearest to ``vector``, best first."""
        if limit < 1:
            return []
        matching: Filter = {"must": [conditions.equals("kind", "chunk"), *self._passing(where)]}
        if without:
            matching["must_not"] = [conditions.one_of("doc", without)]
        found = self._engine.search(vector, matching, limit)
        return [scored_chunk(point.id, point.payload, score) for point, score in found]

    def scan_heads(
        self, after: str | None = None, limit: int = 256, states: Sequence[HeadState] | None = None
    ) -> tuple[list[Head], str | None]:
        """A page of all heads, or of those in some states, by id."""
        if states is not None and not states:
            return [], None
        must = [conditions.equals("kind", "head")]
        if states is not None:
            must.append(conditions.one_of("state", states))
        points, following = self._engine.scroll({"must": must}, limit, after, vector=False)
        return [self._head(point) for point in points], following

    def scan_chunks(
        self, after: str | None = None, limit: int = 256, docs: Sequence[str] | None = None, vectors: bool = False
    ) -> tuple[list[StoredChunk], str | None]:
        """A page of all chunks, or of those of ``docs``, by id."""
        if docs is not None and not docs:
            return [], None
        must = [conditions.equals("kind", "chunk")]
        if docs is not None:
            must.append(conditions.one_of("doc", docs))
        points, following = self._engine.scroll({"must": must}, limit, after, vector=vectors)
        return [self._chunk(point) for point in points], following

    def tally(self, of: Tallied) -> Counts:
        """How many points there are in each cell.

        Raises:
            RequestRefused: the store does not count so many values.
        """
        counts = no_counts()
        for cell, count in self._engine.tally(CELLS_OF[of], CELLS).items():
            counts[cell] = count
        return counts

    def in_cells(
        self,
        of: Tallied,
        cells: Sequence[int],
        others: Sequence[int] | None = None,
        after: str | None = None,
        limit: int = 256,
    ) -> tuple[list[str], str | None]:
        """The documents of a page of points by their cells, in the order of the points' ids."""
        if not cells or (others is not None and not others):
            return [], None
        key = CELLS_OF[of]
        must = [conditions.one_of(key, cells)]
        if others is not None:
            must.append(conditions.one_of(key, others))
        points, following = self._engine.scroll({"must": must}, limit, after, vector=False, fields=("doc",))
        return [self._doc(point) for point in points], following

    def _head(self, point: RawPoint) -> Head:
        with self._named(point):
            return head_of(point.payload, self._spec.filter_fields)

    def _chunk(self, point: RawPoint) -> StoredChunk:
        with self._named(point):
            return stored_chunk(point.id, point.payload, self._spec.filter_fields, vector_of(point.vector))

    def _doc(self, point: RawPoint) -> str:
        with self._named(point):
            return str(point.payload["doc"])

    @contextmanager
    def _named(self, point: RawPoint) -> Iterator[None]:
        """Which point it is that cannot be read; whoever reads them all would not know."""
        at = f"point {point.id} of collection {self._spec.name}"
        try:
            yield
        except KeyError as error:
            raise ForeignCollection(f"{at} has no {error}", _FOREIGN) from None
        except ForeignCollection as error:
            raise ForeignCollection(f"{at}: {error.what}", _FOREIGN) from None

    def count_heads(self) -> dict[str, int]:
        """How many heads there are in each state."""
        return self._engine.facet("state", {"must": [conditions.equals("kind", "head")]}, 16)

    def count_chunks(self) -> int:
        """How many chunks there are."""
        return self._engine.count({"must": [conditions.equals("kind", "chunk")]})

    def _passing(self, where: Where | None) -> list[conditions.Condition]:
        return conditions.passing(where, self._spec.filter_fields)

    def mend(self, docs: Sequence[str]) -> None:
        """Make the indexes of these documents' points say what the points say."""
        for batch in slices(docs, _CLAUSES):
            chunks = conditions.any_of([{"must": [conditions.equals("doc", doc)]} for doc in batch])
            self._engine.rewrite(batch, chunks)

    def flush(self) -> None:
        """On return everything written before survives a power cut."""
        self._engine.flush()

    @property
    def flush_each_batch(self) -> bool:
        """True if a write is durable on return."""
        return self._durable


def metadata_of(spec: CollectionSpec) -> dict[str, Any]:
    """What is kept beside a collection to know it again."""
    return {
        "made_by": "vectide",
        "format": FORMAT,
        "generation": spec.generation,
        "dimension": spec.dimension,
        "distance": spec.distance,
        "model_fingerprint": spec.model_fingerprint,
        "chunking_fingerprint": spec.chunking_fingerprint,
        "filter_fields": dict(spec.filter_fields),
    }


def spec_of(name: str, metadata: Mapping[str, Any] | None) -> CollectionSpec:
    """What a collection was made with.

    Raises:
        ForeignCollection: not by vectide, or by a later one.
    """
    if not isinstance(metadata, Mapping) or metadata.get("made_by") != "vectide":
        raise ForeignCollection(
            f"collection {name} exists, and vectide did not make it",
            "use another pipeline.prefix or pipeline.name; vectide never writes into foreign collections",
        )
    if (found := metadata.get("format", 0)) != FORMAT:
        raise ForeignCollection(
            f"collection {name} has format {found}; this vectide knows {FORMAT}",
            "upgrade vectide"
            if isinstance(found, int) and found > FORMAT
            else "drop it, or use another pipeline.name: it is built anew from the log",
        )
    try:
        return msgspec.convert({**metadata, "name": name}, CollectionSpec)
    except (ValueError, RecursionError) as error:  # the former of msgspec, and of a text that is no Unicode
        raise ForeignCollection(
            f"collection {name} has metadata that cannot be read: {error}", "was it changed by another program?"
        ) from None


def check_same(wanted: CollectionSpec, present: CollectionSpec) -> None:
    """Refuse a collection of another model or chunking.

    Raises:
        FingerprintMismatch: it is one.
    """
    for what in ("model_fingerprint", "chunking_fingerprint", "dimension", "distance"):
        ours, theirs = getattr(wanted, what), getattr(present, what)
        if ours != theirs:
            raise FingerprintMismatch(
                f"collection {wanted.name} has {what} {theirs!r}, not {ours!r}",
                "start a migration to a new generation, or go back to the specs it was made with",
            )
