"""The chunk stage: document events in, chunked documents out, into the same partition number.

1. Decode and cut each document. What cannot be cut, or is too large once it is cut, becomes a dead
   letter *and* a failed version that is sent on, so that its head advances and says so.
2. Publish the batch and its letters; durable on return. Only then are the events finished.

Publishing twice is harmless: the embed stage sees an equal version.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.chunking.documents import Chunk, failed, made_of
from pipeline.codec import encode_chunked, supersedes
from pipeline.deadline import Deadline
from pipeline.errors import NewerSchema, Poison, Transient
from pipeline.identity import version_of
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import Broker, NewRecord, Publisher, TopicPartition
from pipeline.records import ChunkedDocument, DeadLetter
from pipeline.specs import GenerationSpec
from pipeline.stages.dead_letters import bury, letter_of
from pipeline.stages.lane import TAKING_SHARE, Lane
from pipeline.stages.pace import Pace, unhurried
from pipeline.stages.parking import Parking
from pipeline.stages.window import Taken

log = logging.getLogger(__name__)

#: Documents chunked and published together, and bytes of their records: a few large ones are
#: enough for a batch, and the first must not wait for the last.
_BATCH: Final = 64
_BATCH_BYTES: Final = 4 * 1024 * 1024
_PUBLISH_SECONDS: Final = 30.0
#: For a turn that has given up to end.
_END_SECONDS: Final = 1.0
_UPKEEP_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Work:
    taken: Taken
    document: ChunkedDocument | None = None
    """What is sent on; None for a null value, which only forgets an old delete."""
    letter: DeadLetter | None = None


class ChunkStage:
    """A :class:`pipeline.stages.worker.Stage` with one thread.

    Args:
        broker: for the embed stage's lag, and to trim the chunks topic.
        publisher: of chunked documents and dead letters.
        names: of the pipeline.
        spec: of the generation.
        epoch: of the documents topic.
        chunk: the chunker.
        behind_limit: records that the embed stage may be behind before reading pauses.
        patience: waits out transient errors.
        pace: how fast, while the generation is being built.
    """

    name = "chunk"
    flush_seconds = 0.0
    held = 0

    def __init__(
        self,
        broker: Broker,
        publisher: Publisher,
        names: Names,
        spec: GenerationSpec,
        epoch: int,
        chunk: Chunk,
        behind_limit: int,
        patience: Patience,
        health: Health,
        metrics: Metrics,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or unhurried()
        self._broker = broker
        self._publisher = publisher
        self._names = names
        self._generation = spec.id
        self._epoch = epoch
        self._chunk = chunk
        self._behind_limit = behind_limit
        self._patience = patience
        self._metrics = metrics
        self._inbox: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Taken] = queue.SimpleQueue()
        self._parking = Parking(self.name, spec.id, health)
        self._held_back = ""
        self._next_upkeep = 0.0
        self._stopping = False
        self._sent = 0
        self._steps = 0
        self._lane = Lane("chunk", self._turn)

    @property
    def steps(self) -> int:
        """Documents cut and published."""
        return self._steps

    def start(self) -> None:
        """Start the thread."""
        self._lane.start()

    def offer(self, taken: Sequence[Taken]) -> None:
        """Take records over."""
        for one in taken:
            self._inbox.put(one)

    def finished(self) -> list[Taken]:
        """Those that were published since the last call."""
        done = []
        while not self._finished.empty():
            done.append(self._finished.get())
        return done

    def flush(self) -> None:
        """Nothing to do: publishing is durable."""

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Forget what waited in partitions that are not ours any more."""
        self._parking.keep(partitions)

    def parked(self) -> Mapping[TopicPartition, int]:
        """Partitions that wait for an upgrade, and where."""
        return self._parking.partitions

    def held_back(self) -> str:
        """Says so when the embed stage is too far behind, or live comes first."""
        return self._held_back or self._pace.held_back

    def raise_failure(self) -> None:
        """Raise what stopped the thread, if anything did."""
        self._lane.raise_failure()

    def stop(self, drain: Deadline) -> None:
        """Finish what was offered, as far as the deadline allows; the last quarter is for the present batch."""
        self._stopping = True
        self._pace.release()
        taking = Deadline.after(drain.remaining() * TAKING_SHARE)
        while not self._inbox.empty() and not taking.expired and not self._lane.ended:
            time.sleep(0.01)
        self._lane.ask_to_stop()
        if not self._lane.stop(drain):
            # An outage may hold it: what it does not publish is read again.
            self._patience.give_up()
        if not self._lane.stop(Deadline.after(_END_SECONDS)):
            log.warning("chunk lane did not end within the drain budget")

    def _turn(self) -> None:
        batch = self._gather()
        if batch:
            with self._pace.turn():
                self._run(batch)
        # Also by count: at full speed the embed stage falls behind by thousands in a few seconds.
        if self._stopping:
            return  # Kafka may hang, and the drain budget is for what is in work
        if time.monotonic() >= self._next_upkeep or self._sent >= max(1, self._behind_limit // 4):
            self._next_upkeep = time.monotonic() + _UPKEEP_SECONDS
            self._sent = 0
            self._upkeep()

    def _gather(self) -> list[Taken]:
        batch: list[Taken] = []
        size, most = 0, self._pace.batch(_BATCH)
        try:
            while len(batch) < most and size < _BATCH_BYTES:
                batch.append(self._inbox.get(timeout=0.1) if not batch else self._inbox.get_nowait())
                size += batch[-1].size
        except queue.Empty:
            pass
        # A lost partition's records are the next owner's: nothing more is written for them.
        for lost in (one for one in batch if not one.live):
            self._finished.put(lost)
        return [one for one in batch if one.live]

    def _run(self, batch: list[Taken]) -> None:
        started = time.monotonic()
        works: list[_Work] = []
        # A log that is not compacted yet holds old versions: a generation that is being built needs none.
        readable = batch if self._pace.building else []
        last = {taken.record.key: taken for taken in readable if supersedes(taken.record)}
        for taken in batch:
            if self._parking.holds(taken):
                continue
            if last.get(taken.record.key, taken).record.offset > taken.record.offset:
                # As compaction would: a later record of the document is in this very batch.
                works.append(_Work(taken))
                continue
            try:
                works.append(self._work(taken))
            except NewerSchema as error:
                self._parking.park(taken, error)
        self._publish(works)
        letters = [work.letter for work in works if work.letter is not None]
        self._patience.until_done("broker", lambda: bury(self._publisher, self._names, letters))
        for letter in letters:
            self._metrics.dead_letters.labels(letter.reason).inc()
        self._metrics.records_processed.labels(self.name, "ok").inc(len(works) - len(letters))
        self._metrics.records_processed.labels(self.name, "dead_letter").inc(len(letters))
        self._metrics.stage_duration_seconds.labels(self.name).observe(time.monotonic() - started)
        self._metrics.batch_size_records.labels(self.name).observe(len(batch))
        self._steps += len(works)
        for work in works:
            self._finished.put(work.taken)

    def _work(self, taken: Taken) -> _Work:
        version = version_of(self._epoch, taken.record.offset)
        document, cause = made_of(taken.record, version, self._generation, self._chunk)
        return _Work(taken, document) if cause is None else self._failed(taken, version, cause, document)

    def _failed(self, taken: Taken, version: int, cause: Poison, document: ChunkedDocument | None) -> _Work:
        """A letter, and the version without its text in place of what cannot be sent on."""
        letter = letter_of(taken.record, self._generation, "chunk", version, cause, 1)
        if document is not None:
            document = failed(document, f"{letter.reason}: {letter.detail}")
        return _Work(taken, document, letter)

    def _publish(self, works: list[_Work]) -> None:
        """All at once; halved down to what is too large for the topic, in the order of the records."""
        sent = [work for work in works if work.document is not None]
        try:
            self._send(sent)
        except Poison as error:
            if len(sent) > 1:
                middle = len(sent) // 2
                self._publish(sent[:middle])
                self._publish(sent[middle:])
                return
            (work,) = sent
            # Over the limit even without its text: the letter is all that can be written.
            bare = work.document is not None and work.document.state == "failed"
            document = None if bare else work.document
            failed = self._failed(work.taken, version_of(self._epoch, work.taken.record.offset), error, document)
            work.document, work.letter = failed.document, failed.letter
            self._publish(works)

    def _send(self, works: list[_Work]) -> None:
        topic = self._names.chunks(self._generation)
        records = [
            # Into the partition number it was read from, so that a document's versions stay in order.
            NewRecord(topic, *encode_chunked(work.document), partition=work.taken.record.partition)
            for work in works
            if work.document is not None
        ]
        if records:
            self._patience.until_done(
                "broker", lambda: self._publisher.publish(records, Deadline.after(_PUBLISH_SECONDS))
            )
            self._sent += len(records)

    def _upkeep(self) -> None:
        """See how far the embed stage is, and trim what it has committed."""
        topic = self._names.chunks(self._generation)
        try:
            committed = self._broker.committed(self._names.group("embed", self._generation), topic)
            offsets = self._broker.offsets(topic)
            behind = sum(
                max(0, bounds.end - committed.get(partition, bounds.start)) for partition, bounds in offsets.items()
            )
            self._held_back = f"the embed stage is {behind} records behind" if behind > self._behind_limit else ""
            trim = {
                partition: offset
                for partition, offset in committed.items()
                if partition in offsets and offset - offsets[partition].start >= self._behind_limit // 4
            }
            if trim:
                self._broker.delete_records(topic, trim)
        except Transient as error:
            log.debug("upkeep put off", extra={"error": str(error)})
