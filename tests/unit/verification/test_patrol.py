"""The patrol: when it verifies, what it tells, what never happens to its worker, and how it makes room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pipeline.errors import BadVector, Fatal, StoreUnavailable, Transient
from pipeline.observe.metrics import Metrics
from pipeline.verification import patrol as module
from pipeline.verification.patrol import Pacer, Patrol, Round, Stopped

EVERY = 1000.0


@dataclass
class Bench:
    """A patrol over generations that are a list, at a time that a test sets."""

    monkeypatch: pytest.MonkeyPatch
    generations: list[str] = field(default_factory=lambda: ["live"])
    last: dict[str, float] = field(default_factory=dict)
    now: float = 1e9
    """By the wall clock; ``up`` by the monotonic one."""
    up: float = 5.0
    verified: list[str] = field(default_factory=list)
    outcome: Callable[[str], Round] = lambda id: Round({}, 1.0)
    metrics: Metrics = field(default_factory=Metrics)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(module.time, "time", lambda: self.now)
        self.monkeypatch.setattr(module.time, "monotonic", lambda: self.up)
        self.patrol = Patrol(lambda: self.generations, self._verify, lambda: self.last, EVERY, self.metrics)

    def _verify(self, id: str, stop: threading.Event) -> Round:
        self.verified.append(id)
        return self.outcome(id)

    def turn(self, later: float = 0.0) -> list[str]:
        """What it verifies at its next look."""
        self.now += later
        self.up += later
        self.verified.clear()
        self.patrol.turn(self.stop)
        return list(self.verified)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"vectide_verify_{name}", {"generation": "live", **labels})


def stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_each_generation_is_verified_once_in_its_time(bench: Bench) -> None:
    bench.generations.append("previous")
    assert bench.turn() == ["live", "previous"]
    assert bench.turn(EVERY / 2) == []
    assert bench.turn(EVERY / 2) == ["live", "previous"]


def test_a_restart_does_not_begin_the_time_anew(bench: Bench) -> None:
    bench.last["live"] = bench.now - EVERY + 100
    assert bench.turn() == []
    assert bench.metric("last_complete_timestamp_seconds") == bench.now - EVERY + 100, "nor for those who watch it"
    assert bench.turn(99) == []
    assert bench.turn(1) == ["live"]


@pytest.mark.parametrize("by", [90_000.0, -90_000.0])
def test_a_clock_that_is_set_during_a_round_silences_nothing(bench: Bench, by: float) -> None:
    """Given a wall clock that is 25 hours off while a round ends, and is then put right, then the next is in time."""

    def off(id: str) -> Round:
        bench.now += by
        return Round({}, 1.0)

    bench.outcome = off
    assert bench.turn() == ["live"]
    assert bench.metric("last_complete_timestamp_seconds") == bench.now, "what is published is what the clock said"
    bench.now -= by
    assert bench.turn(EVERY - 1) == []
    assert bench.turn(1) == ["live"]


@pytest.mark.parametrize("call", ["verify", "generations"])
def test_a_failure_is_tried_again_in_time_whatever_the_clock_says(bench: Bench, call: str) -> None:
    calls: list[float] = []

    def fail(*given: object) -> Round:
        calls.append(bench.up)
        bench.now += 90_000.0
        raise Fatal("the log was replaced")

    setattr(bench.patrol, call, fail)
    for later, times in ((0, 1), (299, 1), (1, 2)):
        bench.turn(later)
        assert len(calls) == times
        bench.now -= 90_000.0


def test_what_was_verified_by_a_clock_that_was_ahead_is_verified_after_one_time_at_most(bench: Bench) -> None:
    bench.last["live"] = bench.now + 90_000.0
    assert bench.turn(EVERY - 1) == []
    assert bench.turn(EVERY - 1) == []
    assert bench.turn(1) == ["live"]


def test_one_that_was_never_verified_here_goes_without_a_trace(bench: Bench) -> None:
    bench.last["live"] = bench.now
    bench.turn()
    bench.generations.clear()
    bench.turn()
    assert bench.metric("last_complete_timestamp_seconds") is None
    bench.patrol.run(stopped())
    assert bench.metrics.registry.get_sample_value("vectide_verify_interval_seconds") == EVERY


def test_what_is_found_is_shown_and_goes_when_it_is_no_longer_ours(bench: Bench) -> None:
    bench.outcome = lambda id: Round({"missing": 3, "wrong vector": 1}, 0.75)
    bench.turn()
    assert bench.metric("findings", kind="missing") == 3
    assert bench.metric("findings", kind="wrong vector") == 1
    assert bench.metric("findings", kind="orphan") == 0, "a series that appears only with its first finding is no use"
    assert bench.metric("last_complete_timestamp_seconds") == bench.now
    assert bench.metric("coverage_ratio") == 0.75
    bench.outcome = lambda id: Round({}, 1.0)
    bench.turn(EVERY)
    assert bench.metric("findings", kind="missing") == 0
    bench.generations.clear()
    bench.turn()
    assert bench.metric("findings", kind="missing") is None
    assert bench.metric("last_complete_timestamp_seconds") is None
    assert bench.metric("coverage_ratio") is None
    bench.generations.append("live")
    bench.last["live"] = bench.now
    assert bench.turn() == [], "another process has verified it meanwhile"


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("away"), Transient("behind"), Fatal("the log was replaced"), BadVector("x"), KeyError("a bug")],
)
def test_whatever_fails_is_tried_again_later_and_never_the_worker_s(bench: Bench, error: Exception) -> None:
    def fail(id: str) -> Round:
        raise error

    bench.outcome = fail
    assert bench.turn() == ["live"]
    assert bench.metric("last_complete_timestamp_seconds") == 0, "there is none, and an alert must see that"
    assert bench.metric("coverage_ratio") is None
    assert bench.turn(299) == []
    assert bench.turn(1) == ["live"]


def test_control_that_cannot_be_read_is_looked_at_again(bench: Bench) -> None:
    def away() -> list[str]:
        raise Transient("away")

    bench.patrol.generations = away
    assert bench.turn() == []
    bench.patrol.generations = lambda: bench.generations
    assert bench.turn() == ["live"]


@pytest.mark.parametrize("call", ["generations", "last"])
@pytest.mark.parametrize("error", [Fatal("there is no topic reports"), BadVector("x"), KeyError("a bug")])
def test_what_fails_around_a_verification_is_never_the_worker_s_either(
    bench: Bench, call: str, error: Exception
) -> None:
    calls: list[float] = []

    def fail() -> object:
        calls.append(bench.now)
        raise error

    working = getattr(bench.patrol, call)
    setattr(bench.patrol, call, fail)
    assert bench.turn() == []
    assert bench.turn(299) == []
    assert len(calls) == 1, "it is not said every second"
    setattr(bench.patrol, call, working)
    assert bench.turn(1) == ["live"]


def test_nothing_is_begun_once_the_process_ends(bench: Bench) -> None:
    bench.stop.set()
    assert bench.turn() == []
    thread = threading.Thread(target=bench.patrol.run, args=(bench.stop,))
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_a_patrol_that_is_switched_off_ends_at_once(bench: Bench) -> None:
    bench.patrol.every_seconds = 0.0
    bench.patrol.run(bench.stop)
    assert bench.verified == []


# -------------------------------------------------------------------------------- pace


class Clock:
    """Time that passes when somebody waits, and when work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_second: float = 100.0) -> None:
        self.now = 0.0
        self.busy = False
        self.busy_from = float("inf")
        self.waits: list[float] = []
        self.ends_at = float("inf")
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.pacer = Pacer(per_second, lambda: self.busy or self.now >= self.busy_from, self)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return self.now >= self.ends_at


def test_no_more_than_so_many_are_read_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for _ in range(10):
        clock.now += 0.1  # the page itself
        clock.pacer.pause(50)
    assert clock.now == pytest.approx(10 * 50 / 100)


def test_it_works_for_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.now += 3.0
    clock.pacer.pause(50)
    assert clock.now == pytest.approx(6.0)


def test_beside_live_work_it_gets_a_tenth_of_the_time_until_that_is_over_for_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    clock.busy = True
    clock.now += 1.0
    clock.pacer.pause(1)
    assert clock.now == pytest.approx(10.0)
    clock.busy = False
    clock.now += 0.05  # what is over may come again
    clock.pacer.pause(1)
    assert clock.now == pytest.approx(10.5)
    clock.now += 0.5
    clock.pacer.pause(1)
    assert clock.now == pytest.approx(11.5)


def test_live_work_that_comes_while_it_rests_makes_the_rest_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.now += 1.0
    clock.busy_from = 1.5
    clock.pacer.pause(1)
    assert clock.now == pytest.approx(10.0)


def test_a_process_that_was_stopped_has_not_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.busy = True
    clock.now += 3600.0
    clock.pacer.pause(1)
    assert clock.now == pytest.approx(3660.0)


def test_what_was_waited_is_no_work_to_make_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.busy = True
    clock.pacer.wait(600.0)
    clock.pacer.pause(1)
    assert clock.now < 600.1
    clock.now += 600.0  # somebody else's wait
    clock.pacer.rested()
    clock.pacer.pause(1)
    assert clock.now < 1200.2


def test_the_end_of_the_process_ends_any_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.ends_at = 0.2
    with pytest.raises(Stopped):
        clock.pacer.pause(1_000_000)
    clock = Clock(monkeypatch)
    clock.busy, clock.ends_at = True, 2.0
    clock.now += 1.0
    with pytest.raises(Stopped):
        clock.pacer.pause(1)
    assert clock.now < 3.0
