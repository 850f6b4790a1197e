"""The decisions of the store protocol that convergence hangs on, one small function each.

The simulation replaces each of them by a weaker one and must notice; keep them free of requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from pipeline.errors import LogDiverged, Poison
from pipeline.identity import ATTEMPTS, attempt_in, stamp_of
from pipeline.points import Alignment, ChunkPoint, Head, Sweep
from pipeline.records import ChunkedDocument
from pipeline.sync.batches import Plan

Standing: TypeAlias = Literal["stale", "equal", "newer"]


def newest(documents: Iterable[ChunkedDocument]) -> dict[str, ChunkedDocument]:
    """One event per document: the highest version, a replay before its original, else the last."""
    kept: dict[str, ChunkedDocument] = {}
    for document in documents:
        present = kept.get(document.key.doc)
        if present is None or (document.version, document.replay) >= (
            present.version,
            present.replay,
        ):
            kept[document.key.doc] = document
    return kept


def standing(head: Head | None, document: ChunkedDocument) -> Standing:
    """An event against the head that step 1 read: by version, whatever attempt the head is at."""
    if head is None or document.version > head.version:
        return "newer"
    return "stale" if document.version < head.version else "equal"


def kept(head: Head, present: set[str]) -> frozenset[str]:
    """The points that need no write: listed *and* there.

    Listed alone is not enough: after a power cut the head can be there and the point not, and its
    own event can be hidden behind a newer one of the same batch. There alone is not enough: a dead
    writer's leftover is about to be swept by somebody.
    """
    return frozenset(chunk.id for chunk in head.chunks if chunk.id in present)


def reruns(head: Head, document: ChunkedDocument, lost: bool, begun: bool, other: bool) -> bool:
    """Whether an event equal to its head runs again, at attempt + 1.

    It does when a listed point is lost (a power cut takes what was not flushed), when another run
    was begun and cut off before its head (its chunks are above the head, so no sweep takes them,
    and they are embedded already), when it is a replay whose head is ``other`` than it leads to, or
    a replay that can better the head. A redelivery as such never does: a document stays incomplete
    until somebody asks, or every restart would try its poison again.
    """
    if lost or begun or other:
        return True
    return document.replay and document.state == "chunked" and head.state in ("incomplete", "failed", "omitted")


def rerun_stamp(head: Head) -> int:
    """The stamp of another run of the head's own version: attempt + 1, so that what an older run
    still sends (its sweep knows a shorter list) is below it.

    Raises:
        Poison: all attempts at this version are used up.
    """
    attempt = attempt_in(head.stamp) + 1
    if attempt >= ATTEMPTS:
        raise Poison(
            "attempts_exhausted",
            f"version {head.version} of {head.key.text} was run {ATTEMPTS} times; publish the document again",
        )
    return stamp_of(head.version, attempt)


def refuse_divergence(head: Head, document: ChunkedDocument, ids: list[str]) -> None:
    """An offset names one content for ever; an equal version with another content is a reused offset.

    Raises:
        LogDiverged: the head's version is this event's, and its content is not.
    """
    if document.replay:
        return  # a replay may carry what a repaired chunker made of the version
    same = (head.state == "deleted") == (document.state == "deleted")
    if same and document.state == "chunked" and head.state == "complete" and head.content_version == document.version:
        same = [chunk.id for chunk in head.chunks] == ids
    if not same:
        raise LogDiverged(
            f"version {document.version} of {head.key.text} is in the store with another content",
            "the log was replaced or its offsets were reused: start a new epoch and a new generation from it",
        )


def fences(plans: Iterable[Plan]) -> dict[str, int]:
    """Step 3: a present chunk of the document is overwritten only below this stamp."""
    return {plan.doc: plan.stamp for plan in plans if plan.stamp is not None}


def read_stamps(plans: Iterable[Plan]) -> dict[str, int]:
    """Step 4: the compare-and-set is over the very stamp that step 1 read."""
    return {plan.doc: plan.read.stamp for plan in plans if plan.read is not None}


def settled(plans: Iterable[Plan]) -> list[str]:
    """Step 5 is for every document of the batch. A stale event too: its writer may have died
    with chunks in the store, and this redelivery is all that ever comes to sweep them.
    """
    return [plan.doc for plan in plans]


def holds(written: Sequence[ChunkPoint], donor_seconds: float) -> bool:
    """Whether step 5 leaves a deleted document's chunks for a rename to reuse, and comes back for them.

    Not where this writer has written some of them: then the tombstone is another's, who may have swept
    already. What is held goes with its partition, and that may be another's too.
    """
    return donor_seconds > 0 and not written


def sweep_of(head: Head) -> Sweep:
    """What step 5 deletes: by the head just read, nothing above its stamp (a newer writer's)."""
    return Sweep(head.doc, frozenset(chunk.id for chunk in head.chunks), head.stamp)


def headless_sweep(doc: str, seen: int) -> Sweep:
    """What repair deletes of a document that nothing knows: what it has seen, and nothing newer."""
    return Sweep(doc, frozenset(), seen)


def alignment_of(head: Head) -> Alignment:
    """What step 5 gives the chunks: the head's fields and its stamp, so that an older aligner
    that comes late finds them above itself.
    """
    return Alignment(head.doc, head.filters, head.filter_hash, head.stamp)


def moved(before: Head, after: Head | None) -> bool:
    """Whether a head changed while its chunks were aligned: the newer head's align may have come
    before ours and seen nothing to do, so it is ours to repeat.
    """
    return after is None or after.stamp != before.stamp
