"""Single interleavings, step by step: each is one way in which a missing guard does harm."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from greenlet import greenlet

from pipeline.identity import DocumentKey
from pipeline.points import ChunkPoint
from pipeline.records import ChunkedDocument
from pipeline.store.memory import MemoryCollection
from pipeline.sync import filters, prepare, settling, synchronise, upsert_slice, write
from pipeline.sync.reading import embedded_text, point_ids
from tests.simulation.moments import Moments
from tests.simulation.requests import Diverged, Stepped, Witness
from tests.simulation.verdicts import check
from tests.simulation.world import SPEC, World, chunked, deleted, vector_of

KEY = DocumentKey("source", "document")


class Scene:
    """One document, one collection and as many writers as a scenario needs."""

    def __init__(self, *log: ChunkedDocument) -> None:
        self.world = World([KEY], list(log), len(log))
        self.collection = MemoryCollection(SPEC)
        self.moments = Moments(random.Random(0))
        self.witness = Witness(self.collection)
        self._stepped = Stepped(self.collection, self.moments, self.witness, durable=True, torn=0.0, unanswered=0.0)

    def writer(self, name: str, *batch: ChunkedDocument, donor_seconds: float = 0.0) -> greenlet:
        """A worker with one batch, all steps of it."""
        return self.moments.start(
            name,
            lambda: synchronise(self._stepped, batch, self.world.embed, donor_seconds=donor_seconds),  # type: ignore[arg-type]
        )

    def write(self, *batch: ChunkedDocument) -> None:
        """A worker that is not interrupted."""
        self.moments.finish(self.writer("alone", *batch))

    def walk(self) -> greenlet:
        """The repair walk."""
        return self.moments.start("repair", lambda: settling.repair(self._stepped, [KEY.doc]))  # type: ignore[arg-type]

    def leave(self, document: ChunkedDocument, letter_at: int, stamp: int) -> None:
        """What a writer leaves that dies between chunk and head."""
        span = document.chunks[letter_at]
        fields = filters.filter_fields(document, SPEC.filter_fields)
        point = ChunkPoint(
            point_ids(document)[letter_at],
            KEY.doc,
            stamp,
            span.content_hash,
            embedded_text(document, span),
            fields.values,
            fields.hash,
            vector_of(span.content_hash),
        )
        self.collection.upsert_chunks([point], {KEY.doc: stamp})

    def lose(self, document: ChunkedDocument, place: int) -> None:
        """A power cut takes a chunk."""
        self.collection._remove(point_ids(document)[place])
        self.witness.power_was_cut = True

    def check(self) -> None:
        """The store holds what the log says."""
        check(self.world, self.collection, power_was_cut=self.witness.power_was_cut)


def _version(version: int, letters: str, acl: str = "x") -> ChunkedDocument:
    return chunked(KEY, version, letters, acl)


def a_version_in_between_takes_a_chunk_that_the_next_one_relies_on() -> None:
    """Given an owner that has read v0's head for v2, when a zombie writes v1 and sweeps what v1 lacks,
    then v2 is not written over v1's head as if it were v0's.
    """
    v0, v1, v2 = _version(0, "a"), _version(1, "b"), _version(2, "ac")
    scene = Scene(v0, v1, v2)
    scene.write(v0)
    owner, zombie = scene.writer("owner", v1, v2), scene.writer("zombie", v1)
    scene.moments.until(owner, "upsert chunks")
    scene.moments.finish(zombie)
    scene.moments.finish(owner)
    scene.check()


def a_lost_compare_and_set_starts_over() -> None:
    """Given an owner that has read v0's head for v2, when a zombie's v1 gets its head in first,
    then the owner begins again with v2.
    """
    v0, v1, v2 = _version(0, "a"), _version(1, "ab"), _version(2, "abc")
    scene = Scene(v0, v1, v2)
    scene.write(v0)
    owner, zombie = scene.writer("owner", v1, v2), scene.writer("zombie", v1)
    scene.moments.until(owner, "replace heads")
    scene.moments.finish(zombie)
    scene.moments.finish(owner)
    scene.check()


def a_first_head_comes_late() -> None:
    """Given a zombie that saw no head, when v1 has come and gone and come, then its v0 overwrites nothing."""
    v0, v1 = _version(0, "a"), _version(1, "b")
    scene = Scene(v0, v1)
    zombie = scene.writer("zombie", v0)
    scene.moments.until(zombie, "insert heads")
    scene.write(v0, v1)
    scene.moments.finish(zombie)
    scene.check()


def a_leftover_is_about_to_be_swept() -> None:
    """Given a point of a dead writer that v1's head does not list, and a sweep by that head under way,
    when v2 brings the same chunk, then v2 writes it again instead of relying on it.
    """
    v0, v1, v2 = _version(0, "a"), _version(1, "b"), _version(2, "ba")
    scene = Scene(v0, v1, v2)
    scene.write(v0)
    zombie = scene.writer("zombie", v1)
    scene.moments.until(zombie, "sweep")  # of chunk a
    owner = scene.writer("owner", v1, v2)
    scene.moments.until(owner, "replace heads")
    scene.moments.step(owner)
    scene.moments.finish(zombie)
    scene.moments.finish(owner)
    scene.check()


def a_sweep_meets_chunks_whose_head_is_on_its_way() -> None:
    """Given a sweep by v0's head under way, when v1's chunks come before its head, then they stay."""
    v0, v1 = _version(0, "a"), _version(1, "ab")
    scene = Scene(v0, v1)
    walk = scene.walk()
    scene.write(v0)
    scene.moments.until(walk, "sweep")
    owner = scene.writer("owner", v1)
    scene.moments.until(owner, "replace heads")
    scene.moments.finish(walk)
    scene.moments.finish(owner)
    scene.check()


def a_zombie_writes_chunks_over_newer_ones_and_dies() -> None:
    """Given chunks that v1 has aligned, when a zombie sends v0's, then they keep v1's permissions."""
    v0, v1 = _version(0, "a", "x"), _version(1, "a", "y")
    scene = Scene(v0, v1)
    zombie = scene.writer("zombie", v0)
    scene.moments.until(zombie, "upsert chunks")
    scene.write(v0)
    scene.write(v1)
    scene.moments.until(zombie, "insert heads")
    scene.moments.kill(zombie)
    scene.check()


def an_old_align_comes_late() -> None:
    """Given an align by v1's head under way, when v2 has aligned already, then v1's changes nothing."""
    v0, v1, v2 = _version(0, "a", "x"), _version(1, "a", "y"), _version(2, "a", "z")
    scene = Scene(v0, v1, v2)
    scene.write(v0)
    zombie = scene.writer("zombie", v1)
    scene.moments.until(zombie, "align")
    scene.write(v1, v2)
    scene.moments.step(zombie)
    scene.moments.kill(zombie)
    scene.check()


def an_align_overtakes_a_newer_one_that_saw_nothing_to_do() -> None:
    """Given chunks that still have v0's permissions, and v1's align under way, when v2 restores those
    permissions and finds nothing to align, then v1's writer sees that the head moved and aligns by v2's.
    """
    v0, v1, v2 = _version(0, "a", "x"), _version(1, "a", "y"), _version(2, "a", "x")
    scene = Scene(v0, v1, v2)
    scene.write(v0)
    zombie = scene.writer("zombie", v1)
    scene.moments.until(zombie, "align")
    scene.write(v1, v2)
    scene.moments.finish(zombie)
    scene.check()


def a_winner_is_overtaken_before_it_aligns() -> None:
    """Given v1's head written, when v2 restores the old permissions before v1's step 5, then v1's
    writer goes by v2's head and not by its own event.
    """
    v0, v1, v2 = _version(0, "a", "x"), _version(1, "a", "y"), _version(2, "a", "x")
    scene = Scene(v0, v1, v2)
    scene.write(v0)
    zombie = scene.writer("zombie", v1)
    scene.moments.until(zombie, "replace heads")
    scene.moments.step(zombie)
    scene.write(v1, v2)
    scene.moments.finish(zombie)
    scene.check()


def a_redelivery_is_all_that_comes_after_a_dead_writer() -> None:
    """Given v2 settled and then a chunk of v1 from a writer that died, when v1 is delivered once more,
    then it is stale, and the chunk is swept.
    """
    v1, v2 = _version(1, "ab"), _version(2, "a")
    scene = Scene(v1, v2)
    zombie = scene.writer("zombie", v1)
    scene.moments.until(zombie, "upsert chunks")
    scene.write(v1, v2)
    scene.moments.until(zombie, "insert heads")
    scene.moments.kill(zombie)
    scene.write(v1)
    scene.check()


def a_rerun_is_cut_off_before_its_head() -> None:
    """Given an incomplete document that lost a chunk in a power cut, and a re-run that embedded what had
    failed before and died before its head, when the event comes again, then nothing is left unlisted.
    """
    v7 = _version(7, "ab")
    scene = Scene(v7)
    broken = v7.chunks[1].content_hash
    scene.world.broken = {broken}
    scene.world.ever_broken = {broken}
    scene.write(v7)
    scene.lose(v7, 0)
    scene.world.broken = set()
    rerun = scene.writer("rerun", v7)
    scene.moments.until(rerun, "replace heads")
    scene.moments.kill(rerun)
    scene.write(v7)
    scene.check()


def nothing_of_it_can_be_embedded() -> None:
    """Given a document that is readable, when no chunk of its next version can be embedded, then all of
    the old one stays readable, though the new one shares nothing with it.
    """
    v0, v1 = _version(0, "ab"), _version(1, "c")
    scene = Scene(v0, v1)
    scene.write(v0)
    scene.world.broken = {v1.chunks[0].content_hash}
    scene.world.ever_broken = set(scene.world.broken)
    scene.write(v1)
    head = scene.collection.heads([KEY.doc])[KEY.doc]
    if (head.state, [chunk.id for chunk in head.chunks]) != ("failed", point_ids(v0)):
        raise Diverged(f"the head is {head.state} and lists {len(head.chunks)} chunks")
    scene.check()


def a_delete_is_redelivered_before_its_sweep() -> None:
    """Given a tombstone whose chunks still wait as donors, when the delete comes again after a crash,
    then its outcome asks for the sweep once more.
    """
    v0, v1 = _version(0, "a"), deleted(KEY, 1)
    scene = Scene(v0, v1)
    scene.write(v0)
    for _ in range(2):
        (outcome,) = synchronise(scene.collection, [v1], scene.world.embed, donor_seconds=10.0)
        if outcome.sweep_after != 10.0:
            raise Diverged(f"the outcome is {outcome.result} and asks for no sweep")
    settling.sweep_deleted(scene.collection, [KEY.doc])
    scene.check()


def a_slice_of_a_version_that_was_overtaken() -> None:
    """Given a slice of v1 in the store, when v2 comes without it, then it is swept; when its own writer
    goes on, then it is swept again.
    """
    v1, v2 = _version(1, "ab"), _version(2, "a")
    scene = Scene(v1, v2)
    prepared = prepare(scene.collection, [v1])
    vectors, _ = scene.world.embed(prepared.to_embed)
    upsert_slice(prepared, vectors)
    if scene.collection.count_chunks() != 2:
        raise Diverged("the slice is not there")
    scene.write(v2)
    scene.check()
    write(prepared, vectors, {}, 0.0)
    scene.check()


def a_zombie_wakes_after_the_delete_was_swept() -> None:
    """Given a writer that hangs before its chunks, when its document is deleted and swept by the new owner
    and it goes on, then it removes what it has written: nobody else looks there before a repair walk does.
    """
    v0, v1 = _version(0, "ab"), deleted(KEY, 1)
    scene = Scene(v0, v1)
    prepared = prepare(scene.collection, [v0])
    vectors, _ = scene.world.embed(prepared.to_embed)
    scene.write(v1)
    (outcome,) = write(prepared, vectors, {}, 10.0)
    if (outcome.result, outcome.sweep_after) != ("stale", None):
        raise Diverged(f"the outcome is {outcome.result}, to be swept in {outcome.sweep_after} s")
    scene.check()


#: Scenario, and the mutants that it must kill.
SCENARIOS: Sequence[tuple[Callable[[], None], tuple[str, ...]]] = (
    (a_version_in_between_takes_a_chunk_that_the_next_one_relies_on, ("older-than-mine",)),
    (a_lost_compare_and_set_starts_over, ("lost-is-won",)),
    (a_first_head_comes_late, ("absent-overwrites",)),
    (a_leftover_is_about_to_be_swept, ("there-is-enough",)),
    (a_sweep_meets_chunks_whose_head_is_on_its_way, ("sweep-any-stamp",)),
    (a_zombie_writes_chunks_over_newer_ones_and_dies, ("no-fence",)),
    (an_old_align_comes_late, ("align-any-stamp", "align-no-stamp")),
    (an_align_overtakes_a_newer_one_that_saw_nothing_to_do, ("align-once",)),
    (a_winner_is_overtaken_before_it_aligns, ("own-event", "own-event-align")),
    (a_redelivery_is_all_that_comes_after_a_dead_writer, ("stale-is-done",)),
    (a_rerun_is_cut_off_before_its_head, ("begun-is-done",)),
    (nothing_of_it_can_be_embedded, ("failure-no-head", "failure-drops-list")),
    (a_delete_is_redelivered_before_its_sweep, ("delete-unswept",)),
    (a_slice_of_a_version_that_was_overtaken, ("own-event-sweep",)),
    (a_zombie_wakes_after_the_delete_was_swept, ("always-holds",)),
)
