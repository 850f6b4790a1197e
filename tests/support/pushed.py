"""A push API that runs, over any broker, and a client of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from connectors.http.source import HttpSource
from connectors.push.runner import PushLimits, PushRunner
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.records import Request
from pipeline.retry import RetryPolicy
from tests.support.sources import Documents, wait_until

LIMIT_BYTES = 64 * 1024
LIMITS = PushLimits(wait_seconds=0.05, drain_seconds=5.0)


@dataclass
class Pushed:
    """A runner of a push source in a thread, and who talks to it."""

    runner: PushRunner
    source: HttpSource
    health: Health
    metrics: Metrics
    stop: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.runner.run(self.stop)
        except BaseException as error:  # whoever looks at it raises it
            self.failure = error

    def client(self, token: str = "", scheme: str = "http", **settings: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{self.source.port}", headers=headers, timeout=30, **settings
        )

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"vectide_{name}", labels) or 0.0


def pushed(
    documents: Documents,
    state: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    requests: Callable[[], Sequence[Request]] = tuple,
    behind: Callable[[], int] | None = None,
    source_id: str = "crm",
) -> Pushed:
    """One that does not run yet."""
    config = SourceConfig.model_validate(
        {"connector": "http", "port": 0, "metadata": metadata or {}, **(settings or {})}
    )
    source = open_source(source_id, config, LIMIT_BYTES)
    assert isinstance(source, HttpSource)
    health, metrics = Health(), Metrics()
    health.set_started()
    patience = Patience(RetryPolicy(initial_seconds=0.01, maximum_seconds=0.1), health, metrics)
    made = PushRunner(
        source, documents.broker, documents.names, 0, state, patience, health, metrics, LIMITS, requests, behind
    )
    return Pushed(made, source, health, metrics)


@contextmanager
def pushing(documents: Documents, state: Path | None = None, **settings: Any) -> Iterator[Pushed]:
    """One at work; at the end it is stopped, and must end cleanly unless somebody took its failure."""
    one = pushed(documents, state, **settings)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: one.runner.scanned.is_set() or one.failure, lambda: "it never listened", 60)
        if one.failure is not None:
            raise one.failure
        yield one
    finally:
        one.stop.set()
        thread.join(60)
        assert not thread.is_alive(), "the runner did not end"
    if one.failure is not None:
        raise one.failure
