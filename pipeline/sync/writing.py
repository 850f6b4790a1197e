"""Steps 3 and 4: chunks, then heads; and step 5 for the whole batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Final

import numpy as np

from pipeline.errors import BadVector
from pipeline.points import ChunkPoint, Head, HeadState, ListedChunk, Made, Vectors
from pipeline.ports import Collection
from pipeline.records import ChunkSpan
from pipeline.sync import guards
from pipeline.sync.batches import Failure, Outcome, Plan, PreparedBatch, Result
from pipeline.sync.foretelling import listed
from pipeline.sync.reading import embedded_text
from pipeline.sync.settling import settle

log = logging.getLogger(__name__)

#: How long the chunks of a deleted document stay as vector donors, in seconds: long enough for
#: the other half of a rename, which lies in another partition.
DONOR_SECONDS: Final = 10.0


@dataclass(slots=True)
class _Writing:
    """A plan with what is to be written for it."""

    plan: Plan
    head: Head | None = None
    chunks: list[ChunkPoint] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    embedded: int = 0


def write(
    prepared: PreparedBatch,
    vectors: Mapping[str, Vectors],
    failed: Mapping[str, str],
    donor_seconds: float = DONOR_SECONDS,
) -> list[Outcome]:
    """Steps 3 to 5 for a prepared batch; one outcome per document, in the batch's order.

    Args:
        prepared: from ``prepare``; any time may have passed since.
        vectors: by content hash, float32 [dimension], for what was to be embedded.
        failed: by content hash, why the model could not embed it.
        donor_seconds: how long a deleted document's chunks stay; 0 sweeps them now (``forget``).

    Raises:
        BadVector: a vector has the wrong shape or is not finite; nothing has been written.
    """
    if not prepared.plans:
        return []
    collection = prepared.collection
    _refuse_bad_vectors(vectors, collection.spec.dimension)
    available = {**prepared.found, **vectors}
    fresh = {item.content_hash for item in prepared.to_embed if item.content_hash in vectors}
    writings = [_composed(plan, available, failed, fresh) for plan in prepared.plans]
    write_points(collection, writings)
    # 5. By the heads as they are now, for every document of the batch.
    held = {writing.plan.doc for writing in writings if guards.holds(writing.chunks, donor_seconds)}
    expected = {writing.head.doc: writing.head.stamp for writing in writings if writing.head is not None}
    heads, lost = settle(
        collection,
        guards.settled(prepared.plans),
        expected,
        held,
    )
    # Stamps only grow: a head that is still what was read was moved by nobody, and yet it did not match.
    torn = [
        writing.plan.doc
        for writing in writings
        if writing.plan.doc in lost
        and (read := writing.plan.read) is not None
        and (now := heads.get(writing.plan.doc)) is not None
        and now.stamp == read.stamp
    ]
    if torn:
        log.warning("heads whose index says otherwise are written again", extra={"documents": len(torn)})
        collection.mend(torn)
    return [
        _outcome(writing, heads.get(writing.plan.doc), lost, donor_seconds if writing.plan.doc in held else None)
        for writing in writings
    ]


def upsert_slice(prepared: PreparedBatch, vectors: Mapping[str, Vectors]) -> None:
    """A part of step 3 ahead of the rest: the chunks that have these vectors, under the same fences.

    Whoever works on the batch after a crash finds them by content hash, so a big document repeats
    at most one slice. No head lists them yet, and no sweep takes them: their stamp is above the
    head's. ``write`` sends them once more.

    Args:
        prepared: from ``prepare``.
        vectors: by content hash, float32 [dimension].

    Raises:
        BadVector: a vector has the wrong shape or is not finite; nothing has been written.
    """
    collection = prepared.collection
    _refuse_bad_vectors(vectors, collection.spec.dimension)
    plans = [plan for plan in prepared.plans if any(span.content_hash in vectors for _, _, span in plan.needed)]
    chunks = [
        _point(plan, plan.stamp, id, span, vectors[span.content_hash])
        for plan in plans
        for _, id, span in plan.needed
        if span.content_hash in vectors and plan.stamp is not None
    ]
    if chunks:
        collection.upsert_chunks(chunks, guards.fences(plans))


def write_points(collection: Collection, writings: Sequence[_Writing]) -> None:
    """Steps 3 and 4, in this order: a head lists only points that exist."""
    upsert_chunks(collection, writings)
    compare_and_set(collection, writings)


def upsert_chunks(collection: Collection, writings: Sequence[_Writing]) -> None:
    """Step 3: chunks that the head read does not list, over anything below the event's stamp."""
    chunks = [chunk for writing in writings for chunk in writing.chunks]
    if chunks:
        collection.upsert_chunks(
            chunks,
            guards.fences(writing.plan for writing in writings if writing.chunks),
        )


def compare_and_set(collection: Collection, writings: Sequence[_Writing]) -> None:
    """Step 4: each head over exactly what was read: nothing, or one stamp. Step 5 sees who won."""
    absent = [writing.head for writing in writings if writing.head is not None and writing.plan.read is None]
    present = [writing for writing in writings if writing.head is not None and writing.plan.read is not None]
    if absent:
        collection.insert_heads(absent)
    if present:
        collection.replace_heads(
            [writing.head for writing in present if writing.head is not None],
            guards.read_stamps(writing.plan for writing in present),
        )


def _composed(
    plan: Plan,
    available: Mapping[str, Vectors],
    failed: Mapping[str, str],
    fresh: set[str],
) -> _Writing:
    """The head and the chunks of a plan. ``fresh`` loses the hashes that it accounts for."""
    writing = _Writing(plan)
    if plan.stamp is None:
        return writing
    document = plan.document
    for index, id, span in plan.needed:
        if span.content_hash not in available:
            if span.content_hash not in failed:
                raise ValueError(f"no vector and no failure for {span.content_hash}, chunk {index} of {document.key}")
            writing.failures.append(Failure(index, span.content_hash, failed[span.content_hash]))
            continue
        if span.content_hash in fresh:
            fresh.discard(span.content_hash)
            writing.embedded += 1
        writing.chunks.append(_point(plan, plan.stamp, id, span, available[span.content_hash]))
    writing.head = _with_cost(_head(plan, plan.stamp, writing.failures), writing)
    read = plan.read
    # Of this very version: a newer one that failed in the same words must still move the head.
    same = read is not None and read.version == document.version and changed(writing.head, stamp=read.stamp) == read
    if same and not writing.chunks and not plan.again:
        writing.head = None  # a replay that failed as before: nothing to say, and no attempt spent
    return writing


def _with_cost(head: Head, writing: _Writing) -> Head:
    if head.state not in ("complete", "incomplete"):
        return head
    kept = sum(chunk.id in writing.plan.kept for chunk in head.chunks)
    return changed(head, made=Made(writing.embedded, kept, len(writing.chunks) - writing.embedded))


def _point(plan: Plan, stamp: int, id: str, span: ChunkSpan, vector: Vectors) -> ChunkPoint:
    document = plan.document
    return ChunkPoint(
        id,
        plan.doc,
        stamp,
        span.content_hash,
        embedded_text(document, span),
        plan.fields.values,
        plan.fields.hash,
        vector,
    )


def _head(plan: Plan, stamp: int, failures: Sequence[Failure]) -> Head:
    document = plan.document
    state: HeadState
    reason = document.reason
    match document.state:
        case "deleted":
            state = "deleted"
        case "failed" | "omitted":
            state = document.state
        case "chunked":
            state = "incomplete" if failures else "complete"
            reason = failures[0].reason if failures else ""
            if failures and len(failures) == len(document.chunks):
                state = "failed"  # nothing of it can be served: the old chunks stay readable
    if state in ("failed", "omitted"):
        listed, missing, content_version = _inherited(plan)
    else:
        listed, missing, content_version = _own(plan, failures)
    return Head(
        key=document.key,
        stamp=stamp,
        state=state,
        content_version=content_version,
        event_time=document.provenance.event_time,
        chunks=listed,
        # New even where the content is old: a revoked permission must not wait for a fix.
        metadata=dict(document.metadata),
        filters=plan.fields.values,
        filter_hash=plan.fields.hash,
        reason=reason,
        missing=missing,
    )


def _own(plan: Plan, failures: Sequence[Failure]) -> tuple[tuple[ListedChunk, ...], tuple[int, ...], int]:
    missing = {failure.place for failure in failures}
    chunks = listed(plan.document, plan.ids)
    served = tuple(chunk for index, chunk in enumerate(chunks) if index not in missing)
    return served, tuple(sorted(missing)), plan.document.version


def _inherited(plan: Plan) -> tuple[tuple[ListedChunk, ...], tuple[int, ...], int]:
    if plan.read is None:
        return (), (), -1  # there never was a content
    # Without those that a power cut took: a head lists only points that exist.
    listed = tuple(chunk for chunk in plan.read.chunks if chunk.id in plan.kept)
    return listed, plan.read.missing, plan.read.content_version


def _outcome(writing: _Writing, head: Head | None, lost: set[str], held_seconds: float | None) -> Outcome:
    plan = writing.plan
    result: Result = plan.result
    if plan.doc in lost:
        result = "again"
    elif writing.head is not None:
        result = "stale" if head is not None and head.stamp > writing.head.stamp else writing.head.state
    elif plan.stamp is not None:
        result = "unchanged"
    listed = set() if writing.head is None else {chunk.id for chunk in writing.head.chunks}
    before = set() if plan.read is None else {chunk.id for chunk in plan.read.chunks}
    return Outcome(
        document=plan.document,
        result=result,
        stamp=-1 if head is None else head.stamp,
        embedded=writing.embedded,
        listed=len(listed & plan.kept),
        copied=len(writing.chunks) - writing.embedded,
        written=len(writing.chunks),
        removed=0 if writing.head is None else len(before - listed),
        failures=tuple(writing.failures),
        rejected_fields=plan.fields.rejected,
        sweep_after=held_seconds if head is not None and head.state == "deleted" else None,
        poison=plan.poison,
    )


def _refuse_bad_vectors(vectors: Mapping[str, Vectors], dimension: int) -> None:
    for content, vector in vectors.items():
        # All before any: one bad vector would apply a request in part.
        if vector.shape != (dimension,) or not np.isfinite(vector).all():
            raise BadVector(f"the vector of {content} is not {dimension} finite numbers (shape {vector.shape})")
