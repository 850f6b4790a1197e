"""Trying again, by the class of the error; the only file that knows tenacity.

Transient errors back off exponentially with jitter, backpressure waits as long as it asks for,
poison and fatal errors are raised at once. Every wait ends at shutdown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from pipeline.errors import Backpressure, PartitionsLost, Transient

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Backoff, in seconds. ``budget_seconds`` None: without end, for outages of a long-lived worker."""

    initial_seconds: float = 0.1
    maximum_seconds: float = 10.0
    budget_seconds: float | None = None


def retry(
    operation: Callable[[], T],
    policy: RetryPolicy,
    stop: threading.Event,
    on_retry: Callable[[Exception], None] = lambda error: None,
) -> T:
    """Run ``operation`` until it succeeds, the budget is spent, or ``stop`` is set.

    Args:
        operation: must be safe to repeat: an error may come after the effect.
        policy: backoff and budget.
        stop: set at shutdown; the present error is then raised without a further attempt.
        on_retry: told of each error that will be tried again, before the wait.

    Raises:
        Transient, Backpressure: the budget is spent, or ``stop`` was set.
        PartitionsLost, Poison, Fatal: at once.
    """
    backoff = tenacity.wait_exponential_jitter(
        multiplier=policy.initial_seconds, max=policy.maximum_seconds, jitter=policy.initial_seconds
    )

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Backpressure):
            return min(max(error.retry_after, policy.initial_seconds), 6 * policy.maximum_seconds)
        return backoff(state)

    present: list[Exception] = []

    def before_sleep(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception):
            present[:] = [error]
            on_retry(error)

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise present[0]

    budget = tenacity.stop_never if policy.budget_seconds is None else tenacity.stop_before_delay(policy.budget_seconds)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes),
        wait=wait,
        stop=tenacity.stop_any(tenacity.stop_when_event_set(stop), budget),
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )
    return retrying(operation)


def _passes(error: BaseException) -> bool:
    return isinstance(error, Transient | Backpressure) and not isinstance(error, PartitionsLost)
