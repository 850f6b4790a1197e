"""Reports: the last of each worker, counters as they are, and silence where the broker is away."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, NotAllowed
from pipeline.ports import NewRecord, Written
from pipeline.stages.reports import Reporter, read_reports
from tests.support.workers import NAMES


def test_each_worker_s_last_report_is_what_counts(broker: EmbeddedBroker) -> None:
    counters = {"chunks_embedded": 1.0}
    ready = [(False, "store: away")]
    one, two = (
        Reporter(broker.publisher(role), NAMES, role, "g", lambda: counters, lambda: ready[0])
        for role in ("chunk", "embed")
    )
    one.tick()
    two.tick()
    (first, second) = read_reports(broker, NAMES)
    assert first.worker != second.worker, "two in one process are told apart"
    assert {first.role, second.role} == {"chunk", "embed"}
    assert (first.ready, first.why, first.counters, first.ended) == (False, "store: away", counters, False)
    counters["chunks_embedded"], ready[0] = 2.0, (True, "")
    one.tick()
    assert [report.counters for report in read_reports(broker, NAMES)] == [{"chunks_embedded": 1.0}] * 2, "not yet due"
    one.now()
    two.end()
    by_role = {report.role: report for report in read_reports(broker, NAMES)}
    assert (by_role["chunk"].counters, by_role["chunk"].ready) == ({"chunks_embedded": 2.0}, True)
    assert (by_role["chunk"].ended, by_role["embed"].ended) == (False, True)


def test_a_broker_that_is_away_does_not_stop_a_worker_and_is_told() -> None:
    answers: list[Exception | None] = [BrokerUnavailable("away"), NotAllowed("not you"), None]

    class Away:
        def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
            error = answers.pop(0)
            if error is not None:
                raise error
            return []

        def close(self, deadline: Deadline) -> None: ...

    told: list[tuple[bool, str]] = []
    reporter = Reporter(Away(), NAMES, "chunk", "g", dict, lambda: (True, ""), (), lambda *of: told.append(of))
    for _ in range(3):
        reporter.now()
    # Who may not report can work all the same
    assert told == [(False, "away"), (True, "")]


def test_a_later_version_s_report_hides_no_other(broker: EmbeddedBroker) -> None:
    Reporter(broker.publisher("r"), NAMES, "chunk", "g", dict, lambda: (True, "")).now()
    broker.publisher("x").publish([NewRecord(NAMES.reports, b"w", b'{"shape": "new"}')], Deadline.after(5))
    assert [report.role for report in read_reports(broker, NAMES)] == ["chunk"]
