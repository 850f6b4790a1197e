"""The chunk stage: document events in, chunked documents out, into the same partition number.

1. Decode and cut each document. What cannot be cut becomes a dead letter *and* a failed version
   that is sent on, so that its head advances and says so.
2. Publish the batch; durable on return. Only then are the events finished.

Publishing twice is harmless: the embed stage sees an equal version.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.codec import decode_event, encode_chunked
from pipeline.deadline import Deadline
from pipeline.errors import MalformedRecord, NewerSchema, Poison, Transient
from pipeline.identity import version_of
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import Broker, NewRecord, Publisher, TopicPartition
from pipeline.records import ChunkedDocument, ChunkSpan, DeadLetter, DocumentDeleted, DocumentEvent
from pipeline.specs import GenerationSpec
from pipeline.stages.dead_letters import bury, failed_document, letter_of
from pipeline.stages.lane import Lane
from pipeline.stages.parking import Parking
from pipeline.stages.window import Taken

log = logging.getLogger(__name__)

Chunk = Callable[[str, str], Sequence[ChunkSpan]]
"""Text and media type to spans."""

#: Documents chunked and published together.
_BATCH: Final = 64
_PUBLISH_SECONDS: Final = 30.0
_UPKEEP_SECONDS: Final = 5.0


def chunked(event: DocumentEvent, version: int, generation: str, chunk: Chunk) -> ChunkedDocument:
    """One event at one version, cut up for one generation. Pure.

    Raises:
        Poison: it cannot be cut.
    """
    if isinstance(event, DocumentDeleted):
        return ChunkedDocument(event.key, version, generation, "deleted", event.provenance)
    if event.text is None:
        return ChunkedDocument(
            key=event.key,
            version=version,
            generation=generation,
            state="omitted",
            provenance=event.provenance,
            metadata=event.metadata,
            media_type=event.media_type,
            reason=event.omitted or "published without its text",
        )
    return ChunkedDocument(
        key=event.key,
        version=version,
        generation=generation,
        state="chunked",
        provenance=event.provenance,
        text=event.text,
        chunks=tuple(chunk(event.text, event.media_type)),
        metadata=event.metadata,
        media_type=event.media_type,
    )


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
    ) -> None:
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
        self._parking = Parking(self.name, health)
        self._held_back = ""
        self._next_upkeep = 0.0
        self._lane = Lane("chunk", self._turn)

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

    def parked(self) -> frozenset[TopicPartition]:
        """Partitions that wait for an upgrade."""
        return self._parking.partitions

    def held_back(self) -> str:
        """Says so when the embed stage is too far behind."""
        return self._held_back

    def raise_failure(self) -> None:
        """Raise what stopped the thread, if anything did."""
        self._lane.raise_failure()

    def stop(self, drain: Deadline) -> None:
        """Finish what was offered, as far as the deadline allows."""
        while not self._inbox.empty() and not drain.expired and not self._lane.ended:
            time.sleep(0.01)
        if not self._lane.stop(drain):
            log.warning("chunk lane did not end within the drain budget")

    def _turn(self) -> None:
        batch = self._gather()
        if batch:
            self._run(batch)
        if time.monotonic() >= self._next_upkeep:
            self._next_upkeep = time.monotonic() + _UPKEEP_SECONDS
            self._upkeep()

    def _gather(self) -> list[Taken]:
        batch: list[Taken] = []
        try:
            batch.append(self._inbox.get(timeout=0.1))
            while len(batch) < _BATCH:
                batch.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        # A lost partition's records are the next owner's: nothing more is written for them.
        for lost in (one for one in batch if not one.live):
            self._finished.put(lost)
        return [one for one in batch if one.live]

    def _run(self, batch: list[Taken]) -> None:
        started = time.monotonic()
        out: list[NewRecord] = []
        letters: list[DeadLetter] = []
        done: list[Taken] = []
        for taken in batch:
            if self._parking.holds(taken):
                continue
            try:
                document = self._chunked(taken, letters)
            except NewerSchema as error:
                self._parking.park(taken, error)
                continue
            done.append(taken)
            if document is not None:
                out.append(self._record(taken, document))
        self._patience.until_done("broker", lambda: self._publish(out, letters))
        for letter in letters:
            self._metrics.dead_letters.labels(letter.reason).inc()
        self._metrics.records_processed.labels(self.name, "ok").inc(len(done) - len(letters))
        self._metrics.records_processed.labels(self.name, "dead_letter").inc(len(letters))
        self._metrics.stage_duration_seconds.labels(self.name).observe(time.monotonic() - started)
        self._metrics.batch_size_records.labels(self.name).observe(len(batch))
        for taken in done:
            self._finished.put(taken)

    def _chunked(self, taken: Taken, letters: list[DeadLetter]) -> ChunkedDocument | None:
        record = taken.record
        version = version_of(self._epoch, record.offset)
        try:
            event = decode_event(record)
        except MalformedRecord as error:
            letters.append(letter_of(record, self._generation, "chunk", version, error, 1))
            return None
        if event is None:
            return None
        try:
            return chunked(event, version, self._generation, self._chunk)
        except Poison as error:
            letters.append(letter_of(record, self._generation, "chunk", version, error, 1))
            return failed_document(event, version, self._generation, str(error))

    def _record(self, taken: Taken, document: ChunkedDocument) -> NewRecord:
        return NewRecord(
            self._names.chunks(self._generation), *encode_chunked(document), partition=taken.record.partition
        )

    def _publish(self, out: list[NewRecord], letters: list[DeadLetter]) -> None:
        deadline = Deadline.after(_PUBLISH_SECONDS)
        if out:
            self._publisher.publish(out, deadline)
        bury(self._publisher, self._names, letters)

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
