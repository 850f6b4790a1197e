"""The embed stage: chunked documents in, heads and chunks in the store, by the store protocol.

Two threads, so that the model never waits for the store:

* *embed*: gather a micro-batch, read heads and find vectors (steps 1 and 2), embed the rest;
* *write*: bury dead letters, write (steps 3 to 5), sweep deleted documents when they are due,
  and walk slowly over all heads to repair what dead writers left.

A record is finished when its effect is in the store; a delete when its chunks are swept as well.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.codec import decode_chunked, unreadable
from pipeline.deadline import Deadline
from pipeline.embedding.recent import RecentVectors
from pipeline.errors import MalformedRecord, NewerSchema, Poison
from pipeline.identity import ATTEMPTS, attempt_in
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.points import Vectors
from pipeline.ports import Collection, Publisher, TopicPartition
from pipeline.records import ChunkedDocument, DeadLetter
from pipeline.stages.dead_letters import bury, letter_of
from pipeline.stages.held import HeldDeletes
from pipeline.stages.lane import TAKING_SHARE, Lane
from pipeline.stages.pace import Pace, unhurried
from pipeline.stages.parking import Parking
from pipeline.stages.repair import RepairWalk
from pipeline.stages.window import Taken
from pipeline.sync import Embed, Outcome, PreparedBatch, prepare, repair, sweep_deleted, upsert_slice, write

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EmbedLimits:
    """What bounds a micro-batch."""

    documents: int = 128
    tokens: int = 32_768
    """Tokens gathered over documents; the model's own batches are cut from these, by length."""
    slice_chunks: int = 512
    """Chunks of a big batch that are written before the rest is embedded: a crash repeats no more."""
    delete_grace_seconds: float = 10.0
    flush_seconds: float = 3.0


@dataclass(slots=True)
class _Batch:
    taken: dict[str, list[Taken]] = field(default_factory=dict)
    """By document id; several versions of a document finish together."""
    origins: dict[tuple[str, int, bool], Taken] = field(default_factory=dict)
    """By document id, version and whether it is a replay: for the dead letter of just that record."""
    documents: list[ChunkedDocument] = field(default_factory=list)
    prepared: PreparedBatch | None = None
    vectors: dict[str, Vectors] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    sliced: bool = False
    """Chunks of it are in the store already."""
    unread: list[DeadLetter] = field(default_factory=list)
    """Of records that cannot be decoded."""
    lost: list[Taken] = field(default_factory=list)
    """Those of them that not even a document is left of: the letter is all that there is to do."""
    started: float = field(default_factory=time.monotonic)


class EmbedStage:
    """A :class:`pipeline.stages.worker.Stage` with two threads.

    Args:
        collection: of the generation.
        embed: texts to vectors, and the reasons of those that failed.
        publisher: of dead letters.
        limits: bounds.
        patience: waits out transient errors.
        recent: vectors of batches that may not be in the store yet.
        siblings: collections that may hold vectors of the same model.
        pace: how fast, while the generation is being built; then everything is backfill here,
            whatever it was to its connector.
        enough: this stage sets it, and ``embed`` heeds it: return with what there is.
    """

    name = "embed"

    def __init__(
        self,
        collection: Collection,
        embed: Embed,
        publisher: Publisher,
        names: Names,
        limits: EmbedLimits,
        patience: Patience,
        health: Health,
        metrics: Metrics,
        recent: RecentVectors,
        siblings: Sequence[Collection] = (),
        pace: Pace | None = None,
        enough: threading.Event | None = None,
    ) -> None:
        self._pace = pace or unhurried()
        self._enough = enough or threading.Event()
        self._collection = collection
        self._siblings = siblings
        self._embed = embed
        self._publisher = publisher
        self._names = names
        self._limits = limits
        self._patience = patience
        self._metrics = metrics
        self._recent = recent
        self._parking = Parking(self.name, collection.spec.generation, health)
        self._repair = RepairWalk(collection, limits.delete_grace_seconds)
        self._inbox: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._handover: queue.Queue[_Batch] = queue.Queue(maxsize=1)
        self._finished: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._held = HeldDeletes()
        self._release = threading.Event()
        self._busy = threading.Condition()
        self._open = 0
        self._steps = 0
        self._writing: frozenset[str] = frozenset()
        self._lanes = (Lane("embed", self._embed_turn), Lane("write", self._write_turn))

    # ------------------------------------------------------------------ the worker's side

    @property
    def flush_seconds(self) -> float:
        """How long to gather writes between two flushes of an embedded store."""
        return 0.0 if self._collection.flush_each_batch else self._limits.flush_seconds

    @property
    def steps(self) -> int:
        """Slices embedded and batches written."""
        return self._steps

    @property
    def held(self) -> int:
        """Deletes whose sweep is not due yet."""
        return self._held.records

    def start(self) -> None:
        """Start the threads."""
        for lane in self._lanes:
            lane.start()

    def offer(self, taken: Sequence[Taken]) -> None:
        """Take records over."""
        with self._busy:
            self._open += len(taken)
        for one in taken:
            self._inbox.put(one)

    def finished(self) -> list[Taken]:
        """Those whose effect is in the store, since the last call."""
        done = []
        while not self._finished.empty():
            done.append(self._finished.get())
        return done

    def flush(self) -> None:
        """Make the embedded store durable; a server's writes are so already."""
        if not self._collection.flush_each_batch:
            self._collection.flush()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Forget what waited for partitions that are not ours; look after what others left."""
        self._parking.keep(partitions)
        self._repair.hurry()

    def parked(self) -> Mapping[TopicPartition, int]:
        """Partitions that wait for an upgrade, and where."""
        return self._parking.partitions

    def held_back(self) -> str:
        """Says so when live comes first; nothing comes after this stage."""
        return self._pace.held_back

    def raise_failure(self) -> None:
        """Raise what stopped one of the threads, if anything did."""
        for lane in self._lanes:
            lane.raise_failure()

    def stop(self, drain: Deadline) -> None:
        """Finish what was offered and sweep what is held, as far as the deadline allows. What has been
        embedded when most of it is over is still written: its next reader must not embed it again.
        """
        self._pace.release()
        self._release.set()
        embed, write = self._lanes
        taking = Deadline.after(drain.remaining() * TAKING_SHARE)
        with self._busy:
            while self._open and not taking.expired and not (embed.ended or write.ended):
                self._busy.wait(0.05)
            embed.ask_to_stop()
            self._enough.set()
            while not ((embed.ended and self._written) or drain.expired or write.ended):
                self._busy.wait(0.05)
        write.ask_to_stop()
        self._patience.give_up()
        for lane in self._lanes:
            if not lane.stop(Deadline.after(max(1.0, drain.remaining()))):
                log.warning("a lane did not end within the drain budget", extra={"stage": self.name})

    @property
    def _written(self) -> bool:
        """Nothing that was embedded waits for the write lane."""
        return not self._writing and not self._held.records

    # ---------------------------------------------------------------------- the embed lane

    def _embed_turn(self) -> None:
        batch = self._gather()
        if not batch.documents:
            return
        # Heads must be read after an earlier version of the same document was written, or its
        # compare-and-set is lost and the work is done twice. (Correct all the same.)
        with self._busy:
            while self._writing & batch.taken.keys() and not self._write_lane_ended:
                self._busy.wait(0.1)
        prepared = self._patience.until_done(
            "store", lambda: prepare(self._collection, batch.documents, self._siblings)
        )
        known = self._recent.find([item.content_hash for item in prepared.to_embed])
        if known:
            missing = [item for item in prepared.to_embed if item.content_hash not in known]
            prepared = replace(prepared, found={**prepared.found, **known}, to_embed=missing)
        batch.prepared = prepared
        size = self._limits.slice_chunks
        for start in range(0, len(prepared.to_embed), size):
            if not any(one.live for taken in batch.taken.values() for one in taken):
                break  # the partitions are lost: the write lane only lets go of the records
            items = prepared.to_embed[start : start + size]
            vectors, failed = self._patience.until_done("model", lambda items=items: self._embed(items))  # type: ignore[misc]
            self._recent.add(vectors)
            batch.vectors.update(vectors)
            batch.failed.update(failed)
            self._steps += 1
            unfinished = any(one.content_hash not in vectors.keys() | failed.keys() for one in items)
            last = start + size >= len(prepared.to_embed)
            if unfinished or not last:
                batch.sliced = True
                self._patience.until_done("store", lambda part=vectors: upsert_slice(prepared, part))  # type: ignore[misc]
            if unfinished or (self._enough.is_set() and not last):
                self._settle_slices(batch, batch.taken.keys())
                return  # nothing of it is committed; whoever reads it again finds these vectors by content hash
        with self._busy:
            self._writing = self._writing | batch.taken.keys()
        while not self._write_lane_ended:
            try:
                self._handover.put(batch, timeout=0.1)
                return
            except queue.Full:
                continue

    @property
    def _write_lane_ended(self) -> bool:
        return self._lanes[1].ended

    def _gather(self) -> _Batch:
        batch = _Batch()
        tokens = records = 0
        block = True
        most_documents, most_tokens = self._pace.batch(self._limits.documents), self._pace.batch(self._limits.tokens)
        while records < most_documents and tokens < most_tokens:
            try:
                taken = self._inbox.get(block=block, timeout=0.1)
            except queue.Empty:
                break
            if block:
                block, batch.started = False, time.monotonic()
            records += 1
            document = self._decoded(taken, batch)
            if document is None:
                continue
            batch.taken.setdefault(document.key.doc, []).append(taken)
            batch.origins[document.key.doc, document.version, document.replay] = taken
            batch.documents.append(document)
            tokens += sum(chunk.tokens for chunk in document.chunks)
        # The letters before the heads, as in _write, and before anything of the batch is finished.
        self._bury(batch.unread)
        self._count_letters(batch.unread)
        self._metrics.records_processed.labels(self.name, "dead_letter").inc(len(batch.lost))
        self._finish(batch.lost)
        return batch

    def _decoded(self, taken: Taken, batch: _Batch) -> ChunkedDocument | None:
        if not taken.live:
            self._finish([taken])
            return None
        if self._parking.holds(taken):
            self._set_aside()
            return None
        try:
            return decode_chunked(taken.record)
        except NewerSchema as error:
            self._parking.park(taken, error)
            self._set_aside()
            return None
        except MalformedRecord as error:
            generation = self._collection.spec.generation
            document = unreadable(taken.record, generation)
            letter = letter_of(
                taken.record, generation, "embed", -1 if document is None else document.version, error, 1
            )
            batch.unread.append(letter)
            if document is None:
                batch.lost.append(taken)
                return None
            return replace(document, reason=f"{letter.reason}: {letter.detail}")

    def _set_aside(self) -> None:
        # Parked records are not waited for when the worker stops: the upgraded one reads them.
        with self._busy:
            self._open -= 1
            self._busy.notify_all()

    # ---------------------------------------------------------------------- the write lane

    def _write_turn(self) -> None:
        try:
            batch = self._handover.get(timeout=self._until_due())
        except queue.Empty:
            self._sweep_due()
            self._patience.until_done("store", lambda: self._repair.step(self._held))
            return
        with self._pace.turn():
            self._write(batch)
        self._sweep_due()

    def _write(self, batch: _Batch) -> None:
        prepared = batch.prepared
        assert prepared is not None  # set by the embed lane before it hands over
        live = {doc for doc, taken in batch.taken.items() if any(one.live for one in taken)}
        prepared = replace(prepared, plans=tuple(plan for plan in prepared.plans if plan.doc in live))
        # The letter first: a crash between it and the head repeats both; the other way round the
        # head would be found unchanged, and the letter never be written.
        letters = self._letters(prepared, batch)
        self._bury(list(letters.values()))
        outcomes = self._patience.until_done(
            "store", lambda: write(prepared, batch.vectors, batch.failed, self._limits.delete_grace_seconds)
        )
        exhausted = {
            outcome.document.key.doc: self._letter(batch, outcome.document, outcome.poison, ATTEMPTS)
            for outcome in outcomes
            if outcome.poison is not None
        }
        self._bury(list(exhausted.values()))
        letters.update(exhausted)
        backfill = all(self._traffic(document) == "backfill" for document in prepared.documents)
        self._metrics.tokens_embedded.labels("backfill" if backfill else "live").inc(
            sum(item.tokens for item in prepared.to_embed if item.content_hash in batch.vectors)
        )
        again = {outcome.document.key.doc for outcome in outcomes if outcome.result == "again"}
        self._count_letters([letter for doc, letter in letters.items() if doc not in again])
        with self._busy:
            self._writing = self._writing - batch.taken.keys()
            self._busy.notify_all()
        for outcome in outcomes:
            taken = batch.taken[outcome.document.key.doc]
            if outcome.result == "again":
                # An older version moved the head between our reading it and our writing it: read it
                # again. The vectors are in ``recent``, so the model is not asked twice.
                for one in taken:
                    self._inbox.put(one)
                continue
            self._count(outcome)
            if outcome.sweep_after is not None:
                # Whatever this event was: its redelivery finds the tombstone in place, and the chunks
                # are still there if the first to see it died before the sweep.
                seconds = 0.0 if outcome.document.erased else outcome.sweep_after
                self._held.add(outcome.document.key.doc, taken, seconds)
            else:
                self._finish(taken)
        lost = batch.taken.keys() - live
        self._settle_slices(batch, lost)
        for doc in lost:
            self._finish(batch.taken[doc])
        self._steps += 1
        self._metrics.stage_duration_seconds.labels(self.name).observe(time.monotonic() - batch.started)

    def _settle_slices(self, batch: _Batch, docs: Container[str]) -> None:
        """Of documents that are not written to the end: a new owner may have been there before their slices,
        and what it deleted must not stand again. Those that nobody has overtaken are above their heads, and stay.
        """
        if batch.sliced and batch.prepared is not None:
            needed = [plan.doc for plan in batch.prepared.plans if plan.needed and plan.doc in docs]
            self._patience.until_done("store", lambda: repair(self._collection, needed))

    def _letters(self, prepared: PreparedBatch, batch: _Batch) -> dict[str, DeadLetter]:
        letters = {}
        for plan in prepared.plans if batch.failed else ():
            causes = [
                f"chunk {index}: {batch.failed[span.content_hash]}"
                for index, _, span in plan.needed
                if span.content_hash in batch.failed
            ]
            if causes and plan.stamp is not None:
                cause = Poison("embedding_failed", "; ".join(causes))
                letters[plan.doc] = self._letter(batch, plan.document, cause, attempt_in(plan.stamp) + 1)
        return letters

    def _letter(self, batch: _Batch, document: ChunkedDocument, cause: Poison, attempts: int) -> DeadLetter:
        record = batch.origins[document.key.doc, document.version, document.replay].record
        return letter_of(record, document.generation, "embed", document.version, cause, attempts)

    def _bury(self, letters: list[DeadLetter]) -> None:
        if letters:
            self._patience.until_done("broker", lambda: bury(self._publisher, self._names, letters))

    def _count_letters(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._metrics.dead_letters.labels(letter.reason).inc()

    def _count(self, outcome: Outcome) -> None:
        metrics, document = self._metrics, outcome.document
        traffic = self._traffic(document)
        metrics.records_processed.labels(self.name, outcome.result).inc()
        if outcome.result in ("complete", "incomplete"):
            metrics.chunks_embedded.labels(traffic).inc(outcome.embedded)
            metrics.chunks_reused.labels("head").inc(outcome.listed)
            metrics.chunks_reused.labels("content_hash").inc(outcome.copied)
            metrics.points_upserted.inc(outcome.written + 1)
        metrics.points_deleted.inc(outcome.removed)
        if outcome.result in ("complete", "incomplete", "deleted"):
            latency = max(0.0, time.time() - document.provenance.event_time)
            metrics.end_to_end_latency_seconds.labels(traffic).observe(latency)

    def _traffic(self, document: ChunkedDocument) -> str:
        return "backfill" if document.provenance.backfill or self._pace.building else "live"

    def _until_due(self) -> float:
        return 0.01 if self._release.is_set() else max(0.001, self._held.seconds(0.1))

    def _sweep_due(self) -> None:
        due = self._held.due(early=self._release.is_set())
        docs = [doc for doc, taken in due if any(one.live for one in taken)]
        if docs:
            self._patience.until_done("store", lambda: sweep_deleted(self._collection, docs))
        for _, taken in due:
            self._finish(taken)

    def _finish(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            self._finished.put(one)
        with self._busy:
            self._open -= len(taken)
            self._busy.notify_all()
