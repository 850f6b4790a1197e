"""A store in memory: the port's rules in plain Python, for tests, trials and one-off indexes.

It keeps nothing when the process ends. Order is deterministic everywhere (by id, ties in a search
too), and what goes in or comes out is never shared with the caller: a value that is changed
outside afterwards does not change the store.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.cells import CELLS, Counts, chunk_cell, document_cells, head_cells
from pipeline.errors import BadVector, CollectionMissing, FingerprintMismatch
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


class MemoryStore:
    """The Store port over a dict of collections; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collections: dict[str, MemoryCollection] = {}
        self._aliases: dict[str, str] = {}

    def create(self, spec: CollectionSpec) -> MemoryCollection:
        """Make a collection, or open the one that is there.

        Raises:
            FingerprintMismatch: it exists for another model, chunking, dimension or distance.
        """
        with self._lock:
            present = self._collections.get(spec.name)
            if present is None:
                present = self._collections[spec.name] = MemoryCollection(spec)
                return present
        for what in (
            "model_fingerprint",
            "chunking_fingerprint",
            "dimension",
            "distance",
        ):
            ours, theirs = getattr(spec, what), getattr(present.spec, what)
            if ours != theirs:
                raise FingerprintMismatch(
                    f"collection {spec.name} has {what} {theirs!r}, not {ours!r}",
                    "start a migration to a new generation, or go back to the specs it was made with",
                )
        return present

    def open(self, name: str) -> MemoryCollection:
        """Open a collection.

        Raises:
            CollectionMissing: there is none of that name.
        """
        with self._lock:
            try:
                return self._collections[name]
            except KeyError:
                raise CollectionMissing(f"there is no collection {name}", "resolve the live generation anew") from None

    def names(self, prefix: str) -> list[str]:
        """The collections whose names start with ``prefix``, sorted."""
        with self._lock:
            return sorted(name for name in self._collections if name.startswith(prefix))

    def defer_index(self, name: str) -> None:
        """Nothing to do: there is never an index."""

    def build_index(self, name: str) -> bool:
        """True: there is never an index."""
        return True

    def size(self, name: str) -> int:
        """Bytes of a collection's vectors."""
        collection = self.open(name)
        return collection.count_chunks() * collection.spec.dimension * 4

    def purge(self, name: str) -> bool:
        """True: there are no files."""
        self.open(name)
        return True

    def drop(self, name: str) -> None:
        """Delete a collection and, as a server does, every alias of it."""
        with self._lock:
            dropped = self._collections.pop(name, None)
            self._aliases = {alias: target for alias, target in self._aliases.items() if target != name}
        if dropped is not None:
            dropped.close()

    def point_alias(self, alias: str, name: str) -> None:
        """Make ``alias`` mean ``name``.

        Raises:
            CollectionMissing: there is no such collection; the alias stays as it was.
        """
        self.open(name)
        with self._lock:
            self._aliases[alias] = name

    def alias(self, alias: str) -> str | None:
        """The collection that ``alias`` means."""
        with self._lock:
            return self._aliases.get(alias)

    def check(self) -> None:
        """Always there."""

    def close(self) -> None:
        """Nothing to release; the collections stay until the store is forgotten."""


class MemoryCollection:
    """The Collection port over dicts; safe for several threads, each method atomic."""

    def __init__(self, spec: CollectionSpec) -> None:
        self._spec = replace(spec, filter_fields=dict(spec.filter_fields))
        self._lock = threading.RLock()
        self._closed = False
        self._heads: dict[str, Head] = {}
        self._chunks: dict[str, ChunkPoint] = {}
        self._of_doc: dict[str, set[str]] = {}
        self._of_hash: dict[str, set[str]] = {}
        self._matrix: tuple[list[str], Vectors] | None = None

    @property
    def spec(self) -> CollectionSpec:
        """What it was made with."""
        return self._spec

    def heads(self, docs: Sequence[str], where: Where | None = None) -> dict[str, Head]:
        """The heads of these documents, those that pass ``where``."""
        with self._opened():
            found = {doc: self._heads[doc] for doc in docs if doc in self._heads}
        return {doc: _copied_head(head) for doc, head in found.items() if _passes(head.filters, where)}

    def existing(self, chunk_ids: Sequence[str]) -> set[str]:
        """Those of the ids that have a point."""
        with self._opened():
            return {id for id in chunk_ids if id in self._chunks}

    def vectors(self, content_hashes: Sequence[str]) -> dict[str, Vectors]:
        """For each content hash that some chunk here has, its vector (shape [dimension])."""
        with self._opened():
            donors = {content: min(self._of_hash[content]) for content in content_hashes if content in self._of_hash}
            return {content: self._chunks[id].vector for content, id in donors.items()}

    def upsert_chunks(self, chunks: Sequence[ChunkPoint], fences: Mapping[str, int]) -> None:
        """Insert absent chunks; overwrite present ones below their document's fence.

        Raises:
            BadVector: a vector has the wrong shape or is not finite; nothing is written.
        """
        copies = [_copied_chunk(chunk, self._spec.dimension) for chunk in chunks]
        with self._opened():
            for chunk in highest(copies, lambda chunk: chunk.id):
                id = chunk.id
                present = self._chunks.get(id)
                if present is None:
                    self._put(chunk)
                elif present.doc in fences and not present.stamp >= fences[present.doc]:
                    self._remove(id)
                    self._put(chunk)

    def insert_heads(self, heads: Sequence[Head]) -> None:
        """Write heads of documents that have none; present ones stay as they are."""
        with self._opened():
            for head in highest(heads, lambda head: head.doc):
                self._heads.setdefault(head.doc, _copied_head(head))

    def replace_heads(self, heads: Sequence[Head], read: Mapping[str, int]) -> None:
        """Overwrite each head only if it still has the stamp ``read[doc]``. Never inserts."""
        with self._opened():
            for head in highest(heads, lambda head: head.doc):
                present = self._heads.get(head.doc)
                if present is not None and present.stamp == read[head.doc]:
                    self._heads[head.doc] = _copied_head(head)

    def drop_tombstones(self, read: Mapping[str, int]) -> None:
        """Delete each head that is a tombstone and still has the stamp ``read[doc]``."""
        with self._opened():
            for doc, stamp in read.items():
                head = self._heads.get(doc)
                if head is not None and head.state == "deleted" and head.stamp == stamp:
                    del self._heads[doc]

    def sweep(self, sweeps: Sequence[Sweep]) -> None:
        """Delete the chunks of each document that are not kept and not above its stamp."""
        with self._opened():
            for sweep in sweeps:
                for id in self._ids(sweep.doc):
                    if id not in sweep.keep and not self._chunks[id].stamp > sweep.stamp:
                        self._remove(id)

    def misaligned(self, alignments: Sequence[Alignment]) -> set[str]:
        """The documents for which :meth:`align` would change something."""
        with self._opened():
            return {alignment.doc for alignment in alignments if self._differing(alignment)}

    def align(self, alignments: Sequence[Alignment]) -> None:
        """Set filter fields, filter hash and stamp where the hash differs, up to each stamp."""
        with self._opened():
            for alignment in alignments:
                for id in self._differing(alignment):
                    self._chunks[id] = replace(
                        self._chunks[id],
                        filters=_copied(alignment.filters),
                        filter_hash=alignment.filter_hash,
                        stamp=alignment.stamp,
                    )

    def search(
        self,
        vector: Vectors,
        limit: int,
        where: Where | None = None,
        without: Sequence[str] = (),
    ) -> list[ScoredChunk]:
        """The chunks nearest to ``vector``, best first, by an exact scan.

        The score is the similarity (cosine, dot), or the distance where the spec says euclid.
        """
        query = np.asarray(vector, dtype=np.float32)
        excluded = frozenset(without)
        with self._opened():
            if self._matrix is None:
                ids = sorted(self._chunks)
                rows = np.zeros((len(ids), self._spec.dimension), dtype=np.float32)
                for row, id in enumerate(ids):
                    rows[row] = self._chunks[id].vector
                self._matrix = ids, rows
            ids, rows = self._matrix
            scores = self._scores(rows, query)
            # A stable sort over ids in order: ties come out by id.
            order = np.argsort(scores if self._spec.distance == "euclid" else -scores, kind="stable")
            hits: list[ScoredChunk] = []
            for row in order:
                if len(hits) >= limit:
                    break
                chunk = self._chunks[ids[row]]
                if chunk.doc not in excluded and _passes(chunk.filters, where):
                    hits.append(
                        ScoredChunk(
                            chunk.id,
                            chunk.doc,
                            float(scores[row]),
                            chunk.text,
                            chunk.stamp,
                            chunk.content_hash,
                        )
                    )
            return hits

    def scan_heads(
        self, after: str | None = None, limit: int = 256, states: Sequence[HeadState] | None = None
    ) -> tuple[list[Head], str | None]:
        """A page of heads by document id, and where the next page starts (None: the end)."""
        with self._opened():
            docs = (doc for doc, head in self._heads.items() if states is None or head.state in states)
            page, following = _page(docs, after, limit)
            return [_copied_head(self._heads[doc]) for doc in page], following

    def scan_chunks(
        self,
        after: str | None = None,
        limit: int = 256,
        docs: Sequence[str] | None = None,
        vectors: bool = False,
    ) -> tuple[list[StoredChunk], str | None]:
        """A page of all chunks, or of those of ``docs``, by id; see scan_heads."""
        with self._opened():
            ids: Iterable[str] = self._chunks
            if docs is not None:
                ids = {id for doc in docs for id in self._of_doc.get(doc, ())}
            page, following = _page(ids, after, limit)
            return [_stored(self._chunks[id], vectors) for id in page], following

    def tally(self, of: Tallied) -> Counts:
        """How many points there are in each cell."""
        with self._opened():
            cells = np.fromiter((cell for _, _, has in self._tallied(of) for cell in has), dtype=np.int64)
        return np.bincount(cells, minlength=CELLS).astype(np.int64)

    def in_cells(
        self,
        of: Tallied,
        cells: Sequence[int],
        others: Sequence[int] | None = None,
        after: str | None = None,
        limit: int = 256,
    ) -> tuple[list[str], str | None]:
        """The documents of a page of points by their cells, in the order of the points' ids."""
        wanted, as_well = set(cells), None if others is None else set(others)
        with self._opened():
            docs = {
                id: doc
                for id, doc, has in self._tallied(of)
                if wanted.intersection(has) and (as_well is None or as_well.intersection(has))
            }
            page, following = _page(docs, after, limit)
            return [docs[id] for id in page], following

    def count_heads(self) -> dict[str, int]:
        """How many heads there are in each state."""
        with self._opened():
            return dict(Counter(head.state for head in self._heads.values()))

    def count_chunks(self) -> int:
        """How many chunks there are."""
        with self._opened():
            return len(self._chunks)

    def mend(self, docs: Sequence[str]) -> None:
        """Nothing to do: there are no indexes."""

    def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    @property
    def flush_each_batch(self) -> bool:
        """True: there is nothing to flush, so every batch may be committed at once."""
        return True

    def close(self) -> None:
        """Refuse every later call: the collection was dropped."""
        with self._lock:
            self._closed = True

    def _opened(self) -> threading.RLock:
        if self._closed:
            raise CollectionMissing(
                f"collection {self._spec.name} was dropped",
                "resolve the live generation anew",
            )
        return self._lock

    def _tallied(self, of: Tallied) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Ids, documents and cells of the points that a tally counts."""
        if of in ("heads", "tombstones"):
            state = "complete" if of == "heads" else "deleted"
            return ((doc, doc, head_cells(head)) for doc, head in self._heads.items() if head.state == state)
        if of == "documents":
            return ((id, chunk.doc, document_cells(chunk.doc, chunk.filter_hash)) for id, chunk in self._chunks.items())
        return ((id, chunk.doc, (chunk_cell(id),)) for id, chunk in self._chunks.items())

    def _ids(self, doc: str) -> list[str]:
        return sorted(self._of_doc.get(doc, ()))

    def _differing(self, alignment: Alignment) -> list[str]:
        return [
            id
            for id in self._ids(alignment.doc)
            if self._chunks[id].filter_hash != alignment.filter_hash and not self._chunks[id].stamp > alignment.stamp
        ]

    def _put(self, chunk: ChunkPoint) -> None:
        self._chunks[chunk.id] = chunk
        self._of_doc.setdefault(chunk.doc, set()).add(chunk.id)
        self._of_hash.setdefault(chunk.content_hash, set()).add(chunk.id)
        self._matrix = None

    def _remove(self, id: str) -> None:
        chunk = self._chunks.pop(id)
        for index, value in (
            (self._of_doc, chunk.doc),
            (self._of_hash, chunk.content_hash),
        ):
            index[value].discard(id)
            if not index[value]:
                del index[value]
        self._matrix = None

    def _scores(self, rows: Vectors, query: Vectors) -> Vectors:
        if self._spec.distance == "euclid":
            distances: Vectors = np.linalg.norm(rows - query, axis=1).astype(np.float32)
            return distances
        products: Vectors = rows @ query
        if self._spec.distance == "dot":
            return products
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        # A zero vector is similar to nothing, rather than NaN.
        cosines: Vectors = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        return cosines


def _page(ids: Iterable[str], after: str | None, limit: int) -> tuple[list[str], str | None]:
    ordered = sorted(id for id in ids if after is None or id >= after)
    return ordered[:limit], ordered[limit] if len(ordered) > limit else None


def _passes(filters: Mapping[str, Any], where: Where | None) -> bool:
    return all(any(_matches(filters.get(name), wanted) for wanted in values) for name, values in (where or {}).items())


def _matches(value: Any, wanted: str | float | bool) -> bool:
    if isinstance(value, list):
        return any(_matches(item, wanted) for item in value)
    # True == 1 in Python, but not in a store.
    return value is not None and isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _copied(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in mapping.items()}


def _copied_head(head: Head) -> Head:
    return replace(head, metadata=_copied(head.metadata), filters=_copied(head.filters))


def _copied_chunk(chunk: ChunkPoint, dimension: int) -> ChunkPoint:
    vector = np.array(chunk.vector, dtype=np.float32)
    if vector.shape != (dimension,):
        raise BadVector(f"chunk {chunk.id} has a vector of shape {vector.shape}, the collection needs ({dimension},)")
    if not np.isfinite(vector).all():
        raise BadVector(f"chunk {chunk.id} has a vector that is not finite")
    vector.setflags(write=False)  # so that it can be handed out without another copy
    return replace(chunk, filters=_copied(chunk.filters), vector=vector)


def _stored(chunk: ChunkPoint, vectors: bool) -> StoredChunk:
    return StoredChunk(
        chunk.id,
        chunk.doc,
        chunk.stamp,
        chunk.content_hash,
        chunk.text,
        _copied(chunk.filters),
        chunk.filter_hash,
        chunk.vector if vectors else None,
    )
