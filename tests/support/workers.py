"""A worker over an embedded broker in this process, run in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import pipeline_topics
from pipeline.config import PipelineConfig
from pipeline.deadline import Deadline
from pipeline.embedding.recent import RecentVectors
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.patience import Patience
from pipeline.ports import Publisher, TopicSpec
from pipeline.retry import RetryPolicy
from pipeline.stages.embed import EmbedLimits, EmbedStage
from pipeline.stages.worker import Worker
from pipeline.sync import Embed

NAMES = Names("t", "p")
SECONDS = 30.0


@contextmanager
def memory_broker(pipeline: PipelineConfig, *more: TopicSpec) -> Iterator[EmbeddedBroker]:
    """A broker in memory with a pipeline's topics, and more."""
    broker = EmbeddedBroker(None)
    broker.ensure_topics([*pipeline_topics(NAMES, pipeline), *more])
    try:
        yield broker
    finally:
        broker.close()


def embed_stage(
    collection: object,
    embed: Embed,
    publisher: Publisher,
    health: Health,
    metrics: Metrics,
    limits: EmbedLimits,
    enough: threading.Event | None = None,
) -> EmbedStage:
    """The real one, over a collection or what stands in for one; it tries again at once."""
    return EmbedStage(
        collection,  # type: ignore[arg-type]
        embed,
        publisher,
        NAMES,
        limits,
        Patience(RetryPolicy(0.01, 0.05), health, metrics),
        health,
        metrics,
        RecentVectors(1 << 20),
        enough=enough,
    )


@dataclass
class Working:
    """What a test of a running worker waits for."""

    failure: list[BaseException] = field(default_factory=list, kw_only=True)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true; fail at once if the worker has failed."""
        deadline = Deadline.after(SECONDS)
        while not true():
            assert not deadline.expired, "it never came true"
            assert not self.failure, self.failure
            time.sleep(0.005)


@contextmanager
def working(worker: Worker, failure: list[BaseException]) -> Iterator[None]:
    """The worker runs; what it raises is in ``failure``."""
    stop = threading.Event()

    def run() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SECONDS)
