"""Waiting out an outage: a lane keeps trying, says that it is not ready, and never restarts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import kind_of
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.retry import RetryPolicy, retry

log = logging.getLogger(__name__)

T = TypeVar("T")


class Patience:
    """Retries transient errors without end, until :meth:`give_up`.

    Args:
        policy: backoff between attempts.
        health: told which dependency does not answer; liveness is not touched.
        metrics: counts errors and retries, and times each attempt.
    """

    def __init__(self, policy: RetryPolicy, health: Health, metrics: Metrics) -> None:
        self._policy = policy
        self._health = health
        self._metrics = metrics
        self._stop = threading.Event()

    def give_up(self) -> None:
        """Raise the present error instead of trying again: the process is stopping."""
        self._stop.set()

    def give_up_with(self, stop: threading.Event) -> None:
        """From now on, give up when this is set."""
        self._stop = stop

    def until_done(self, dependency: str, operation: Callable[[], T], part: str = "") -> T:
        """Run ``operation`` until it succeeds.

        Args:
            dependency: what does not answer, as metrics call it.
            operation: must be safe to repeat.
            part: what health calls it, where a process has several of the kind.

        Raises:
            Poison, Fatal, PartitionsLost: at once.
            Transient, Backpressure: only after :meth:`give_up`.
        """
        failed = False

        def waiting(error: Exception) -> None:
            nonlocal failed
            if not failed:  # one error, however often it is tried again
                self._metrics.errors.labels(kind_of(error), dependency).inc()
                log.warning("waiting", extra={"for": part or dependency, "error": str(error)})
            failed = True
            self._health.set_ready(part or dependency, False, str(error))
            self._metrics.retries.labels(dependency).inc()

        def timed() -> T:
            with self._metrics.dependency_request_duration_seconds.labels(dependency).time():
                return operation()

        result = retry(timed, self._policy, stop=self._stop, on_retry=waiting)
        self._health.set_ready(part or dependency, True, "")
        if failed:
            log.info("goes on", extra={"after": part or dependency})
        return result
