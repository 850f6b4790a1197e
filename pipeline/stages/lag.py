"""How far a stage's group is behind, sampled on a timer: a gauge, and the watchdog for a silent stall."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
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
        stage: str = "",
        generation: str = "",
    ) -> None:
        self._broker = broker
        self._group = group
        self._topic = topic
        self._worker = worker
        self._health = health
        self._metrics = metrics
        self._labels = (stage, generation)
        self._partitions: set[int] = set()
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
        self._show(lag, committed)
        moving = sorted(self._worker.moving)
        place = (self._worker.steps, [(partition, committed.get(partition, -1)) for partition in moving])
        self._health.progress(self._group, place, behind=any(lag.get(partition, 0) for partition in moving))

    def forget(self) -> None:
        """Its line has ended: what the lag was last must not stand for ever, nor where it was."""
        self._health.end(self._group)
        for partition in self._partitions:
            for gauge in (self._metrics.consumer_lag_records, self._metrics.consumer_committed_offset):
                gauge.remove(*self._place(partition))
        self._partitions.clear()

    def _show(self, lag: Mapping[int, int], committed: Mapping[int, int]) -> None:
        self._partitions.update(lag)
        for partition, records in lag.items():
            self._metrics.consumer_lag_records.labels(*self._place(partition)).set(max(0, records))
            if partition in committed:
                self._metrics.consumer_committed_offset.labels(*self._place(partition)).set(committed[partition])

    def _place(self, partition: int) -> tuple[str, ...]:
        return (self._topic, str(partition), self._group, *self._labels)
