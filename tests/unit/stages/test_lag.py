"""The watchdog of a worker that stands still: a restart must be able to cure what it fails for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import NewRecord, TopicPartition, TopicSpec
from pipeline.stages import lag
from pipeline.stages.lag import LagSampler

LIMIT = 0.05


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedBroker]:
    monkeypatch.setattr(lag, "_EVERY_SECONDS", 0.0)
    broker = EmbeddedBroker(None)
    broker.ensure_topics([TopicSpec("t", 2, "delete", 1 << 20)])
    broker.consumer("g", ["t"], "one").poll(1.0, 10)
    records = [NewRecord("t", b"k", b"v", partition=0)] * 500
    broker.publisher("test").publish(records, Deadline.after(5))
    yield broker
    broker.close()


@dataclass
class Worker:
    moving: frozenset[int]
    steps: int = 0


class Clock:
    """Time that passes by the tick: a machine that is busy with others must not fail these tests."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(broker: EmbeddedBroker, health: Health, *moving: int, steps: int = 0) -> bool:
    """Alive, after more than ten limits of sampling?"""
    worker = Worker(frozenset(moving))
    clock = health._clock
    assert isinstance(clock, Clock)
    sampler = LagSampler(broker, "g", "t", worker, health, Metrics())
    for _ in range(150):
        sampler.tick()
        worker.steps += steps
        clock.now += LIMIT / 10
    return health.livez().ok


def test_a_partition_of_ours_that_stands_still_fails_liveness(broker: EmbeddedBroker) -> None:
    health = Health(LIMIT, Clock())
    assert not watched(broker, health, 0, 1)
    assert "behind" in health.livez().reasons["g"]


def test_one_record_that_is_worked_on_for_long_does_not(broker: EmbeddedBroker) -> None:
    assert watched(broker, Health(LIMIT, Clock()), 0, 1, steps=1)


def test_another_s_partition_and_one_that_waits_do_not(broker: EmbeddedBroker) -> None:
    assert watched(broker, Health(LIMIT, Clock()), 1)
    assert watched(broker, Health(LIMIT, Clock()))


def test_an_outage_that_is_known_does_not(broker: EmbeddedBroker) -> None:
    health = Health(LIMIT, Clock())
    health.set_ready("store", False, "away")
    assert watched(broker, health, 0, 1)


def test_lag_and_offsets_are_shown_with_their_stage_and_go_with_their_line(broker: EmbeddedBroker) -> None:
    metrics, consumer = Metrics(), broker.consumer("h", ["t"], "one")
    consumer.poll(1.0, 10)
    sampler = LagSampler(broker, "h", "t", Worker(frozenset()), Health(), metrics, "embed", "g1")
    sampler.tick()

    def shown(name: str, partition: int) -> float | None:
        labels = {"topic": "t", "partition": str(partition), "group": "h", "stage": "embed", "generation": "g1"}
        return metrics.registry.get_sample_value(f"vectide_consumer_{name}", labels)

    assert [shown("lag_records", 0), shown("lag_records", 1)] == [500, 0]
    assert shown("committed_offset", 0) is None, "nothing was committed"
    consumer.commit({TopicPartition("t", 0): 10}, Deadline.after(5))
    sampler.tick()
    assert [shown("lag_records", 0), shown("committed_offset", 0)] == [490, 10]
    sampler.forget()
    assert [shown("lag_records", 0), shown("lag_records", 1), shown("committed_offset", 0)] == [None] * 3
