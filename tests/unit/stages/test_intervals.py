"""How long a loop's turns took: a peak is seen for a minute, a hang while it lasts, neither for ever."""

from __future__ import annotations

from pipeline.stages.intervals import Intervals


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def turns(intervals: Intervals, clock: Clock, seconds: float, each: float = 1.0) -> None:
    for _ in range(round(seconds / each)):
        clock.now += each
        intervals.mark()


def test_a_peak_is_seen_for_a_minute_and_not_for_ever() -> None:
    clock = Clock()
    intervals = Intervals(clock)
    turns(intervals, clock, 100)
    clock.now += 30
    intervals.mark()
    for _ in range(60):
        assert intervals.longest() == 30
        turns(intervals, clock, 1)
    turns(intervals, clock, 80)
    assert intervals.longest() == 1


def test_a_hang_is_seen_while_it_lasts() -> None:
    clock = Clock()
    intervals = Intervals(clock)
    turns(intervals, clock, 10)
    clock.now += 200
    assert intervals.longest() == 200
    intervals.mark()
    assert intervals.longest() == 200
    turns(intervals, clock, 130)
    assert intervals.longest() == 1


def test_a_peak_of_long_ago_does_not_come_back_with_a_late_turn() -> None:
    clock = Clock()
    intervals = Intervals(clock)
    turns(intervals, clock, 50, each=50)
    clock.now += 300
    intervals.mark()
    turns(intervals, clock, 130)
    assert intervals.longest() == 1
