"""How fast a generation may be built: live comes first.

Asked before every batch of work for a generation that is being built. It waits

* while the generation is paused;
* while the live generation has work in this very process;
* for the rest of the time that the throttle leaves: at 25 %, three times as long as the last batch;
* while live changes come in to this process, for two thirds of the time, and its batches are small.

While the live generation is behind for longer than ``live_seconds``, building is throttled to a
twentieth of the time, and beside an endless stream of live work it still gets a tenth: a live
generation that cannot keep up must be possible to migrate away from.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_POLL_SECONDS: Final = 0.005
#: The least that building gets, beside a stream of live work and beside a live generation that is behind.
_BESIDE_WORK: Final = 0.1
_BEHIND: Final = 0.05
#: A batch of chunks can be held up by Kafka for minutes: that is no reason to rest for hours.
_REST_SECONDS: Final = 60.0
#: Looks at the live generation that are kept: at two a second, ten minutes.
_LOOKS: Final = 1200
#: Live changes this recent mean that more will come: batches stay small until then.
_LIVELY_SECONDS: Final = 3.0
#: Padded tokens of one forward pass beside live changes: some 10 ms of MiniLM on two cores.
SMALL_TOKENS: Final = 128
#: The most that building gets while live changes come in.
_BESIDE_CHANGES: Final = 1 / 3
#: Of a batch, beside live changes: cutting and writing hold the interpreter for as long as they are big.
_SMALL_PART: Final = 32


class LiveTraffic:
    """What this process knows of the live generation; written by its follower, read by every pace.

    Args:
        slack_seconds: how long records stay uncommitted although their effect is there: the delayed
            sweep of deletes, the gathering of flushes and commits.
    """

    def __init__(self, slack_seconds: float = 0.0) -> None:
        self._slack = slack_seconds
        self._lock = threading.Lock()
        self._busy: Callable[[], bool] | None = None
        self._whole = False
        self._idle_at = time.monotonic()
        self._lively_until = 0.0
        self._looks: deque[tuple[float, Mapping[Hashable, int]]] = deque(maxlen=_LOOKS)

    def serve(self, busy: Callable[[], bool] | None, *, whole: bool) -> None:
        """Take note of who does the live work.

        Args:
            busy: whether this process has some; None: it does none.
            whole: all of it is done here, so that nothing has to be asked of the broker.
        """
        with self._lock:
            if whole and not self._whole:
                self._idle_at = time.monotonic()
            self._busy, self._whole = busy, whole

    @property
    def here(self) -> bool:
        """True if this process does all of the live work."""
        return self._whole

    def sampled(self, ends: Mapping[Hashable, int], committed: Mapping[Hashable, int]) -> None:
        """Where the live generation's topics end, and what its groups have committed, by partition."""
        now = time.monotonic()
        with self._lock:
            self._looks.append((now, dict(ends)))
            while self._looks and all(committed.get(at, 0) >= end for at, end in self._looks[0][1].items()):
                self._looks.popleft()

    @property
    def behind_seconds(self) -> float:
        """For how long something has been waiting that is not applied."""
        now = time.monotonic()
        if self._whole:
            return now - self._idle_at if self.busy else 0.0
        with self._lock:
            # The first look whose ends are not all committed is as old as the oldest that waits.
            waits = now - self._looks[0][0] if self._looks else 0.0
        return max(0.0, waits - self._slack)

    @property
    def busy(self) -> bool:
        """Live work is under way in this process."""
        now, asked = time.monotonic(), self._busy
        if asked is not None and asked():
            self._lively_until = now + _LIVELY_SECONDS
            return True
        self._idle_at = now
        return False

    @property
    def lively(self) -> bool:
        """Live work was under way in this process a moment ago."""
        return self.busy or time.monotonic() < self._lively_until


class Pace:
    """One generation's pace; free until it is told that the generation is being built.

    Used by the threads of one line; each rests for itself.

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
        self._last = threading.local()
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
        paused = self._building and self._paused and not self._released.is_set()
        return "the migration is paused" if paused else ""

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
            self._last.ended = time.monotonic()
            self._last.took = self._last.ended - started

    def batch_tokens(self, most: int) -> int:
        """Padded tokens of one forward pass.

        Args:
            most: what suits the device.
        """
        return min(most, SMALL_TOKENS) if self._building and self._live.lively else most

    def batch(self, most: int) -> int:
        """Documents, or tokens, gathered into one batch.

        Args:
            most: of them at other times.
        """
        return max(1, most // _SMALL_PART) if self._building and self._live.lively else most

    def _wait(self) -> None:
        ended, took = getattr(self._last, "ended", 0.0), getattr(self._last, "took", 0.0)
        while not self._released.is_set() and self._building:
            # Asked anew each time: a share that was raised counts at once.
            share = self._share
            if self._live.behind_seconds > self._live_seconds:
                share = min(share, _BEHIND)
            if self._live.lively:
                share = min(share, _BESIDE_CHANGES)
            rested = time.monotonic() - ended
            rest = min(took * (1.0 / share - 1.0), _REST_SECONDS)
            yields = min(took * (1.0 / _BESIDE_WORK - 1.0), _REST_SECONDS)
            if not self._paused and rested >= rest and not (rested < yields and self._live.busy):
                return
            self._released.wait(_POLL_SECONDS)


def unhurried() -> Pace:
    """The pace of a generation that is not being built: none."""
    return Pace(LiveTraffic(), math.inf)
