"""Live comes first: what building waits for, and that it ends."""

from __future__ import annotations

import threading

import pytest

from pipeline.stages import pace as pacing
from pipeline.stages.pace import LiveTraffic, Pace, unhurried
from tests.support import clock as clock_

SECONDS = 10.0


class Clock(clock_.Clock):
    """What the pace takes for the time: it moves when the test says so, and for whoever rests; what happens meanwhile
    is done as soon as somebody rests.
    """

    # Of the event that wakes who rests.

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> None:
        self.meanwhile()
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


@pytest.fixture
def traffic(clock: Clock) -> LiveTraffic:
    return LiveTraffic()


@pytest.fixture
def pace(traffic: LiveTraffic) -> Pace:
    made = Pace(traffic, live_seconds=0.05)
    made.set(building=True, paused=False, share=1.0)
    return made


def begun(pace: Pace) -> threading.Event:
    """Set once a turn has begun."""
    event = threading.Event()

    def work() -> None:
        with pace.turn():
            event.set()

    threading.Thread(target=work, daemon=True).start()
    return event


def test_what_is_not_being_built_waits_for_nothing(traffic: LiveTraffic) -> None:
    traffic.serve(lambda: True, whole=True)
    for one in (unhurried(), Pace(traffic, 0.0)):
        one.set(building=False, paused=True, share=0.01)
        assert begun(one).wait(SECONDS)
        assert one.held_back == ""
        assert one.batch_tokens(1024) == 1024
        assert one.batch(64) == 64


def test_it_waits_while_it_is_paused(pace: Pace) -> None:
    pace.set(building=True, paused=True, share=1.0)
    waiting = begun(pace)
    assert not waiting.wait(0.1)
    assert "paused" in pace.held_back
    pace.set(building=True, paused=False, share=1.0)
    assert waiting.wait(SECONDS)


def took(pace: Pace, clock: Clock, seconds: float) -> None:
    with pace.turn():
        clock.now += seconds


def waited(pace: Pace, clock: Clock) -> float:
    """Seconds until the next turn of this thread begins."""
    pace._released = clock  # type: ignore[assignment]
    started = clock.now
    with pace.turn():
        return clock.now - started


def test_a_live_generation_that_is_behind_leaves_it_a_twentieth_of_the_time(
    pace: Pace, traffic: LiveTraffic, clock: Clock
) -> None:
    traffic.serve(lambda: True, whole=True)
    clock.now += 0.06
    took(pace, clock, 0.01)
    assert waited(pace, clock) >= 0.15, "nineteen times as long, but for what the clock rounds"


def test_elsewhere_it_is_behind_for_as_long_as_something_is_not_committed(clock: Clock) -> None:
    traffic = LiveTraffic(slack_seconds=0.05)
    traffic.sampled({"a": 3, "b": 5}, {"a": 3})
    assert traffic.behind_seconds == 0.0
    clock.now += 0.1
    assert traffic.behind_seconds > 0.0
    # A steady stream: there is always something newer, and the older is committed.
    traffic.sampled({"a": 4, "b": 9}, {"a": 3, "b": 5})
    assert traffic.behind_seconds == 0.0
    traffic.sampled({"a": 4, "b": 9}, {"a": 4, "b": 9})
    clock.now += 0.1
    assert traffic.behind_seconds == 0.0


def test_a_trickle_of_live_work_is_not_behind(pace: Pace, traffic: LiveTraffic, clock: Clock) -> None:
    busy = [False]
    traffic.serve(lambda: busy[0], whole=True)
    for _ in range(10):
        busy[0] = not busy[0]
        clock.now += 0.02
        assert traffic.behind_seconds <= 0.05


def test_live_work_in_this_process_goes_first_but_not_for_ever(pace: Pace, traffic: LiveTraffic, clock: Clock) -> None:
    pace = Pace(traffic, live_seconds=60.0)
    pace.set(building=True, paused=False, share=1.0)
    busy = True
    traffic.serve(lambda: busy, whole=True)
    took(pace, clock, 0.02)
    assert waited(pace, clock) >= 0.15, "nine times as long: beside a stream of live work it gets a tenth"
    busy = False
    took(pace, clock, 0.02)
    assert waited(pace, clock) < 0.1


def test_batches_are_small_while_live_changes_come_in(
    pace: Pace, traffic: LiveTraffic, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_LIVELY_SECONDS", 0.1)
    assert pace.batch_tokens(1024) == 1024
    busy = True
    traffic.serve(lambda: busy, whole=True)
    small = pace.batch_tokens(1024)
    assert small < 1024
    assert pace.batch(64) < 64
    assert pace.batch(1) == 1
    busy = False
    assert pace.batch_tokens(1024) == small, "more will come"
    clock.now += 0.15
    assert pace.batch_tokens(1024) == 1024
    assert pace.batch(64) == 64


def test_building_gets_a_third_of_the_time_while_live_changes_come_in(
    pace: Pace, traffic: LiveTraffic, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_LIVELY_SECONDS", 60.0)
    busy = True
    traffic.serve(lambda: busy, whole=True)
    assert traffic.lively
    busy = False
    took(pace, clock, 0.1)
    assert waited(pace, clock) >= 0.15, "more will come"


def test_a_throttle_rests_in_proportion_to_the_last_batch(pace: Pace, clock: Clock) -> None:
    pace.set(building=True, paused=False, share=0.25)
    took(pace, clock, 0.1)
    assert waited(pace, clock) >= 0.25, "three times as long, but for what the clock rounds"


def test_a_share_that_is_raised_counts_at_once(pace: Pace, clock: Clock) -> None:
    pace.set(building=True, paused=False, share=0.01)
    took(pace, clock, 0.2)
    clock.meanwhile = lambda: pace.set(building=True, paused=False, share=1.0)
    assert waited(pace, clock) < SECONDS


def test_a_line_that_ends_waits_no_more(pace: Pace) -> None:
    pace.set(building=True, paused=True, share=1.0)
    waiting = begun(pace)
    assert not waiting.wait(0.05)
    pace.release()
    assert waiting.wait(SECONDS)
    assert pace.held_back == ""


def test_a_generation_that_becomes_live_is_not_held_any_more(pace: Pace) -> None:
    pace.set(building=True, paused=True, share=0.01)
    waiting = begun(pace)
    assert not waiting.wait(0.05)
    pace.set(building=False, paused=True, share=0.01)
    assert waiting.wait(SECONDS)
