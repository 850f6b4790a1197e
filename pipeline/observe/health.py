"""Health of a process: alive (its loops turn), ready (it can work), started (its model is loaded).

Liveness never looks at Kafka or the store: an outage shows as not-ready and lag, with no restart. Nor
does it keep a process from having started: what waits for a dependency needs no restart either.
Liveness is the watchdog for a call that hangs: a loop that no longer beats fails it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.masking import without_passwords

#: A loop that has not beaten for longer is stuck: longer than a commit's timeout plus an embedded store's flush.
BEAT_LIMIT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One probe's answer."""

    ok: bool
    reasons: dict[str, str]
    """What is wrong, by part; empty if nothing is."""


class _Progress(NamedTuple):
    place: object
    since: float
    seen: float


class Health:
    """Shared by a process's threads.

    Args:
        beat_limit_seconds: a loop that has not beaten for longer is stuck. It must be longer than
            the longest legitimate turn: a commit's timeout plus an embedded store's flush.
        clock: seconds that only grow.
    """

    def __init__(
        self, beat_limit_seconds: float = BEAT_LIMIT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = beat_limit_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._beats: dict[str, float] = {}
        self._parts: dict[str, str] = {}
        self._progress: dict[str, _Progress] = {}
        self._started = False

    def beat(self, loop: str) -> None:
        """This loop has come round."""
        with self._lock:
            self._beats[loop] = self._clock()

    def end(self, loop: str) -> None:
        """This loop has ended on purpose and will not beat again."""
        with self._lock:
            self._beats.pop(loop, None)
            self._progress.pop(loop, None)

    def progress(self, loop: str, place: object, *, behind: bool) -> None:
        """Where a loop is. Behind, and at the same place for ten limits: stuck without an error.

        An outage does not count, whether it is known (not ready) or only silent (nobody could say
        where the loop is): a restart would not end it.
        """
        now = self._clock()
        with self._lock:
            before = self._progress.get(loop)
            excused = not behind or bool(self._parts)
            if before is None or before.place != place or excused or now - before.seen > self._limit:
                self._progress[loop] = _Progress(place, now, now)
            else:
                self._progress[loop] = _Progress(place, before.since, now)

    def set_ready(self, part: str, ok: bool, why: str) -> None:
        """A part (broker, store, schema, ...) can or cannot work."""
        with self._lock:
            if ok:
                self._parts.pop(part, None)
            else:
                self._parts[part] = without_passwords(why)  # probes are for everybody

    def set_started(self) -> None:
        """Everything slow at the start (the model) is done."""
        self._started = True

    def livez(self) -> Verdict:
        """Not ok: restart this process."""
        now = self._clock()
        with self._lock:
            stuck = {
                loop: f"no beat for {now - beat:.0f} s"
                for loop, beat in self._beats.items()
                if now - beat > self._limit
            }
            for loop, progress in self._progress.items():
                seconds = progress.seen - progress.since
                if seconds > 10 * self._limit:
                    stuck[loop] = f"behind, and at {progress.place} for {seconds:.0f} s"
        return Verdict(not stuck, stuck)

    def readyz(self) -> Verdict:
        """Not ok: it cannot work now, for reasons that pass."""
        with self._lock:
            reasons = dict(self._parts)
        if not self._started:
            reasons["start"] = "still starting"
        return Verdict(not reasons, reasons)

    def startupz(self) -> Verdict:
        """Not ok: still loading; one that takes too long is restarted. What waits for Kafka or the store
        is not: it is alive, and not ready.
        """
        with self._lock:
            waiting = bool(self._parts)
        ok = self._started or waiting
        return Verdict(ok, {} if ok else {"start": "still starting"})
