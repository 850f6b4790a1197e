"""Trying again: the class of the error decides, and every wait ends at shutdown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pipeline.errors import (
    BrokerUnavailable,
    ConfigError,
    MalformedRecord,
    PartitionsLost,
    SourceUnavailable,
    StoreBusy,
    StoreUnavailable,
)
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.retry import RetryPolicy, retry

QUICK = RetryPolicy(0.001, 0.002)


def failing(*errors: Exception) -> tuple[Callable[[], str], list[Exception]]:
    """An operation that raises these one after the other, then succeeds; and those still to come."""
    left = list(errors)

    def operation() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return operation, left


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), StoreUnavailable("away"), StoreBusy("full", 0.001)])
def test_what_passes_is_tried_again_until_it_succeeds(error: Exception) -> None:
    operation, _ = failing(error, error, error)
    told: list[Exception] = []
    assert retry(operation, QUICK, threading.Event(), told.append) == "done"
    assert told == [error] * 3


@pytest.mark.parametrize("error", [MalformedRecord("x"), ConfigError("x"), PartitionsLost("x"), ValueError("a bug")])
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    operation, left = failing(error, StoreUnavailable("never reached"))
    with pytest.raises(type(error)):
        retry(operation, QUICK, threading.Event())
    assert len(left) == 1


def test_a_budget_ends_with_the_present_error() -> None:
    operation, left = failing(*[StoreUnavailable(str(n)) for n in range(10_000)])
    with pytest.raises(StoreUnavailable):
        retry(operation, RetryPolicy(0.001, 0.002, budget_seconds=0.05), threading.Event())
    assert left


def test_shutdown_ends_the_longest_wait_with_the_present_error() -> None:
    stop = threading.Event()
    operation, left = failing(StoreBusy("asks for ten minutes", 600), StoreUnavailable("never reached"))
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    with pytest.raises(StoreBusy, match="ten minutes"):
        retry(operation, RetryPolicy(0.1, 200.0), stop)
    assert time.monotonic() - started < 60
    assert len(left) == 1


def test_an_outage_shows_in_readiness_and_counts_as_one_error_however_often_it_is_tried() -> None:
    health, metrics = Health(), Metrics()
    health.set_started()
    patience = Patience(QUICK, health, metrics)
    seen: list[dict[str, str]] = []
    outage = [StoreUnavailable("away")] * 4

    def operation() -> str:
        seen.append(health.readyz().reasons)
        if outage:
            raise outage.pop()
        return "done"

    assert patience.until_done("store", operation) == "done"
    assert seen == [{}, *[{"store": "away"}] * 4]
    assert health.readyz().ok
    assert health.livez().ok
    assert metrics.totals()["errors"] == 1
    assert metrics.totals()["retries"] == 4


def test_patience_that_has_given_up_tries_once() -> None:
    patience = Patience(RetryPolicy(60.0, 60.0), Health(), Metrics())
    patience.give_up()
    operation, left = failing(StoreUnavailable("away"), StoreUnavailable("never reached"))
    with pytest.raises(StoreUnavailable, match="away"):
        patience.until_done("store", operation)
    assert len(left) == 1


def test_an_error_is_counted_as_one_that_is_documented_and_from_zero_on() -> None:
    """Given a connector's own kind of an outage, then its series is the one that was there before it."""

    class Slow(SourceUnavailable):
        pass

    metrics = Metrics()
    series = ("vectide_errors_total", {"error_type": "SourceUnavailable", "dependency": "source"})
    assert metrics.registry.get_sample_value(*series) == 0
    operation, _ = failing(Slow("later"))
    Patience(QUICK, Health(), metrics).until_done("source", operation)
    assert metrics.registry.get_sample_value(*series) == 1
    assert b"Slow" not in metrics.exposition()
