"""Live comes first: what building waits for, and that it ends."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.stages import pace as pacing
from pipeline.stages.pace import LiveTraffic, Pace, unhurried

SECONDS = 10.0


@pytest.fixture
def traffic() -> LiveTraffic:
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
    traffic.serve(lambda: True)
    for one in (unhurried(), Pace(traffic, 0.0)):
        one.set(building=False, paused=True, share=0.01)
        assert begun(one).wait(SECONDS)
        assert one.held_back == ""
        assert one.batch_tokens(1024) == 1024


def test_it_waits_while_it_is_paused(pace: Pace) -> None:
    pace.set(building=True, paused=True, share=1.0)
    waiting = begun(pace)
    assert not waiting.wait(0.1)
    assert "paused" in pace.held_back
    pace.set(building=True, paused=False, share=1.0)
    assert waiting.wait(SECONDS)


def test_it_waits_while_live_is_behind_for_longer_than_it_may(pace: Pace, traffic: LiveTraffic) -> None:
    traffic.sampled(3)
    assert begun(pace).wait(SECONDS), "for a moment it may be"
    time.sleep(0.06)
    waiting = begun(pace)
    assert not waiting.wait(0.1)
    assert "behind" in pace.held_back
    traffic.sampled(0)
    assert waiting.wait(SECONDS)


def test_live_work_in_this_process_goes_first_but_not_for_ever(
    pace: Pace, traffic: LiveTraffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_YIELD_SECONDS", 0.2)
    busy = True
    traffic.serve(lambda: busy)
    waiting = begun(pace)
    assert not waiting.wait(0.05)
    assert waiting.wait(SECONDS), "a stream of live changes cannot starve a migration"
    busy = False
    assert begun(pace).wait(SECONDS)


def test_batches_are_small_while_live_changes_come_in(
    pace: Pace, traffic: LiveTraffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_LIVELY_SECONDS", 0.1)
    assert pace.batch_tokens(1024) == 1024
    busy = True
    traffic.serve(lambda: busy)
    small = pace.batch_tokens(1024)
    assert small < 1024
    busy = False
    assert pace.batch_tokens(1024) == small, "more will come"
    time.sleep(0.15)
    assert pace.batch_tokens(1024) == 1024


def test_a_throttle_rests_in_proportion_to_the_last_batch(pace: Pace) -> None:
    pace.set(building=True, paused=False, share=0.25)
    with pace.turn():
        time.sleep(0.1)
    started = time.monotonic()
    with pace.turn():
        pass
    assert time.monotonic() - started >= 0.25, "three times as long, but for what the clock rounds"


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
