"""What every worker says about itself, in a topic, so that ``status`` needs no way to reach it.

The topic is compacted: the last report of each worker stays for a week after its end. Counters
are summed over all workers that ever reported, so they survive restarts.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec

from pipeline.broker.reading import to_the_end
from pipeline.codec import UNREADABLE
from pipeline.deadline import Deadline
from pipeline.errors import Transient, VectideError
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord, Publisher, Record

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 5.0
_PUBLISH_SECONDS: Final = 5.0
_READ_SECONDS: Final = 20.0
_PAGE: Final = 500
#: A worker that has not reported for this long is not counted as running.
ALIVE_SECONDS: Final = 20.0


class WorkerReport(msgspec.Struct, frozen=True):
    """One process's counters since it started."""

    worker: str
    role: str
    """``connect``, ``chunk``, ``embed`` or ``up``."""
    generation: str
    started: float
    reported: float
    ready: bool
    why: str
    """Why it is not ready."""
    counters: dict[str, float]
    ended: bool = False
    sources: list[str] = []
    """Whose one writer it is."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended, and has reported lately."""
        return not self.ended and time.time() - self.reported <= ALIVE_SECONDS


class Reporter:
    """Publishes a worker's report every few seconds, and at its end.

    Args:
        reached: told whether the broker took a report, and why not. A poll of a group tells nothing of a
            broker that is away, and an idle worker asks it nothing else.
    """

    def __init__(
        self,
        publisher: Publisher,
        names: Names,
        role: str,
        generation: str,
        counters: Callable[[], Mapping[str, float]],
        readiness: Callable[[], tuple[bool, str]],
        sources: Sequence[str] = (),
        reached: Callable[[bool, str], None] = lambda ok, why: None,
    ) -> None:
        self._sources = list(sources)
        self._reached = reached
        self._publisher = publisher
        self._names = names
        self._worker = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._role = role
        self._generation = generation
        self._counters = counters
        self._readiness = readiness
        self._started = time.time()
        self._next = 0.0

    def tick(self) -> None:
        """Report if it is time to; a broker that does not answer is no reason to stop."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_SECONDS
            self._publish(ended=False)

    def now(self) -> None:
        """Report at once: somebody asks."""
        self._publish(ended=False)

    def end(self) -> None:
        """The last report."""
        self._publish(ended=True)

    def _publish(self, *, ended: bool) -> None:
        ready, why = self._readiness()
        report = WorkerReport(
            worker=self._worker,
            role=self._role,
            generation=self._generation,
            started=self._started,
            reported=time.time(),
            ready=ready,
            why=why,
            counters=dict(self._counters()),
            ended=ended,
            sources=self._sources,
        )
        record = NewRecord(self._names.reports, self._worker.encode(), msgspec.json.encode(report))
        try:
            self._publisher.publish([record], Deadline.after(_PUBLISH_SECONDS))
        except VectideError as error:
            log.debug("report not published", extra={"error": str(error)})
            if isinstance(error, Transient):
                self._reached(False, str(error))
        else:
            self._reached(True, "")


def read_reports(broker: Broker, names: Names) -> list[WorkerReport]:
    """The last report of every worker.

    Raises:
        BrokerUnavailable: no answer.
    """
    reports: dict[bytes | None, WorkerReport] = {}
    pages = to_the_end(broker.reader(names.reports), names.reports, _PAGE, _READ_SECONDS)
    for record in chain.from_iterable(pages):
        report = _decoded(record)
        if report is not None:
            reports[record.key] = report
    return sorted(reports.values(), key=lambda report: report.started)


def _decoded(record: Record) -> WorkerReport | None:
    try:
        return None if record.value is None else msgspec.json.decode(record.value, type=WorkerReport)
    except UNREADABLE as error:
        # A later vectide's, in a rolling upgrade: what it says is of its own process only.
        log.debug("report not understood", extra={"error": str(error)})
        return None
