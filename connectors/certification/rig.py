"""A runner on an embedded log, and the documents topic as its readers see it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from connectors.following import POSITION
from connectors.push.runner import PushRunner
from connectors.push.source import PushSource
from connectors.runner import Runner, RunnerLimits
from connectors.state import State
from pipeline.broker.topics import pipeline_topics
from pipeline.codec import decode_event
from pipeline.config import PipelineConfig
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import Broker, Record, Source
from pipeline.records import DocumentChanged, DocumentDeleted, DocumentEvent, Request
from pipeline.retry import RetryPolicy

#: Nothing takes a second on an idle machine, but for a Kafka that was killed: 15, and 25 more if it
#: forgot to end a transaction.
PATIENCE_SECONDS: Final = 90.0
_LOOK_SECONDS: Final = 0.005
_LIMITS: Final = RunnerLimits()


class Documents:
    """The documents and connector-state topics of one pipeline."""

    def __init__(
        self, broker: Broker, partitions: int = 3, limit_bytes: int = 1 << 20, pipeline: str = "sources"
    ) -> None:
        self.broker = broker
        self.names = Names("test", pipeline)
        config = PipelineConfig(partitions=partitions, document_limit_bytes=limit_bytes)
        broker.ensure_topics(pipeline_topics(self.names, config))

    def records(self, topic: str | None = None) -> list[Record]:
        """Everything in a topic, the documents topic if not given, partition by partition."""
        reader = self.broker.reader(topic or self.names.documents(0))
        found: list[Record] = []
        while not reader.caught_up():
            found += reader.poll(1.0, 1000)
        reader.close()
        return found

    def count(self) -> int:
        """How many records the documents topic ever had; cheap."""
        return sum(one.end for one in self.broker.offsets(self.names.documents(0)).values())

    def events(self) -> list[DocumentEvent]:
        """All events, partition by partition."""
        return [event for record in self.records() if (event := decode_event(record)) is not None]

    def now(self) -> dict[str, DocumentChanged]:
        """The documents that there are, as a materialised view of the log."""
        found: dict[str, DocumentChanged] = {}
        for event in self.events():
            if isinstance(event, DocumentDeleted):
                found.pop(event.key.path, None)
            else:
                found[event.key.path] = event
        return found

    def texts(self) -> dict[str, str | None]:
        """Their texts."""
        return {path: event.text for path, event in self.now().items()}

    def states(self) -> int:
        """How many records of connector state were ever written."""
        return sum(one.end for one in self.broker.offsets(self.names.connector_state).values())

    def position(self, source: str = "m") -> str | None:
        """Where a source with a log would go on after a restart."""
        state = State(self.broker, self.names.connector_state, source, None)
        state.refresh()
        mark = state.mark(POSITION)
        state.close()
        return None if mark is None else str(json.loads(mark)["position"])

    def wait_for(self, texts: dict[str, str | None]) -> None:
        """Until these are the documents."""
        wait_until(lambda: self.texts() == texts, lambda: f"documents are {self.texts()}, expected {texts}")


def wait_until(
    condition: Callable[[], object],
    why: Callable[[], str] = lambda: "condition never held",
    seconds: float | None = None,
) -> None:
    """Until the condition holds; fails after a generous time, if none is given."""
    end = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds)
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(_LOOK_SECONDS)


@dataclass
class Running:
    """A runner in a thread."""

    runner: Runner | PushRunner
    health: Health
    metrics: Metrics
    stop: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None
    thread: threading.Thread | None = None
    patience_seconds: float = PATIENCE_SECONDS
    delivered: Callable[[], bool] = lambda: True
    """Whether senders of a pushed source have sent what they had."""

    def run(self) -> None:
        """Until it is stopped; what it fails with is kept."""
        try:
            self.runner.run(self.stop)
        except BaseException as error:  # whoever looks at it raises it
            self.failure = error

    @property
    def scanned(self) -> bool:
        """Whether the first scan is published, and what senders had is taken."""
        return self.runner.scanned.is_set() and self.delivered()

    def wait_scanned(self) -> None:
        """Until the first scan is published."""
        wait_until(
            lambda: self.scanned or self.failure,
            lambda: f"the first scan never ended: {self.not_ready() or 'ready'}",
            self.patience_seconds,
        )
        if self.failure is not None:
            raise self.failure

    def wait_ended(self) -> BaseException | None:
        """Until it has ended by itself; what it failed with, which the caller thereby takes."""
        assert self.thread is not None
        self.thread.join(self.patience_seconds)
        assert not self.thread.is_alive(), "the runner did not end"
        failure, self.failure = self.failure, None
        return failure

    def not_ready(self) -> str:
        """Why it is not ready; empty if it is."""
        return "; ".join(f"{part}: {why}" for part, why in self.health.readyz().reasons.items())

    def skipped(self, reason: str) -> float:
        """Documents left out for a reason."""
        return self.metrics.registry.get_sample_value("vectide_source_skipped_total", {"reason": reason}) or 0.0

    def published(self, kind: str) -> float:
        """Events published."""
        return self.metrics.registry.get_sample_value("vectide_documents_published_total", {"kind": kind}) or 0.0


def runner(
    source: Source,
    documents: Documents,
    state: Path | None = None,
    limits: RunnerLimits | None = None,
    requests: Callable[[], Sequence[Request]] = tuple,
) -> Running:
    """A runner that does not run yet."""
    health, metrics = Health(), Metrics()
    health.set_started()
    patience = Patience(RetryPolicy(initial_seconds=0.01, maximum_seconds=0.1), health, metrics)
    parts = (documents.broker, documents.names, 0, state, patience, health, metrics)
    if isinstance(source, PushSource):
        return Running(PushRunner(source, *parts, requests=requests), health, metrics)
    return Running(Runner(source, *parts, limits or _LIMITS, requests), health, metrics)


@contextmanager
def running(
    source: Source,
    documents: Documents,
    state: Path | None = None,
    limits: RunnerLimits | None = None,
    requests: Callable[[], Sequence[Request]] = tuple,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[Running]:
    """A runner at work; at the end it is stopped, and must end cleanly unless somebody took its failure."""
    one = runner(source, documents, state, limits, requests)
    one.patience_seconds = patience_seconds
    one.thread = threading.Thread(target=one.run, daemon=True)
    one.thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        one.thread.join(patience_seconds)
        assert not one.thread.is_alive(), "the runner did not end"
    if one.failure is not None:
        raise one.failure


def scanned(
    source: Source,
    documents: Documents,
    state: Path | None = None,
    requests: Callable[[], Sequence[Request]] = tuple,
) -> Running:
    """One full scan, published; then the runner is stopped."""
    with running(source, documents, state, requests=requests) as one:
        one.wait_scanned()
    return one
