"""The patrol: every generation verified again and again in the background, slowly, beside live work.

What can fail: broker, store or model do not answer, or the worker is stopped (given up, tried again
later); something is fatal to the verification (logged, and tried again next time): never does the
worker that it runs in end for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import Backpressure, Fatal, Poison, Transient
from pipeline.observe.metrics import Metrics
from pipeline.verification.findings import KINDS

log = logging.getLogger(__name__)

#: After a start everything catches up first.
_SETTLE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.0
#: After one that was given up.
_RETRY_SECONDS: Final = 300.0
#: Of the time, for nobody waits for it; and while live work comes in, which waits for the interpreter at each step.
_SHARE: Final = 0.5
_SHARE_BESIDE_WORK: Final = 0.1
#: Live work this recent means that more will come: most of it is over before the next look at it.
_LIVELY_SECONDS: Final = 1.0
_YIELD_SECONDS: Final = 0.05
#: A process that was stopped for an hour has not worked for an hour.
_REST_SECONDS: Final = 60.0


class Stopped(Transient):
    """The worker is ending: the verification was given up."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one complete verification has shown."""

    findings: Mapping[str, int]
    """Documents by what is wrong with them."""
    coverage: float
    """Part of the log's documents that it could prove; the others are not wholly served, and their heads say so."""


class Pacer:
    """How fast a verification may read: so many documents a second, for half of the time, and for a tenth of it beside
    live work.

    Args:
        per_second: records and points.
        busy: live work, or a migration's, is under way in this process.
        stop: set when the process ends.
    """

    def __init__(self, per_second: float, busy: Callable[[], bool], stop: threading.Event) -> None:
        self._per_second = per_second
        self._busy = busy
        self._stop = stop
        self._last = time.monotonic()
        self._lively_until = float("-inf")

    def pause(self, done: int) -> None:
        """Called after so many: returns when the next may be read.

        Raises:
            Stopped: the process ends.
        """
        now = time.monotonic()
        took = now - self._last
        usual = now + max(done / self._per_second - took, min(took * (1 / _SHARE - 1), _REST_SECONDS))
        beside = max(usual, now + min(took * (1 / _SHARE_BESIDE_WORK - 1), _REST_SECONDS))
        while (left := (beside if self._lively else usual) - time.monotonic()) > 0:
            self.wait(min(_YIELD_SECONDS, left))
        self._last = time.monotonic()

    @property
    def _lively(self) -> bool:
        now = time.monotonic()
        if self._busy():
            self._lively_until = now + _LIVELY_SECONDS
        return now < self._lively_until

    def wait(self, seconds: float) -> None:
        """So many seconds.

        Raises:
            Stopped: the process ends.
        """
        if self._stop.wait(seconds):
            raise Stopped("the process is ending")
        self.rested()

    def rested(self) -> None:
        """What went by since the last page was no work, and is no reason to make room."""
        self._last = time.monotonic()


@dataclass(slots=True)
class Patrol:
    """Verifies each generation once in so many seconds; run it in a thread.

    Args:
        generations: ids of those that are to be verified by this process now.
        verify: one of them, completely.
        last: when each was last verified, in seconds since 1970: also by others, and before a restart.
        every_seconds: between two verifications of a generation; 0: never.
        metrics: told what was found.
    """

    generations: Callable[[], Sequence[str]]
    verify: Callable[[str, threading.Event], Round]
    last: Callable[[], Mapping[str, float]]
    every_seconds: float
    metrics: Metrics
    # By the monotonic clock: a wall clock that is set during a round must not silence it.
    _due: dict[str, float] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)
    _not_before: float = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set."""
        self.metrics.verify_interval_seconds.set(self.every_seconds)
        if not self.every_seconds:
            return
        if stop.wait(min(_SETTLE_SECONDS, self.every_seconds)):
            return
        while True:
            self.turn(stop)
            if stop.wait(_LOOK_SECONDS):
                return

    def turn(self, stop: threading.Event) -> None:
        """Verify what is due."""
        if time.monotonic() < self._not_before:
            return
        try:
            ids = self.generations()
            for id in self._shown.difference(ids):
                self._forget(id)
            for id in ids:
                if not stop.is_set() and self._is_due(id):
                    self._verify(id, stop)
        except (Transient, Backpressure) as error:
            log.debug("nothing verified", extra={"error": str(error)})
        except (Fatal, Poison) as error:
            self._put_off()
            log.warning("nothing verified", extra={"error": str(error)})
        except Exception:
            self._put_off()
            log.exception("patrol failed")

    def _put_off(self) -> None:
        self._not_before = time.monotonic() + min(_RETRY_SECONDS, self.every_seconds)

    def _is_due(self, id: str) -> bool:
        now = time.monotonic()
        if id not in self._due:
            last = self.last().get(id, 0.0)
            # Once, from what others have said by a wall clock: one that was ahead puts it off by one time at most.
            self._due[id] = now + min(self.every_seconds, last + self.every_seconds - time.time())
            self._shown.add(id)
            self.metrics.verify_last_complete_timestamp_seconds.labels(id).set(last)
        return not now < self._due[id]

    def _verify(self, id: str, stop: threading.Event) -> None:
        self._due[id] = time.monotonic() + min(_RETRY_SECONDS, self.every_seconds)
        try:
            found = self.verify(id, stop)
        except (Transient, Backpressure) as error:
            log.debug("verification put off", extra={"generation": id, "error": str(error)})
            return
        except (Fatal, Poison) as error:
            log.warning("not verified", extra={"generation": id, "error": str(error)})
            return
        except Exception:
            # Whatever it is, it is the patrol's: the worker has nothing to do with it.
            log.exception("verification failed", extra={"generation": id})
            return
        self._due[id] = time.monotonic() + self.every_seconds
        self._show(id, found)

    def _show(self, id: str, found: Round) -> None:
        self._shown.add(id)
        for kind in KINDS:
            self.metrics.verify_findings.labels(id, kind).set(found.findings.get(kind, 0))
        self.metrics.verify_last_complete_timestamp_seconds.labels(id).set(time.time())
        self.metrics.verify_coverage_ratio.labels(id).set(found.coverage)
        if found.findings:
            log.warning("the store differs from the log", extra={"generation": id, "findings": dict(found.findings)})

    def _forget(self, id: str) -> None:
        """It is verified elsewhere now, or over: what it was last must not stand for ever."""
        self._shown.discard(id)
        self._due.pop(id, None)
        for kind in KINDS:
            self.metrics.verify_findings.remove(id, kind)
        self.metrics.verify_last_complete_timestamp_seconds.remove(id)
        self.metrics.verify_coverage_ratio.remove(id)
