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
from pipeline.naming import Names
from pipeline.ports import TopicSpec
from pipeline.stages.worker import Worker

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
