"""A store as slow as treacle under the real worker and embed stage: little is in hand, and no partition moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.broker.kafka import KafkaBroker
from pipeline.codec import encode_chunked
from pipeline.config import ModelConfig
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.loading import load
from pipeline.identity import DocumentKey, content_hash
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import CollectionSpec, Consumer, NewRecord, Polled, TopicPartition
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.stages.embed import EmbedLimits
from pipeline.stages.worker import Worker, WorkerLimits
from pipeline.store.memory import MemoryCollection, MemoryStore
from tests.support.mock_kafka import Api, MockKafka, mocked
from tests.support.workers import NAMES, Working, embed_stage, working

GENERATION = "g0"
CHUNKS, GROUP = NAMES.chunks(GENERATION), NAMES.group("embed", GENERATION)
PARTITIONS = 2
#: A request takes longer than the time between polls, and two of them longer than that and a session together.
POLL_SECONDS, SESSION_SECONDS, REQUEST_SECONDS = 4.0, 6.0, 5.5
LIMITS = WorkerLimits(
    in_flight_records=20, in_flight_bytes=100_000, poll_records=4, commit_seconds=0.05, drain_seconds=5
)
LONG = 20_000


class Treacle:
    """A collection of a server whose every request takes long, until it is quick."""

    flush_each_batch = True

    def __init__(self, inner: MemoryCollection) -> None:
        self.inner, self.spec = inner, inner.spec
        self.quick = threading.Event()
        self.answered = 0

    def __getattr__(self, name: str) -> Any:
        return partial(self._slowly, getattr(self.inner, name))

    def _slowly(self, request: Any, *arguments: Any, **named: Any) -> Any:
        self.quick.wait(REQUEST_SECONDS)
        self.answered += 1
        return request(*arguments, **named)


class Counted:
    """A consumer that counts what it delivers, and keeps what became of its partitions."""

    def __init__(self, inner: Consumer) -> None:
        self.inner = inner
        self.polls = self.records = self.bytes = 0
        self.revoked: set[TopicPartition] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def poll(self, timeout: float, max_records: int) -> Polled:
        polled = self.inner.poll(timeout, max_records)
        self.polls += 1
        self.records += len(polled.records)
        self.bytes += sum(len(one.value or b"") + len(one.key or b"") for one in polled.records)
        self.revoked |= polled.revoked
        return polled


@dataclass
class Embedding(Working):
    broker: KafkaBroker
    store: Treacle
    consumer: Counted
    most: tuple[int, int] = (0, 0)
    """Records and bytes that were in hand at once."""
    sent: int = 0
    sizes: list[int] = field(default_factory=list)

    def send(self, count: int, length: int = 20) -> None:
        """Publish documents of one chunk."""
        records = []
        for number in range(self.sent, self.sent + count):
            text = f"document {number} ".ljust(length, ".")
            document = ChunkedDocument(
                DocumentKey("s", f"d{number}"), number + 1, GENERATION, "chunked", Provenance(time.time()), text,
                (ChunkSpan(0, len(text), content_hash(text), 4),), {}, "text/plain",
            )  # fmt: skip
            record = NewRecord(CHUNKS, *encode_chunked(document), partition=number % PARTITIONS)
            self.sizes.append(len(record.value or b"") + len(record.key or b""))
            records.append(record)
        publisher = self.broker.publisher("test")
        publisher.publish(records, Deadline.after(20))
        publisher.close(Deadline.after(1))
        self.sent += count

    def until_written(self) -> None:
        """Wait until all that was sent is in the store and committed."""
        self.until(lambda: self.store.inner.count_heads().get("complete", 0) == self.sent)
        self.until(lambda: not sum(self.broker.lag(GROUP, CHUNKS).values()))


@contextmanager
def embedding(broker: KafkaBroker) -> Iterator[Embedding]:
    health, metrics = Health(), Metrics()
    model = load(ModelConfig(provider="hashing", name="hashing"))
    spec = CollectionSpec(NAMES.collection(GENERATION), GENERATION, model.spec.dimension, "cosine", "m", "c")
    store = Treacle(MemoryStore().create(spec))
    stage = embed_stage(
        store,
        lambda items: embed_all(model, items, 4096, 64),
        broker.publisher("embed"),
        health,
        metrics,
        EmbedLimits(delete_grace_seconds=0.2),
    )
    made = Embedding(broker, store, Counted(broker.consumer(GROUP, [CHUNKS], "embed")))

    def look() -> None:
        window = worker._window
        made.most = max(made.most[0], window.waiting), max(made.most[1], window.waiting_bytes)

    worker = Worker(made.consumer, stage, LIMITS, health, metrics, look)  # type: ignore[arg-type]
    with working(worker, made.failure):
        try:
            yield made
        finally:
            store.quick.set()
    assert not made.failure, made.failure


def test_a_store_as_slow_as_treacle_holds_the_reading_up_and_nothing_else(cluster: MockKafka) -> None:
    """Given records and then bytes over the limits, and a store that answers after a group's patience is over, then no
    more is read than may be in hand, no partition moves and nobody joins again; then all of it is written.
    """
    for topic in (CHUNKS, NAMES.dead_letters):
        cluster.topic(topic, PARTITIONS)
    with (
        mocked(cluster, session_timeout_seconds=SESSION_SECONDS, max_poll_interval_seconds=POLL_SECONDS) as broker,
        embedding(broker) as at_work,
    ):
        store, consumer = at_work.store, at_work.consumer
        at_work.until(lambda: len(consumer.assignment()) == PARTITIONS)
        cluster.watch()
        at_work.send(60)
        at_work.until(lambda: consumer.records >= LIMITS.in_flight_records)
        before = store.answered
        at_work.until(
            lambda: store.answered >= before + 3
        )  # the lanes ask side by side: two of the three do so in turn
        assert consumer.records < LIMITS.in_flight_records + LIMITS.poll_records
        assert disturbances(cluster) == (0, 0), "it was out of its group meanwhile"
        store.quick.set()
        at_work.until_written()
        store.quick.clear()
        read = consumer.bytes
        at_work.send(20, LONG)
        at_work.until(lambda: consumer.bytes - read >= LIMITS.in_flight_bytes)
        polls = consumer.polls
        at_work.until(lambda: consumer.polls >= polls + 10)  # each would have brought more
        store.quick.set()
        at_work.until_written()
        records, size = at_work.most
        assert LIMITS.in_flight_records <= records < LIMITS.in_flight_records + LIMITS.poll_records
        assert LIMITS.in_flight_bytes <= size < LIMITS.in_flight_bytes + LIMITS.poll_records * max(at_work.sizes)
        assert not consumer.revoked
        assert disturbances(cluster) == (0, 0)


def disturbances(cluster: MockKafka) -> tuple[int, int]:
    """Who joined and who left since the watch began."""
    return cluster.seen(Api.JOIN_GROUP), cluster.seen(Api.LEAVE_GROUP)
