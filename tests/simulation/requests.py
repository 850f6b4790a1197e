"""A collection of which every request is a moment where others may come in, and its running checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pipeline.cells import Counts
from pipeline.errors import StoreUnavailable
from pipeline.points import Alignment, ChunkPoint, Head, HeadState, StoredChunk, Sweep, Vectors, Where
from pipeline.ports import Collection, CollectionSpec, Tallied
from tests.simulation.moments import Moments

T = TypeVar("T")


class Diverged(AssertionError):
    """Something that must never be was seen."""


class Witness:
    """Looks at the documents that a write touched, right after it.

    A head never goes back, never vanishes and never changes under its stamp; a failure keeps the
    list that was readable; and, unless a power cut has taken points, every listed chunk is there.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.seen: dict[str, Head] = {}
        self.power_was_cut = False
        self.lost: set[str] = set()
        """Points that were taken away by hand."""

    def look(self, docs: Iterable[str]) -> None:
        docs = list(dict.fromkeys(docs))
        heads = self.collection.heads(docs)
        listed = {chunk.id for head in heads.values() for chunk in head.chunks}
        there = self.collection.existing(list(listed)) if listed else set()
        for doc in docs:
            before, head = self.seen.get(doc), heads.get(doc)
            if head is None:
                if before is not None:
                    raise Diverged(f"the head of {doc[:4]} vanished")
                continue
            if before is not None and before.stamp > head.stamp:
                raise Diverged(f"the head of {doc[:4]} went back from {before.stamp} to {head.stamp}")
            if before is not None and before.stamp == head.stamp and before != head:
                raise Diverged(f"the head of {doc[:4]} changed under its stamp {head.stamp}")
            if not self.power_was_cut:
                gone = [chunk.id for chunk in head.chunks if chunk.id not in there | self.lost]
                if gone:
                    raise Diverged(f"a gap: the head of {doc[:4]} at {head.stamp} lists {[id[:4] for id in gone]}")
                kept = () if before is None else [one for one in before.chunks if one.id not in self.lost]
                listed_still = [one for one in head.chunks if one.id not in self.lost]
                if before is not None and head.state in ("failed", "omitted") and kept != listed_still:
                    raise Diverged(f"the failure at {head.stamp} changed what is readable of {doc[:4]}")
            self.seen[doc] = head

    def power_cut(self, docs: Iterable[str]) -> None:
        self.power_was_cut = True
        self.seen = {}
        self.look(docs)


class Stepped:
    """The Collection port; each request waits for its turn.

    Args:
        inner: the store.
        moments: whose turn it is.
        witness: looks on after each write.
        durable: writes need no flush.
        torn: the chance that a request is applied in parts.
        unanswered: the chance that a write is applied and then fails.
    """

    def __init__(
        self, inner: Collection, moments: Moments, witness: Witness, *, durable: bool, torn: float, unanswered: float
    ) -> None:
        self.inner = inner
        self._moments = moments
        self._witness = witness
        self._durable = durable
        self._torn = torn
        self._unanswered = unanswered

    @property
    def spec(self) -> CollectionSpec:
        return self.inner.spec

    @property
    def flush_each_batch(self) -> bool:
        return self._durable

    # ------------------------------------------------------------------------------ reads

    def heads(self, docs: Sequence[str], where: Where | None = None) -> dict[str, Head]:
        found: dict[str, Head] = {}
        for part in self._parts(docs):
            self._moments.wait("read heads", part)
            found |= self.inner.heads(part, where)
        return found

    def existing(self, chunk_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for part in self._parts(chunk_ids):
            self._moments.wait("which exist", part)
            found |= self.inner.existing(part)
        return found

    def vectors(self, content_hashes: Sequence[str]) -> dict[str, Vectors]:
        self._moments.wait("find vectors", content_hashes)
        return self.inner.vectors(content_hashes)

    def misaligned(self, alignments: Sequence[Alignment]) -> set[str]:
        self._moments.wait("which are misaligned", alignments)
        return self.inner.misaligned(alignments)

    def scan_heads(
        self, after: str | None = None, limit: int = 256, states: Sequence[HeadState] | None = None
    ) -> tuple[list[Head], str | None]:
        self._moments.wait("scan heads", states or "")
        return self.inner.scan_heads(after, limit, states)

    def scan_chunks(
        self, after: str | None = None, limit: int = 256, docs: Sequence[str] | None = None, vectors: bool = False
    ) -> tuple[list[StoredChunk], str | None]:
        self._moments.wait("scan chunks", docs or "")
        return self.inner.scan_chunks(after, limit, docs, vectors)

    def tally(self, of: Tallied) -> Counts:
        self._moments.wait("tally", of)
        return self.inner.tally(of)

    def in_cells(
        self,
        of: Tallied,
        cells: Sequence[int],
        others: Sequence[int] | None = None,
        after: str | None = None,
        limit: int = 256,
    ) -> tuple[list[str], str | None]:
        self._moments.wait("points in cells", of)
        return self.inner.in_cells(of, cells, others, after, limit)

    def count_heads(self) -> dict[str, int]:
        self._moments.wait("count heads", "")
        return self.inner.count_heads()

    def count_chunks(self) -> int:
        self._moments.wait("count chunks", "")
        return self.inner.count_chunks()

    # ----------------------------------------------------------------------------- writes

    def upsert_chunks(self, chunks: Sequence[ChunkPoint], fences: Mapping[str, int]) -> None:
        for part in self._parts(chunks):
            self.write("upsert chunks", part, {c.doc for c in part}, partial(self.inner.upsert_chunks, part, fences))

    def insert_heads(self, heads: Sequence[Head]) -> None:
        for part in self._parts(heads):
            self.write("insert heads", part, {h.doc for h in part}, partial(self.inner.insert_heads, part))

    def replace_heads(self, heads: Sequence[Head], read: Mapping[str, int]) -> None:
        for part in self._parts(heads):
            what = [(head, read[head.doc]) for head in part]
            self.write("replace heads", what, {h.doc for h in part}, partial(self.inner.replace_heads, part, read))

    def sweep(self, sweeps: Sequence[Sweep]) -> None:
        for part in self._parts(sweeps):
            self.write("sweep", part, {s.doc for s in part}, partial(self.inner.sweep, part))

    def align(self, alignments: Sequence[Alignment]) -> None:
        for part in self._parts(alignments):
            self.write("align", part, {a.doc for a in part}, partial(self.inner.align, part))

    def write(self, what: str, arguments: Any, docs: Iterable[str], apply: Callable[[], None]) -> None:
        """One write, seen by the witness; mutants send theirs through it as well."""
        self._moments.wait(what, arguments)
        apply()
        self._witness.look(docs)
        if self._unanswered and self._moments.random.random() < self._unanswered:
            self._moments.note("no answer", "")
            raise StoreUnavailable("applied, and not answered")

    def _parts(self, items: Sequence[T]) -> list[list[T]]:
        items = list(items)
        if len(items) > 1 and self._torn and self._moments.random.random() < self._torn:
            at = self._moments.random.randrange(1, len(items))
            return [items[:at], items[at:]]
        return [items]
