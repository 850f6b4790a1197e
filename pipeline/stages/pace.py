"""How fast a generation may be built: live comes first.

Asked before every batch of work for a generation that is being built. It waits

* while the generation is paused;
* while the live generation is behind for longer than ``live_seconds``, wherever its workers run;
* while the live generation has work in this very process, for half a second at most, so that a
  continuous stream of changes cannot starve a migration;
* for the rest of the time that the throttle leaves: at 25 %, three times as long as the last batch.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_POLL_SECONDS: Final = 0.005
_YIELD_SECONDS: Final = 0.5
#: Live changes this recent mean that more will come: batches stay small until then.
_LIVELY_SECONDS: Final = 3.0
#: Padded tokens of one forward pass beside live changes: some 15 ms of MiniLM on two cores.
_SMALL_TOKENS: Final = 256


class LiveTraffic:
    """What this process knows of the live generation; written by its follower, read by every pace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: Callable[[], bool] = lambda: False
        self._behind_since: float | None = None
        self._lively_until = 0.0

    def serve(self, busy: Callable[[], bool]) -> None:
        """From now on, ``busy`` tells whether this process has live work."""
        self._busy = busy

    def sampled(self, lag: int) -> None:
        """So many records of the live generation are not applied."""
        now = time.monotonic()
        with self._lock:
            if lag == 0:
                self._behind_since = None
            elif self._behind_since is None:
                self._behind_since = now

    @property
    def behind_seconds(self) -> float:
        """For how long there was always something that was not applied."""
        with self._lock:
            return 0.0 if self._behind_since is None else time.monotonic() - self._behind_since

    @property
    def busy(self) -> bool:
        """Live work is under way in this process."""
        busy = self._busy()
        if busy:
            self._lively_until = time.monotonic() + _LIVELY_SECONDS
        return busy

    @property
    def lively(self) -> bool:
        """Live work was under way in this process a moment ago."""
        return self.busy or time.monotonic() < self._lively_until


class Pace:
    """One generation's pace; free until it is told that the generation is being built.

    Used by the threads of one line.

    Args:
        live: traffic of the live generation.
        live_seconds: see the module.
    """

    def __init__(self, live: LiveTraffic, live_seconds: float) -> None:
        self._live = live
        self._live_seconds = live_seconds
        self._building = False
        self._paused = False
        self._share = 1.0
        self._rest_until = 0.0
        self._released = threading.Event()

    def set(self, *, building: bool, paused: bool, share: float) -> None:
        """As ``control`` says now."""
        self._building, self._paused, self._share = building, paused, share

    def release(self) -> None:
        """Wait no more: the line is ending."""
        self._released.set()

    @property
    def building(self) -> bool:
        """The generation is being built."""
        return self._building

    @property
    def held_back(self) -> str:
        """Why nothing should be read for this generation now; or empty."""
        if not self._building or self._released.is_set():
            return ""
        if self._paused:
            return "the migration is paused"
        return "the live generation is behind" if self._live.behind_seconds > self._live_seconds else ""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One batch of work: waits before it, and notes how long it took."""
        if not self._building:
            yield
            return
        self._wait()
        started = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._rest_until = now + (now - started) * (1.0 / self._share - 1.0)

    def batch_tokens(self, most: int) -> int:
        """Padded tokens of one forward pass.

        Args:
            most: what suits the device.
        """
        return min(most, _SMALL_TOKENS) if self._building and self._live.lively else most

    def _wait(self) -> None:
        yielded = time.monotonic() + _YIELD_SECONDS
        while not self._released.is_set() and self._building:
            now = time.monotonic()
            if not self.held_back and now >= self._rest_until and not (now < yielded and self._live.busy):
                return
            self._released.wait(_POLL_SECONDS)


def unhurried() -> Pace:
    """The pace of a generation that is not being built: none."""
    return Pace(LiveTraffic(), math.inf)
