"""A source whose hints are away alone: a queue does not answer, and the bucket does."""

from __future__ import annotations

import pytest

from connectors.hearing import Hearing, Unheard
from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from pipeline.errors import SourceUnavailable
from pipeline.ports import Hint
from tests.support.sources import Documents, running, wait_until
from tests.unit.connectors.faults import Spy


class Deaf(Spy):
    """Its documents can be listed and read; its hints are away."""

    away = True
    asked = 0

    def hints(self, timeout: float) -> list[Hint]:
        self.asked += 1
        if self.away:
            raise SourceUnavailable("the queue is away")
        return super().hints(timeout)


def test_scans_go_on_while_hints_are_away(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a queue that is away from the beginning, then the first scan ends, those that are due find what changed,
    and the process is not ready and says why. Once it is back, its hints count.
    """
    monkeypatch.setattr("connectors.hearing._SCAN_WAITS_SECONDS", 0.1)
    source = MemorySource("m")
    source.put("first", "1")
    deaf = Deaf(source)
    with running(deaf, documents, limits=RunnerLimits(rescan_seconds=0.2, hints_seconds=0.01)) as one:
        documents.wait_for({"first": "1"})
        one.wait_scanned()
        source.put("second", "2")
        documents.wait_for({"first": "1", "second": "2"})
        wait_until(lambda: "the queue is away" in one.not_ready())
        deaf.away = False
        wait_until(lambda: not one.not_ready())
        one.runner._next_scan = float("inf")
        source.put("third", "3")
        documents.wait_for({"first": "1", "second": "2", "third": "3"})


class DeafAfterwards(Deaf):
    """Its hints are away after the next ones."""

    away = False
    armed = False

    def hints(self, timeout: float) -> list[Hint]:
        found = super().hints(timeout)
        self.away = self.armed and bool(found)
        return found


def test_a_look_that_is_due_does_not_wait_for_hints(documents: Documents) -> None:
    """Given a document that is hinted to be gone, and hints that are away from then on, then it is deleted all the
    same: its second look does that, and the next scan is far away.
    """
    source = MemorySource("m")
    source.put("gone", "1")
    source.put("stays", "1")
    deaf = DeafAfterwards(source)
    with running(deaf, documents, limits=RunnerLimits(rescan_seconds=3600.0, hints_seconds=0.01)) as one:
        documents.wait_for({"gone": "1", "stays": "1"})
        one.wait_scanned()
        deaf.armed = True
        source.remove("gone")
        documents.wait_for({"stays": "1"})
        wait_until(lambda: "the queue is away" in one.not_ready())


def test_a_scan_waits_for_hints_before_it_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mostly everything is away, and the scan would have to begin anew. Then it does not ask all the time."""
    now = [1000.0]
    monkeypatch.setattr("connectors.hearing.time.monotonic", lambda: now[0])
    deaf, due = Deaf(MemorySource("m")), [True]
    hearing = Hearing(deaf, lambda now: due[0])  # type: ignore[arg-type]
    hearing.scanning = True
    for _ in range(3):
        with pytest.raises(SourceUnavailable):
            hearing.hints(0.0)
        now[0] += 10.0
    for _ in range(5):
        with pytest.raises(Unheard, match="the queue is away"):
            hearing.hints(0.0)
    assert deaf.asked == 4
    now[0] += 10.0
    deaf.away = False
    assert hearing.hints(0.0) == []
    deaf.away = True
    with pytest.raises(SourceUnavailable):
        hearing.hints(0.0)
    hearing.scanning, due[0] = False, False
    now[0] += 3600.0
    with pytest.raises(SourceUnavailable):
        hearing.hints(0.0)
    due[0] = True
    with pytest.raises(Unheard):
        hearing.hints(0.0)
