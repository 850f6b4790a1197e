"""How long a loop's turns take at most: a peak is seen by whoever looks within a minute of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_WINDOW_SECONDS: Final = 60.0


class Intervals:
    """The times between the calls of :meth:`mark`; one thread marks, others look.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._began = self._last
        self._longest = 0.0
        self._before = 0.0

    def mark(self) -> None:
        """Now."""
        now = self._clock()
        self._turn(now)
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def longest(self) -> float:
        """Seconds: of the last minute at least and two at most, and the interval that has not ended."""
        return max(self._before, self._longest, self._clock() - self._last)

    def _turn(self, now: float) -> None:
        if now - self._began >= _WINDOW_SECONDS:
            recent = now - self._began < 2 * _WINDOW_SECONDS
            self._before = self._longest if recent else 0.0
            self._longest, self._began = 0.0, now
