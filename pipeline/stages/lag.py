"""How far a stage's group is behind, sampled on a timer: a gauge, and the watchdog for a silent stall."""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

from pipeline.errors import Fatal, Transient
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import Broker

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 5.0


class Working(Protocol):
    """What tells of a stage's work in this process: a :class:`pipeline.stages.worker.Worker`."""

    @property
    def moving(self) -> frozenset[int]:
        """The partitions that it reads, and that wait for nothing."""
        ...

    @property
    def steps(self) -> int:
        """Pieces of work done so far."""
        ...


class LagSampler:
    """Samples one group on one topic.

    Behind, at the same committed offsets and without a piece of work done for very long is a stall
    without an error, which :meth:`Health.progress` turns into a failed liveness probe: of the
    partitions that this process should be working on, for a restart cures no other.
    """

    def __init__(
        self,
        broker: Broker,
        group: str,
        topic: str,
        worker: Working,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._broker = broker
        self._group = group
        self._topic = topic
        self._worker = worker
        self._health = health
        self._metrics = metrics
        self._next = 0.0

    def tick(self) -> None:
        """Sample if it is time to; a broker that does not answer is another part's news."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_SECONDS
        try:
            lag = self._broker.lag(self._group, self._topic)
            committed = self._broker.committed(self._group, self._topic)
        except (Transient, Fatal) as error:
            log.debug("lag not sampled", extra={"error": str(error)})
            return
        for partition, records in lag.items():
            self._metrics.consumer_lag_records.labels(self._topic, str(partition), self._group).set(records)
        moving = sorted(self._worker.moving)
        place = (self._worker.steps, [(partition, committed.get(partition, -1)) for partition in moving])
        self._health.progress(self._group, place, behind=any(lag.get(partition, 0) for partition in moving))
