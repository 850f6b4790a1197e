"""A long-lived process: its HTTP server, its pulse, and the one line that says that it is ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import click

from pipeline.cli.access import token_of
from pipeline.cli.assembly import Parts
from pipeline.cli.crew import Crew
from pipeline.config import Config
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, Transient, VectideError
from pipeline.generations.control import ControlState
from pipeline.generations.gauges import GenerationGauges
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.http import HttpServer, Route
from pipeline.observe.metrics import Metrics
from pipeline.ports import Broker
from pipeline.search.service import SearchService
from pipeline.stages.reports import Reporter

log = logging.getLogger(__name__)

_PULSE_SECONDS: Final = 1.0
#: With the quarter of a second between two looks at control: a search follows a cutover in half a second.
_FOLLOW_SECONDS: Final = 0.1
#: Beyond the drain budget: the last commit, leaving the group, the last report.
_END_SECONDS: Final = 15.0


def follow(search: SearchService, health: Health, stop: threading.Event) -> None:
    """Keep a search's generations open until ``stop`` is set; in a thread of its own, for loading a
    model takes seconds. Not ready while it answers from another generation than the live one.
    """
    while not stop.wait(_FOLLOW_SECONDS):
        try:
            why = search.follow()
        except (Transient, Backpressure) as error:
            log.debug("generations not looked at", extra={"error": str(error)})
            continue
        health.set_ready("search", not why, why)


def stopping(stop: threading.Event, health: Health, then: Callable[[], None] = lambda: None) -> None:
    """Once ``stop`` is set: not ready, so that nobody sends anything more while what is there is finished."""

    def watch() -> None:
        stop.wait()
        health.set_ready("process", False, "it is stopping")
        then()

    threading.Thread(target=watch, name="stopping", daemon=True).start()


def http_server(
    config: Config, health: Health, metrics: Metrics, routes: Mapping[tuple[str, str], Route] | None = None
) -> HttpServer:
    """The process's HTTP server, listening but not yet answering.

    Raises:
        ConfigError: the port is taken, or a token is missing.
    """
    http = config.http
    return HttpServer(http.host, http.port, token_of(config), health, metrics, routes)


class Pulse:
    """Ticks once a second in a thread of its own: reports, lag. A tick must not raise what passes."""

    def __init__(self, ticks: Sequence[Callable[[], None]]) -> None:
        self._ticks = ticks

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set."""
        while True:
            for tick in self._ticks:
                tick()
            if stop.wait(_PULSE_SECONDS):
                return


def reporter(
    broker: Broker,
    names: Names,
    role: str,
    generation: str,
    health: Health,
    metrics: Metrics,
    sources: Sequence[str] = (),
) -> Reporter:
    """Tells ``status`` about this process, and whoever wants something of its sources that it runs them."""

    def readiness() -> tuple[bool, str]:
        verdict = health.readyz()
        return verdict.ok, "; ".join(f"{part}: {why}" for part, why in verdict.reasons.items())

    def reached(ok: bool, why: str) -> None:
        # Searches need the store alone: they must not end because Kafka is away.
        if role != "serve":
            health.set_ready("broker.reports", ok, why)

    return Reporter(broker.publisher("reports"), names, role, generation, metrics.totals, readiness, sources, reached)


def generations_shown(metrics: Metrics, control: Callable[[], ControlState]) -> Callable[[], None]:
    """A tick of a process without stages: what it knows of the generations tells of a stage that nobody runs."""
    gauges = GenerationGauges(metrics)

    def tick() -> None:
        try:
            gauges.show(control())
        except VectideError as error:  # who works by what it says ends for it
            log.debug("generations not looked at", extra={"error": str(error)})

    return tick


def attend(crew: Crew, parts: Parts, ready: str) -> None:
    """Wait until the crew stops or fails; print ``ready`` once, when everything first is.

    Raises:
        VectideError: what a thread failed with.
    """
    said = False
    try:
        while not crew.wait(0.05 if not said else 0.5):
            if not said and parts.health.readyz().ok:
                click.echo(ready)
                said = True
    finally:
        crew.end(Deadline.after(parts.config.work.drain_seconds + _END_SECONDS))
    crew.raise_failure()
