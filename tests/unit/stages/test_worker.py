"""The worker's loop over a real log: what is committed, and when; what a lost partition leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, Fatal, PartitionsLost, StoreUnavailable
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import Consumer, NewRecord, TopicPartition, TopicSpec
from pipeline.stages.intervals import Intervals
from pipeline.stages.window import Taken
from pipeline.stages.worker import Worker, WorkerLimits

TOPIC, GROUP = "t", "g"
LIMITS = WorkerLimits(poll_seconds=0.001, commit_seconds=1e-6, drain_seconds=5)


class HandStage:
    """A stage that finishes exactly what it is told to, and writes down what the worker asks of it."""

    name = "embed"
    flush_seconds = 0.0
    held = 0
    steps = 0

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker
        self.offered: list[Taken] = []
        self.ready: list[Taken] = []
        self.committed_at_flush: list[dict[int, int]] = []
        self.flush_failures: list[Exception] = []
        self.places: dict[TopicPartition, int] = {}
        self.why_held_back = ""
        self.failure: Exception | None = None
        self.finish_at_stop = 0
        self.stopped = False

    def start(self) -> None:
        pass

    def offer(self, taken: Sequence[Taken]) -> None:
        self.offered += taken

    def finish(self, *offsets: int, partition: int = 0) -> None:
        wanted = {(partition, offset) for offset in offsets}
        self.ready += [one for one in self.offered if (one.record.partition, one.record.offset) in wanted and one.live]

    def finished(self) -> list[Taken]:
        done, self.ready = self.ready, []
        return done

    def flush(self) -> None:
        self.committed_at_flush.append(self.broker.committed(GROUP, TOPIC))
        if self.flush_failures:
            raise self.flush_failures.pop()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        pass

    def parked(self) -> Mapping[TopicPartition, int]:
        return self.places

    def held_back(self) -> str:
        return self.why_held_back

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def stop(self, drain: Deadline) -> None:
        self.stopped = True
        self.ready += self.offered[: self.finish_at_stop]


class Watched:
    """A consumer whose commits can be refused, and whose pauses can be seen."""

    def __init__(self, inner: Consumer) -> None:
        self.inner = inner
        self.refusals: list[Exception] = []
        self.paused: set[TopicPartition] = set()
        self.member = True

    def joined(self) -> bool:
        return self.member

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused |= set(partitions)
        self.inner.pause(partitions)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused -= set(partitions)
        self.inner.resume(partitions)

    def commit(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self.inner.commit(offsets, deadline)


@dataclass
class Bench:
    broker: EmbeddedBroker
    limits: WorkerLimits = LIMITS
    health: Health = field(default_factory=Health)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.stage = HandStage(self.broker)
        self.consumer = Watched(self.broker.consumer(GROUP, [TOPIC], "one"))
        self.worker = Worker(self.consumer, self.stage, self.limits, self.health, self.metrics)  # type: ignore[arg-type]

    def send(self, count: int, partition: int = 0, value: bytes = b"v") -> None:
        records = [NewRecord(TOPIC, b"k", value, partition=partition)] * count
        self.broker.publisher("test").publish(records, Deadline.after(5))

    def steps(self, count: int = 4) -> None:
        for _ in range(count):
            self.worker.step()

    def read(self, partition: int = 0) -> list[int]:
        return [one.record.offset for one in self.stage.offered if one.record.partition == partition]

    @property
    def committed(self) -> dict[int, int]:
        """Without partitions at 0, which are committed as they are read for the first time."""
        return {at: offset for at, offset in self.broker.committed(GROUP, TOPIC).items() if offset}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker(None)
    broker.ensure_topics([TopicSpec(TOPIC, 2, "delete", 1 << 20)])
    yield broker
    broker.close()


@pytest.fixture
def bench(broker: EmbeddedBroker) -> Bench:
    return Bench(broker)


def test_an_offset_is_committed_only_after_the_flush(bench: Bench) -> None:
    bench.send(2)
    bench.steps()
    assert bench.read() == [0, 1]
    bench.stage.finish(0, 1)
    bench.steps()
    assert [one.get(0, 0) for one in bench.stage.committed_at_flush] == [0]
    assert bench.committed == {0: 2}


def test_a_failing_flush_commits_nothing_and_says_so_until_it_succeeds(bench: Bench) -> None:
    bench.health.set_started()
    bench.send(1)
    bench.steps()
    bench.stage.flush_failures = [StoreUnavailable("no disk"), StoreUnavailable("no disk")]
    bench.stage.finish(0)
    bench.steps(2)
    assert bench.committed == {}
    assert bench.health.readyz().reasons == {"store.embed.flush": "no disk"}
    bench.steps(2)
    assert bench.committed == {0: 1}
    assert bench.health.readyz().ok


def test_nothing_beyond_an_unfinished_record_is_committed(bench: Bench) -> None:
    bench.send(4)
    bench.send(1, partition=1)
    bench.steps()
    bench.stage.finish(1, 2, 3)
    bench.stage.finish(0, partition=1)
    bench.steps()
    assert bench.committed == {1: 1}, "partition 0 waits for its first record, partition 1 does not"
    bench.stage.finish(0)
    bench.steps()
    assert bench.committed == {0: 4, 1: 1}


def test_stopping_commits_what_finished_and_nothing_else(bench: Bench) -> None:
    bench.send(3)
    bench.steps()
    bench.stage.finish_at_stop = 2
    stop = threading.Event()
    stop.set()
    bench.worker.run(stop)
    assert bench.stage.stopped
    assert bench.committed == {0: 2}


def test_a_last_commit_that_meets_a_rebalance_is_made_again(bench: Bench) -> None:
    """Given two workers that stop at once, then the one's leaving does not make the other's work be done twice."""
    bench.send(2)
    bench.steps()
    bench.stage.finish_at_stop = 2
    bench.consumer.refusals = [BrokerUnavailable("the group is rebalancing")] * 2
    bench.send(1)  # behind them, and not read any more
    stop = threading.Event()
    stop.set()
    bench.worker.run(stop)
    assert bench.committed == {0: 2}
    assert bench.read() == [0, 1]


def test_an_error_that_stops_a_lane_stops_the_worker_and_commits_nothing_unfinished(bench: Bench) -> None:
    bench.send(2)
    bench.steps()
    bench.stage.failure = Fatal("broken for good")
    with pytest.raises(Fatal, match="broken for good"):
        bench.worker.run(threading.Event())
    assert bench.committed == {}
    assert bench.health.livez().ok, "its loops ended on purpose"
    # And it has left the group: the next member has both partitions at once
    heir = bench.broker.consumer(GROUP, [TOPIC], "heir")
    assert len(heir.poll(1.0, 10).assigned) == 2


def test_a_lost_partition_is_forgotten_and_its_memory_given_back(broker: EmbeddedBroker) -> None:
    bench = Bench(broker, WorkerLimits(poll_seconds=0.001, commit_seconds=1e-6, in_flight_bytes=4_000))
    bench.send(3, value=b"x" * 1_000)
    bench.send(3, partition=1, value=b"x" * 1_000)
    bench.steps()
    held = bench.consumer.assignment()
    assert bench.consumer.paused == held, "6,000 bytes are over the limit"
    other = broker.consumer(GROUP, [TOPIC], "two")
    bench.steps(1)
    (left,) = bench.consumer.assignment()
    (lost,) = held - {left}
    other.poll(0.01, 0)
    assert other.assignment() == {lost}
    # Both finish; only what is still ours counts, and only it is committed
    taken = [one for one in bench.stage.offered if one.record.at == lost]
    assert not any(one.live for one in taken)
    bench.stage.ready += taken
    bench.stage.finish(0, 1, partition=left.partition)
    bench.steps()
    assert bench.committed == {left.partition: 2}
    assert bench.worker.in_flight == 1
    assert not bench.consumer.paused & {left}, "1,000 bytes are below half of the limit"


def test_records_in_flight_pause_reading_and_their_end_resumes_it(broker: EmbeddedBroker) -> None:
    limits = WorkerLimits(poll_seconds=0.001, commit_seconds=1e-6, in_flight_records=4, poll_records=2)
    bench = Bench(broker, limits)
    bench.send(10)
    bench.steps(8)
    assert bench.read() == [0, 1, 2, 3]
    bench.stage.finish(0, 1)
    bench.steps(4)
    assert bench.read() == [0, 1, 2, 3], "two left is not yet well below the limit"
    bench.stage.finish(3)
    bench.steps(4)
    assert len(bench.read()) > 4, "what is applied, if not committed, does not count"
    while bench.broker.lag(GROUP, TOPIC)[0]:
        bench.stage.finish(*bench.read())
        bench.steps(1)
    assert bench.read() == list(range(10))


def test_a_stage_too_far_ahead_is_not_read_for(bench: Bench) -> None:
    bench.steps(1)
    bench.stage.why_held_back = "the embed stage is 9 records behind"
    bench.steps(1)
    bench.send(2)
    bench.steps()
    assert bench.read() == []
    assert bench.worker.moving == set()
    bench.stage.why_held_back = ""
    bench.steps()
    assert bench.worker.moving == {0, 1}
    assert bench.read() == [0, 1]


def test_a_parked_partition_waits_at_its_record_while_the_other_goes_on(bench: Bench) -> None:
    bench.send(4)
    bench.steps()
    bench.stage.places = {TopicPartition(TOPIC, 0): 1}
    bench.stage.finish(0)
    bench.send(2, partition=1)
    bench.steps()
    bench.stage.finish(0, 1, partition=1)
    bench.steps()
    assert bench.committed == {0: 1, 1: 2}, "never beyond the record that waits"
    assert bench.worker.in_flight == 0, "what was read behind it holds no memory"
    assert bench.worker.moving == {1}


def test_a_commit_that_says_lost_reads_again_from_what_is_known_to_be_committed(bench: Bench) -> None:
    bench.send(2)
    bench.steps()
    bench.stage.finish(0)
    bench.steps()
    assert bench.committed == {0: 1}
    before = list(bench.stage.offered)
    bench.stage.finish(1)
    bench.consumer.refusals = [PartitionsLost("generation 8, not 7")]
    bench.steps()
    assert not before[1].live
    assert bench.read() == [0, 1, 1]
    assert bench.committed == {0: 1}
    bench.stage.finish(1)
    bench.steps()
    assert bench.committed == {0: 2}


def test_a_worker_is_ready_once_it_has_joined_its_group(bench: Bench) -> None:
    bench.health.set_started()
    bench.consumer.member = False
    bench.steps(1)
    assert bench.health.readyz().reasons == {"broker.embed.poll": "this worker has not joined its group yet"}
    bench.consumer.member = True
    bench.steps(1)
    assert bench.health.readyz().ok


def test_the_longest_time_between_two_polls_is_shown_as_a_part_of_what_it_may_be(bench: Bench) -> None:
    clock = [100.0]
    bench.worker._polls = Intervals(lambda: clock[0])

    def used() -> float | None:
        bench.worker.watch()
        labels = {"stage": "embed", "generation": ""}
        return bench.metrics.registry.get_sample_value("vectide_poll_budget_used_ratio", labels)

    bench.steps(1)
    clock[0] += 15
    bench.steps(1)
    assert used() == 0.25, "of 60 s"
    clock[0] += 30
    assert used() == 0.5, "it hangs, and somebody else looks"
    stop = threading.Event()
    stop.set()
    bench.worker.run(stop)
    assert used() is None, "it has ended"
