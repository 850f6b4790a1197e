"""Workers of a schedule: the lines of :mod:`pipeline.cli.lines`, with stages that work one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.chunking.documents import chunked
from pipeline.cli import line, lines
from pipeline.cli.assembly import Followed, Models, Parts
from pipeline.codec import decode_chunked, decode_event, encode_chunked
from pipeline.deadline import Deadline
from pipeline.errors import Fatal, PartitionsLost, Transient
from pipeline.generations import operator, transitions
from pipeline.generations.control import LogIdentity
from pipeline.identity import version_of
from pipeline.points import Vectors
from pipeline.ports import Broker, NewRecord, TopicPartition
from pipeline.ports import Collection as StoredCollection
from pipeline.records import ChunkedDocument
from pipeline.specs import GenerationSpec
from pipeline.stages.pace import Pace
from pipeline.sync import Outcome, prepare, sweep_deleted, synchronise, upsert_slice, write
from tests.simulation.migration_corpus import EPOCH, NAMES, spans_of, vector_of
from tests.simulation.migration_time import Event, Timeline

T = TypeVar("T")

#: Between two attempts in an outage.
_RETRY_SECONDS = 0.1
_MOST_RECORDS = 4


class Injected(Fatal):
    """What a schedule makes a line fail with."""


@dataclass
class Habits:
    """Chances and times of the workers of a schedule."""

    commit: float = 0.6
    """After a batch; else it comes with a later one."""
    slices: float = 0.2
    fatal: float = 0.0
    """That a batch of a generation that is being built breaks its model."""
    donor_seconds: float = 0.0
    poll_seconds: float = 0.2
    """Between two looks for records."""


@dataclass
class _Stage:
    """One stage's worker: what :class:`pipeline.cli.line.Line` asks of it, and its loop."""

    timeline: Timeline
    habits: Habits
    broker: Broker
    spec: GenerationSpec
    pace: Pace
    consumer: Any = None
    """A member of the stage's group, from before its loop begins."""
    busy: bool = False
    steps: int = 0
    moving: frozenset[int] = frozenset()
    stop: Event | None = None
    committed: dict[TopicPartition, int] = field(default_factory=dict)

    def watch(self) -> None:
        """It has no group that could lose patience with it."""

    def run(self, stop: Event) -> None:
        """Until it is told to stop."""
        self.stop = stop
        random, consumer = self.timeline.random, self.consumer
        try:
            while not stop.is_set():
                if self.pace.held_back:
                    stop.wait(self.habits.poll_seconds)
                    continue
                polled = self.patiently(lambda: consumer.poll(0.0, random.randint(1, _MOST_RECORDS)))
                for at in polled.revoked:
                    self.committed.pop(at, None)
                    self.forget(at)
                if polled.records:
                    self.busy = True
                    self.work([(one.at, one) for one in polled.records])
                    self.busy = False
                    self.steps += 1
                self.tidy()
                if not polled.records or random.random() < self.habits.commit:
                    self.commit()
                if not polled.records:
                    stop.wait(self.habits.poll_seconds)
            self.tidy(now=True)
            self.commit()
        finally:
            consumer.close(Deadline.never())

    def work(self, records: list[tuple[TopicPartition, Any]]) -> None:
        """Make a batch's effect durable."""
        raise NotImplementedError

    def forget(self, at: TopicPartition) -> None:
        """A partition is another's."""

    def tidy(self, *, now: bool = False) -> None:
        """What comes later than a batch."""

    @property
    def unfinished(self) -> bool:
        """Something that was read has not had all of its effect."""
        return False

    def commit(self) -> None:
        """Everything that was read is done: commit positions, beyond what compaction took."""
        consumer = self.consumer
        if self.unfinished:
            return
        offsets = {at: consumer.position(at) for at in sorted(consumer.assignment())}
        moved = {at: offset for at, offset in offsets.items() if self.committed.get(at) != offset}
        if not moved:
            return
        try:
            consumer.commit(moved, Deadline.never())
            self.committed.update(moved)
        except PartitionsLost:
            self.committed.clear()
        except Transient:
            pass

    def patiently(self, request: Callable[[], T]) -> T:
        """Through an outage, until it is told to stop."""
        while True:
            try:
                return request()
            except PartitionsLost:
                raise
            except Transient:
                assert self.stop is not None
                if self.stop.wait(_RETRY_SECONDS):
                    raise


@dataclass
class _ChunkStage(_Stage):
    def work(self, records: list[tuple[TopicPartition, Any]]) -> None:
        made = []
        last = {record.key: record.offset for _, record in records} if self.pace.building else {}
        for at, record in records:
            if record.offset < last.get(record.key, 0):
                continue  # as the product's stage: a later record of the document is in this batch
            event = decode_event(record)
            assert event is not None
            document = chunked(event, version_of(EPOCH, record.offset), self.spec.id, self._cut)
            made.append(NewRecord(NAMES.chunks(self.spec.id), *encode_chunked(document), partition=at.partition))
        publisher = self.broker.publisher("chunk")
        self.patiently(lambda: publisher.publish(made, Deadline.never()))

    def _cut(self, text: str, media_type: str) -> Sequence[Any]:
        return spans_of(self.spec.chunking, text, media_type)


@dataclass
class _EmbedStage(_Stage):
    collection: StoredCollection = None  # type: ignore[assignment] # fields of the base come first
    siblings: Sequence[StoredCollection] = ()
    building: Callable[[], bool] = lambda: False
    held: list[tuple[float, str, TopicPartition]] = field(default_factory=list)
    """Deleted documents whose sweep is not due yet."""

    def work(self, records: list[tuple[TopicPartition, Any]]) -> None:
        random, collection = self.timeline.random, self.collection
        documents = [decode_chunked(record) for _, record in records]
        places = {document.key.doc: at for document, (at, _) in zip(documents, records, strict=True)}
        prepared = self.patiently(lambda: prepare(collection, documents, self.siblings))
        if self.building() and random.random() < self.habits.fatal:
            raise Injected("injected: the model fails on any text")
        vectors: dict[str, Vectors] = {}
        items = prepared.to_embed
        size = random.randint(1, 2) if random.random() < self.habits.slices else max(1, len(items))
        for start in range(0, len(items), size):
            part, _ = self.embed(items[start : start + size])
            vectors.update(part)
            if start + size < len(items):
                self.patiently(lambda part=part: upsert_slice(prepared, part))  # type: ignore[misc]
        outcomes = self.patiently(lambda: write(prepared, vectors, {}, self.habits.donor_seconds))
        again = [one.document for one in outcomes if one.result == "again"]
        if again:
            outcomes = [one for one in outcomes if one.result != "again"] + self._again(again)
        due = self.timeline.now + self.habits.donor_seconds
        self.held += [
            (due, one.document.key.doc, places[one.document.key.doc]) for one in outcomes if one.sweep_after is not None
        ]

    def _again(self, documents: list[ChunkedDocument]) -> list[Outcome]:
        return self.patiently(
            lambda: synchronise(
                self.collection, documents, self.embed, self.siblings, donor_seconds=self.habits.donor_seconds
            )
        )

    def embed(self, items: Sequence[Any]) -> tuple[dict[str, Vectors], Mapping[str, str]]:
        """The model."""
        return {item.content_hash: vector_of(self.spec.model, item.text, query=False) for item in items}, {}

    def forget(self, at: TopicPartition) -> None:
        self.held = [one for one in self.held if one[2] != at]

    def tidy(self, *, now: bool = False) -> None:
        due = [one for one in self.held if now or one[0] <= self.timeline.now]
        if due:
            self.patiently(lambda: sweep_deleted(self.collection, [doc for _, doc, _ in due]))
            self.held = [one for one in self.held if one not in due]

    @property
    def unfinished(self) -> bool:
        return bool(self.held)


def line_with(timeline: Timeline, habits: Habits) -> type[line.Line]:
    """The product's line, around stages that work in the schedule's time."""

    class SimulatedLine(line.Line):
        def _chunk_stage(self) -> Any:
            return _ChunkStage(timeline, habits, self._parts.broker, self.spec, self.pace)

        def _embed_stage(self, collection: StoredCollection, models: Models) -> Any:
            return _EmbedStage(
                timeline,
                habits,
                self._parts.broker,
                self.spec,
                self.pace,
                collection=collection,
                siblings=self._siblings(),
                building=lambda: self.building,
            )

        def _worker(self, stage: Any, made: Any) -> Any:
            topic = NAMES.documents(EPOCH) if stage == "chunk" else NAMES.chunks(self.spec.id)
            made.consumer = self._parts.broker.consumer(NAMES.group(stage, self.spec.id), [topic], stage)
            return made

    return SimulatedLine


def work(
    parts: Parts,
    control: Followed,
    models: Models,
    stages: Collection[Any],
    stop: Event,
    proposed: GenerationSpec,
    log: LogIdentity,
    now: Callable[[], float],
) -> None:
    """A worker process, from its start to its end.

    Raises:
        Fatal: as the product's would, it ends with it.
    """
    followed = lines.Lines(parts, control, models, stages)

    def patiently(request: Callable[[], T]) -> T:
        while True:
            try:
                return request()
            except Transient:
                stop.wait(_RETRY_SECONDS)

    patiently(
        lambda: operator.found(parts.broker, parts.names, lambda state: transitions.found(state, proposed, now()), log)
    )
    patiently(lambda: followed.start_live(control()))
    followed.run(stop)
