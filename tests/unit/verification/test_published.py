"""When a generation was last verified, as ``status`` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.config import PipelineConfig
from pipeline.deadline import Deadline
from pipeline.ports import NewRecord
from pipeline.stages.reports import Reporter, read_reports
from pipeline.verification.published import Verified, last_verified, publish
from tests.support.workers import NAMES, memory_broker


@dataclass
class Place:
    broker: EmbeddedBroker

    def publish(self, **changes: object) -> Verified:
        one = Verified("g1", 5.0, 1.0, "patrol", ok=True, documents=3, findings={}, vectors=7)
        one = msgspec.structs.replace(one, **changes)
        publish(self.broker.publisher("t"), NAMES, one)
        return one


@pytest.fixture
def place() -> Iterator[Place]:
    with memory_broker(PipelineConfig(prefix="t", name="p")) as broker:
        yield Place(broker)


def test_the_last_outcome_of_each_generation_is_found_among_workers_reports(place: Place) -> None:
    reporter = Reporter(place.broker.publisher("r"), NAMES, "up", "g1", dict, lambda: (True, ""))
    reporter.now()
    place.publish(at=1.0)
    other = place.publish(generation="g2", findings={"missing": 2}, ok=False)
    last = place.publish(at=9.0, findings={"stale": 1}, repaired=1)
    reporter.now()
    assert last_verified(place.broker, NAMES) == {"g1": last, "g2": other}
    assert [one.role for one in read_reports(place.broker, NAMES)] == ["up"], "workers are still understood"
    assert last.as_json() == {
        "at": 9.0,
        "seconds": 1.0,
        "by": "patrol",
        "ok": True,
        "documents": 3,
        "findings": {"stale": 1},
        "vectors": 7,
        "repaired": 1,
    }


def test_what_a_later_vectide_says_is_left_aside(place: Place) -> None:
    record = NewRecord(NAMES.reports, b"verified/g9", b'{"generation": 5}')
    place.broker.publisher("t").publish([record], Deadline.after(5))
    assert last_verified(place.broker, NAMES) == {}
