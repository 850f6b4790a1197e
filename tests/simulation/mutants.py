"""The protocol with one guard left out or weakened, each with the kind of schedule that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from greenlet import getcurrent

from pipeline.points import Alignment, ChunkPoint, Head, Sweep
from pipeline.records import ChunkedDocument
from pipeline.sync import guards, reading, settling, writing
from pipeline.sync.batches import Plan
from tests.simulation.profiles import CALM, CRASHES, FAILURES, GRANTS, PERMISSIONS, POWER, ZOMBIES, Profile
from tests.simulation.requests import Stepped

_TOP = 1 << 50


@dataclass(frozen=True)
class Mutant:
    """A weaker protocol.

    Attributes:
        without: what it lacks, for people.
        profile: schedules that show it; None: only a scenario does (test_scenarios).
        changes: module or class, name and replacement.
    """

    without: str
    profile: Profile | None
    changes: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the protocol is this one."""
        kept = [(where, name, getattr(where, name)) for where, name, _ in self.changes]
        for where, name, replacement in self.changes:
            assert hasattr(where, name)
            setattr(where, name, replacement)
        try:
            yield
        finally:
            for where, name, original in kept:
                setattr(where, name, original)


# ------------------------------------------------------------------------- steps 1 and 2


def _relied_on_whatever_is_there(
    collection: Any, documents: dict[str, Any], heads: dict[str, Head], ids: dict[str, list[str]]
) -> set[str]:
    listed = [chunk.id for head in heads.values() for chunk in head.chunks]
    return collection.existing([*listed, *(id for doc in documents for id in ids[doc])])


def _plan_with_whatever_is_there(
    document: ChunkedDocument, head: Head | None, ids: list[str], present: set[str], fields: Any, distrusted: bool
) -> Plan:
    plan = _plan(document, head, ids, present, fields, distrusted)
    plan.kept = frozenset(id for id in ids if id in present) | plan.kept
    return plan


_plan = reading._plan


def _relied_on_what_is_listed(
    collection: Any, documents: Any, heads: dict[str, Head], ids: dict[str, list[str]]
) -> set[str]:
    return {chunk.id for head in heads.values() for chunk in head.chunks}


def _no_donors(collection: Any, siblings: Any, hashes: list[str]) -> dict[str, Any]:
    return {}


def _last_of_the_batch(documents: Sequence[ChunkedDocument]) -> dict[str, ChunkedDocument]:
    return {document.key.doc: document for document in documents}


def _reruns_without_loss(head: Head, document: ChunkedDocument, lost: bool, begun: bool, other: bool) -> bool:
    return _reruns(head, document, False, begun, other)


def _reruns_without_begun(head: Head, document: ChunkedDocument, lost: bool, begun: bool, other: bool) -> bool:
    return _reruns(head, document, lost, False, other)


_reruns = guards.reruns


# ------------------------------------------------------------------------- steps 3 and 4


def _heads_before_chunks(collection: Any, writings: Any) -> None:
    writing.compare_and_set(collection, writings)
    writing.upsert_chunks(collection, writings)


def _older_than_mine(collection: Stepped, writings: Sequence[Any]) -> None:
    heads = [one.head for one in writings if one.head is not None]
    raw = collection.inner

    def apply() -> None:
        raw.insert_heads(heads)
        present = raw.heads([head.doc for head in heads])
        older = [head for head in heads if present[head.doc].stamp < head.stamp]
        raw.replace_heads(older, {head.doc: present[head.doc].stamp for head in older})

    if heads:
        collection.write("replace heads", heads, [head.doc for head in heads], apply)


def _absent_heads_overwrite(collection: Stepped, writings: Sequence[Any]) -> None:
    absent = [one.head for one in writings if one.head is not None and one.plan.read is None]
    raw = collection.inner

    def apply() -> None:
        raw.insert_heads(absent)
        raw.replace_heads(absent, {doc: head.stamp for doc, head in raw.heads([h.doc for h in absent]).items()})

    if absent:
        collection.write("insert heads", absent, [head.doc for head in absent], apply)
    _compare_and_set(collection, [one for one in writings if one.plan.read is not None])


_compare_and_set = writing.compare_and_set


def _no_fence(plans: Sequence[Plan]) -> dict[str, int]:
    return {plan.doc: _TOP for plan in plans if plan.stamp is not None}


def _failure_keeps_old_fields(plan: Plan, stamp: int, failures: Any) -> Head:
    head = _head(plan, stamp, failures)
    if head.state in ("failed", "omitted") and plan.read is not None:
        return replace(head, filters=plan.read.filters, filter_hash=plan.read.filter_hash)
    return head


def _failure_drops_the_list(plan: Plan, stamp: int, failures: Any) -> Head:
    head = _head(plan, stamp, failures)
    return replace(head, chunks=()) if head.state in ("failed", "omitted") else head


def _failure_writes_no_head(plan: Plan, available: Any, failed: Any, fresh: Any) -> Any:
    made = _composed(plan, available, failed, fresh)
    if made.head is not None and made.head.state in ("failed", "omitted"):
        made.head, made.chunks = None, []
    return made


_head = writing._head
_composed = writing._composed


# -------------------------------------------------------------------------------- step 5


class _OwnEvents:
    """Step 5 by what the writer itself has written: for the sweep, for align, or for both."""

    def __init__(self, *, sweep: bool, align: bool) -> None:
        self._sweep, self._align = sweep, align
        self._own: dict[Any, dict[str, Head]] = {}

    def write_points(self, collection: Any, writings: Sequence[Any]) -> None:
        self._own[getcurrent()] = {one.head.doc: one.head for one in writings if one.head is not None}
        _write_points(collection, writings)

    def sweep_of(self, head: Head) -> Sweep:
        return _sweep_of(self._of(head, self._sweep))

    def alignment_of(self, head: Head) -> Alignment:
        return _alignment_of(self._of(head, self._align))

    def _of(self, head: Head, own: bool) -> Head:
        return self._own.get(getcurrent(), {}).get(head.doc, head) if own else head

    def changes(self) -> tuple[tuple[Any, str, Any], ...]:
        return (
            (writing, "write_points", self.write_points),
            (guards, "sweep_of", self.sweep_of),
            (guards, "alignment_of", self.alignment_of),
        )


_write_points = writing.write_points
_sweep_of = guards.sweep_of
_alignment_of = guards.alignment_of


def _sweep_everything(head: Head) -> Sweep:
    return replace(_sweep_of(head), stamp=_TOP)


def _only_what_is_not_stale(plans: Sequence[Plan]) -> list[str]:
    return [plan.doc for plan in plans if plan.stamp is not None or plan.result != "stale"]


def _lost_is_won(collection: Any, docs: Any, expected: Any, held: Any) -> Any:
    return settling.settle(collection, docs, {}, held)


def _always_holds(written: Any, donor_seconds: float) -> bool:
    return donor_seconds > 0


def _align_whatever_stamp(collection: Stepped, heads: Sequence[Head]) -> list[Head]:
    live = [guards.alignment_of(head) for head in heads if head.state != "deleted"]
    off = collection.misaligned([replace(one, stamp=_TOP) for one in live]) if live else set()
    raw = collection.inner

    def apply() -> None:
        for one in live:
            wrong = [_point_of(raw, chunk) for chunk in raw.scan_chunks(docs=[one.doc], vectors=True)[0]]
            raw.upsert_chunks(
                [
                    replace(chunk, filters=one.filters, filter_hash=one.filter_hash, stamp=one.stamp)
                    for chunk in wrong
                    if chunk.filter_hash != one.filter_hash
                ],
                {one.doc: _TOP},
            )

    if off:
        collection.write("align", live, off, apply)
    return [head for head in heads if head.doc in off]


def _align_without_stamping(collection: Stepped, heads: Sequence[Head]) -> list[Head]:
    live = [guards.alignment_of(head) for head in heads if head.state != "deleted"]
    off = collection.misaligned(live) if live else set()
    raw = collection.inner

    def apply() -> None:
        for one in live:
            for chunk in raw.scan_chunks(docs=[one.doc], vectors=True)[0]:
                if chunk.filter_hash != one.filter_hash and not chunk.stamp > one.stamp:
                    changed = replace(_point_of(raw, chunk), filters=one.filters, filter_hash=one.filter_hash)
                    raw.upsert_chunks([changed], {one.doc: _TOP})

    if off:
        collection.write("align", live, off, apply)
    return [head for head in heads if head.doc in off]


def _point_of(raw: Any, chunk: Any) -> ChunkPoint:
    return ChunkPoint(
        chunk.id,
        chunk.doc,
        chunk.stamp,
        chunk.content_hash,
        chunk.text,
        chunk.filters,
        chunk.filter_hash,
        chunk.vector,
    )


def _rerun_at_the_same_stamp(head: Head) -> int:
    return head.stamp


def _nothing_swept(collection: Any, docs: Any) -> None:
    pass


MUTANTS: dict[str, Mutant] = {
    "older-than-mine": Mutant(
        "compare-and-set over exactly what was read (over anything older instead)",
        ZOMBIES,
        ((writing, "compare_and_set", _older_than_mine),),
    ),
    "absent-overwrites": Mutant(
        "insert_only for a head that was absent", ZOMBIES, ((writing, "compare_and_set", _absent_heads_overwrite),)
    ),
    "head-first": Mutant("chunks before heads", CRASHES, ((writing, "write_points", _heads_before_chunks),)),
    "there-is-enough": Mutant(
        "'in the head's list' ('has a point' instead)",
        ZOMBIES,
        (
            (reading, "relied_on", _relied_on_whatever_is_there),
            (reading, "_plan", _plan_with_whatever_is_there),
        ),
    ),
    "listed-is-enough": Mutant(
        "'has a point' ('in the head's list' instead)", POWER, ((reading, "relied_on", _relied_on_what_is_listed),)
    ),
    "loss-is-done": Mutant(
        "running an equal version again when points are missing", POWER, ((guards, "reruns", _reruns_without_loss),)
    ),
    "begun-is-done": Mutant(
        "running an equal version again when a cut-off run left chunks",
        None,
        ((guards, "reruns", _reruns_without_begun),),
    ),
    "no-donors": Mutant("vectors found by content hash", CALM, ((reading, "_donors", _no_donors),)),
    "last-of-batch": Mutant(
        "the highest version of a batch (the last instead)", CRASHES, ((guards, "newest", _last_of_the_batch),)
    ),
    "no-fence": Mutant("the fence under chunk writes", GRANTS, ((guards, "fences", _no_fence),)),
    "own-event": Mutant(
        "step 5 by the head just read (by one's own event instead)",
        ZOMBIES,
        _OwnEvents(sweep=True, align=True).changes(),
    ),
    "own-event-sweep": Mutant(
        "the sweep by the head just read", ZOMBIES, _OwnEvents(sweep=True, align=False).changes()
    ),
    "own-event-align": Mutant(
        "align by the head just read", PERMISSIONS, _OwnEvents(sweep=False, align=True).changes()
    ),
    "sweep-any-stamp": Mutant("the stamp guard in the sweep", ZOMBIES, ((guards, "sweep_of", _sweep_everything),)),
    "stale-is-done": Mutant("step 5 for a stale event", None, ((guards, "settled", _only_what_is_not_stale),)),
    "lost-is-won": Mutant(
        "starting over when the compare-and-set was lost", ZOMBIES, ((writing, "settle", _lost_is_won),)
    ),
    "align-any-stamp": Mutant("the stamp guard in align", GRANTS, ((settling, "_align", _align_whatever_stamp),)),
    "align-no-stamp": Mutant(
        "the new stamp that align gives", GRANTS, ((settling, "_align", _align_without_stamping),)
    ),
    "align-once": Mutant(
        "repeating align until it stands still", PERMISSIONS, ((guards, "moved", lambda before, after: False),)
    ),
    "same-stamp": Mutant(
        "attempt + 1 for another run of a version", FAILURES, ((guards, "rerun_stamp", _rerun_at_the_same_stamp),)
    ),
    "failure-keeps-fields": Mutant(
        "the new filter fields on a failure", FAILURES, ((writing, "_head", _failure_keeps_old_fields),)
    ),
    "failure-drops-list": Mutant("the old list on a failure", FAILURES, ((writing, "_head", _failure_drops_the_list),)),
    "failure-no-head": Mutant(
        "the head that a failure advances", FAILURES, ((writing, "_composed", _failure_writes_no_head),)
    ),
    "always-holds": Mutant("the sweep of what one has written oneself", ZOMBIES, ((guards, "holds", _always_holds),)),
    "delete-unswept": Mutant("the sweep after a delete's grace", CALM, ((settling, "sweep_deleted", _nothing_swept),)),
}
