"""A stage that writes down what it was given, and a consumer that checks each commit against it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.broker.kafka import KafkaBroker
from pipeline.deadline import Deadline
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import Consumer, NewRecord, TopicPartition
from pipeline.stages.window import Taken
from pipeline.stages.worker import Worker, WorkerLimits
from tests.support.workers import Working, working


@dataclass
class Ledger:
    """A :class:`pipeline.stages.worker.Stage`: records take up to :attr:`seconds`, and overtake each other."""

    rng: random.Random
    seconds: float = 0.04
    name: str = "chunk"
    flush_seconds: float = 0.0
    held: int = 0
    steps: int = 0
    offered: list[tuple[int, int]] = field(default_factory=list)
    """Partition and offset, in the order in which they came."""
    applied: dict[int, set[int]] = field(default_factory=dict)
    assignments: list[frozenset[TopicPartition]] = field(default_factory=list)
    waiting: list[tuple[float, Taken]] = field(default_factory=list)

    def start(self) -> None:
        pass

    def offer(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            self.offered.append((one.record.partition, one.record.offset))
            self.waiting.append((time.monotonic() + self.rng.random() * self.seconds, one))

    def finished(self) -> list[Taken]:
        now = time.monotonic()
        done = [one for due, one in self.waiting if due <= now]
        self.waiting = [(due, one) for due, one in self.waiting if due > now]
        for one in done:
            if one.live:
                self.applied.setdefault(one.record.partition, set()).add(one.record.offset)
        return done

    def flush(self) -> None:
        pass

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.assignments.append(partitions)

    def parked(self) -> Mapping[TopicPartition, int]:
        return {}

    def held_back(self) -> str:
        return ""

    def raise_failure(self) -> None:
        pass

    def stop(self, drain: Deadline) -> None:
        pass


class Audited:
    """A consumer through which no offset is committed before everything below it was applied."""

    def __init__(self, inner: Consumer, ledger: Ledger) -> None:
        self.inner = inner
        self.ledger = ledger
        self.committed: dict[int, int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def commit(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        for at, offset in offsets.items():
            missing = set(range(offset)) - self.ledger.applied.get(at.partition, set())
            assert not missing, f"{at} is to be committed to {offset}, and {sorted(missing)} were never applied"
        self.inner.commit(offsets, deadline)
        self.committed |= {at.partition: offset for at, offset in offsets.items()}


@dataclass
class Reading(Working):
    """A worker at work on one topic of a mock cluster."""

    broker: KafkaBroker
    topic: str
    ledger: Ledger
    consumer: Audited
    health: Health
    sent: dict[int, int] = field(default_factory=dict)

    def send(self, count: int, partition: int = 0) -> None:
        """Publish records, one by one, so that the log has batches of one."""
        publisher = self.broker.publisher("test")
        for _ in range(count):
            publisher.publish([NewRecord(self.topic, b"k", b"v", (), partition)], Deadline.after(20))
        publisher.close(Deadline.after(1))
        self.sent[partition] = self.sent.get(partition, 0) + count

    def until_done(self) -> None:
        """Wait until all that was sent is applied and committed."""
        self.until(lambda: all(self.consumer.committed.get(at, 0) >= end for at, end in self.sent.items()))
        assert {at: len(offsets) for at, offsets in self.ledger.applied.items()} == self.sent

    def assert_read_once(self) -> None:
        """Nothing was read twice; but for a member that was out of its group, as on a machine that stood still."""
        twice = len(self.ledger.offered) - len(set(self.ledger.offered))
        assert not twice or len(self.ledger.assignments) > 1, self.ledger.offered


@contextmanager
def reading(
    broker: KafkaBroker, topic: str, group: str, seed: int, applied: int = 0, **limits: Any
) -> Iterator[Reading]:
    """A real worker in a thread over the real adapter; its failure is the test's, unless that takes it.

    Args:
        applied: records of partition 0 that an earlier worker has applied.
    """
    print(f"seed {seed}")
    health, metrics, ledger = Health(), Metrics(), Ledger(random.Random(seed))
    if applied:
        ledger.applied[0] = set(range(applied))
    health.set_started()
    consumer = Audited(broker.consumer(group, [topic], "wire"), ledger)
    bounds = {"commit_seconds": 0.05, "poll_seconds": 0.1, "drain_seconds": 1.0, "commit_timeout_seconds": 5.0}
    worker = Worker(consumer, ledger, WorkerLimits(**{**bounds, **limits}), health, metrics)  # type: ignore[arg-type]
    made = Reading(broker, topic, ledger, consumer, health)
    with working(worker, made.failure):
        yield made
    assert not made.failure, made.failure
