"""The loop around a stage, and the only file that touches offsets.

1. Poll. Of a partition that was revoked, everything in flight is forgotten.
2. Hand the records to the stage, which works in threads of its own, so that polling never stops.
3. Collect what the stage has finished; pause the partitions while too much is in flight.
4. Make the effects durable (``Stage.flush``), then commit the contiguous prefix of what was
   finished before the flush; never the other way round.

Killed between any two of these, the next owner of the partition reads the same records again,
and the stage's effects are idempotent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable, PartitionsLost
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import Consumer, TopicPartition
from pipeline.stages.window import Taken, Window

log = logging.getLogger(__name__)


class Stage(Protocol):
    """Records in, effects out; works in threads of its own."""

    @property
    def name(self) -> str:
        """``chunk`` or ``embed``."""
        ...

    def start(self) -> None:
        """Start the threads."""
        ...

    def offer(self, taken: Sequence[Taken]) -> None:
        """Take records over; never blocks (the worker bounds what is in flight)."""
        ...

    def finished(self) -> list[Taken]:
        """Those whose effect has been applied since the last call, in any order."""
        ...

    def flush(self) -> None:
        """On return, what :meth:`finished` has reported survives a power cut."""
        ...

    @property
    def flush_seconds(self) -> float:
        """How long to gather effects between two flushes; 0 where a flush costs nothing."""
        ...

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """The assignment changed."""
        ...

    @property
    def held(self) -> int:
        """Records that are applied but for a delayed sweep; bounded by the stage."""
        ...

    def parked(self) -> frozenset[TopicPartition]:
        """Partitions from which nothing more should be read until the process is upgraded."""
        ...

    def held_back(self) -> str:
        """Why no more should be read now (a stage further down is too far behind); or empty."""
        ...

    def raise_failure(self) -> None:
        """Raise what stopped one of the threads, if anything did."""
        ...

    def stop(self, drain: Deadline) -> None:
        """Finish what was offered, as far as the deadline allows, and end the threads."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What bounds a worker's memory and its waits."""

    in_flight_records: int = 512
    in_flight_bytes: int = 64 * 1024 * 1024
    poll_records: int = 256
    poll_seconds: float = 0.25
    commit_seconds: float = 0.5
    commit_timeout_seconds: float = 10.0
    drain_seconds: float = 20.0


class Worker:
    """One member of a stage's consumer group, for one generation."""

    def __init__(
        self,
        consumer: Consumer,
        stage: Stage,
        limits: WorkerLimits,
        health: Health,
        metrics: Metrics,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._consumer = consumer
        self._stage = stage
        self._limits = limits
        self._health = health
        self._metrics = metrics
        self._on_tick = on_tick
        self._window = Window()
        self._bytes = 0
        self._paused = False
        self._parked: frozenset[TopicPartition] = frozenset()
        self._applied: list[Taken] = []
        self._committed: dict[TopicPartition, int] = {}
        self._next_commit = 0.0
        self._next_flush = 0.0
        self._commit_failing_since: float | None = None

    @property
    def in_flight(self) -> int:
        """Records taken and not yet done."""
        return self._window.in_flight

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, then drain, commit and leave the group.

        Raises:
            Fatal: from the broker, the store or the stage; nothing unfinished was committed.
        """
        self._stage.start()
        drained = False
        try:
            while not stop.is_set():
                self.step()
            self._drain()
            drained = True
        finally:
            if not drained:
                self._stage.stop(Deadline.after(0.0))
            self._consumer.close(Deadline.after(self._limits.commit_timeout_seconds))

    def step(self) -> None:
        """One turn of the loop."""
        self._health.beat(f"{self._stage.name}.poll")
        self._stage.raise_failure()
        self._read()
        self._collect()
        self._throttle()
        now = time.monotonic()
        if now >= self._next_commit:
            self._next_commit = now + self._limits.commit_seconds
            self._settle(force=False)
            self._age()
        self._on_tick()

    def _read(self) -> None:
        # A short poll while work is in flight: its completion must not wait for the poll to end.
        timeout = 0.02 if self._window.in_flight else self._limits.poll_seconds
        try:
            polled = self._consumer.poll(timeout, self._limits.poll_records)
        except BrokerUnavailable as error:
            self._health.set_ready("broker", False, str(error))
            time.sleep(min(1.0, self._limits.poll_seconds))
            return
        if self._commit_failing_since is None:
            self._health.set_ready("broker", True, "")
        if polled.revoked:
            self._forget(polled.revoked)
        if polled.assigned:
            self._window.assign(polled.assigned)
        if polled.assigned or polled.revoked:
            self._metrics.rebalances.inc()
            assignment = self._consumer.assignment()
            self._stage.assigned(assignment)
            self._metrics.assigned_partitions.set(len(assignment))
            log.info(
                "assignment changed",
                extra={
                    "stage": self._stage.name,
                    "assigned": sorted(polled.assigned),
                    "revoked": sorted(polled.revoked),
                    "held": len(assignment),
                },
            )
            if self._paused:
                self._consumer.pause(assignment)
        if polled.records:
            self._metrics.records_consumed.labels(self._stage.name).inc(len(polled.records))
            taken = [self._window.take(record) for record in polled.records]
            self._bytes += sum(_size(one) for one in taken)
            self._stage.offer(taken)

    def _collect(self) -> None:
        for taken in self._stage.finished():
            self._bytes -= _size(taken)
            if taken.live:
                self._applied.append(taken)

    def _throttle(self) -> None:
        limits = self._limits
        why = self._stage.held_back()
        # Applied but not yet flushed records hold no memory to speak of: they are not counted.
        waiting = self._window.in_flight - len(self._applied) - self._stage.held
        full = waiting >= limits.in_flight_records or self._bytes >= limits.in_flight_bytes
        # Resume well below the limit, so that pausing does not flutter.
        drained = waiting < limits.in_flight_records // 2 and self._bytes < limits.in_flight_bytes // 2
        if not self._paused and (full or why):
            self._consumer.pause(self._consumer.assignment())
            self._paused = True
        elif self._paused and drained and not why:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False
            self._parked = frozenset()
        parked = self._stage.parked()
        if parked != self._parked and not self._paused:
            self._consumer.pause(parked & self._consumer.assignment())
            self._parked = parked
        self._metrics.paused_partitions.set(len(self._consumer.assignment()) if self._paused else 0)
        self._metrics.inflight_records.labels(self._stage.name).set(self._window.in_flight)

    def _settle(self, *, force: bool) -> None:
        """Flush, then commit what was applied before the flush."""
        now = time.monotonic()
        if self._applied and (force or now >= self._next_flush):
            applied, self._applied = self._applied, []
            try:
                self._stage.flush()
            except BaseException:
                self._applied = applied + self._applied
                raise
            self._next_flush = time.monotonic() + self._stage.flush_seconds
            for taken in applied:
                self._window.done(taken)
        self._commit()

    def _commit(self) -> None:
        offsets = {}
        for partition, offset in self._window.committable().items():
            if partition not in self._consumer.assignment():
                continue
            target = self._consumer.position(partition) if offset is None else offset
            if target > self._committed.get(partition, -1):
                offsets[partition] = target
        self._health.beat(f"{self._stage.name}.commit")
        if not offsets:
            return
        started = time.monotonic()
        try:
            self._consumer.commit(offsets, Deadline.after(self._limits.commit_timeout_seconds))
        except PartitionsLost as error:
            log.warning("partitions lost", extra={"stage": self._stage.name, "error": str(error)})
            self._metrics.commits.labels("lost").inc()
            self._forget(frozenset(offsets))
            # What is still ours is read again from its committed offset: at least once.
            for partition in frozenset(offsets) & self._consumer.assignment():
                self._reread(partition)
        except BrokerUnavailable as error:
            # Not lost: the same prefix is committed by the next turn, or read again by the next owner.
            self._commit_failing_since = self._commit_failing_since or started
            self._health.set_ready("broker", False, f"commit: {error}")
            self._metrics.commits.labels("failed").inc()
        else:
            self._commit_failing_since = None
            self._committed.update(offsets)
            self._metrics.commits.labels("ok").inc()
            self._metrics.last_commit_timestamp_seconds.labels(self._stage.name).set_to_current_time()
            self._metrics.commit_duration_seconds.observe(time.monotonic() - started)

    def _age(self) -> None:
        waiting = [record.timestamp for record in self._window.oldest().values()]
        age = max(0.0, time.time() - min(waiting)) if waiting else 0.0
        self._metrics.oldest_unprocessed_event_age_seconds.labels(self._stage.name).set(age)

    def _reread(self, partition: TopicPartition) -> None:
        try:
            committed = self._consumer.committed([partition]).get(partition)
        except BrokerUnavailable:
            return
        if committed is not None:
            self._consumer.seek(partition, committed)

    def _forget(self, partitions: frozenset[TopicPartition]) -> None:
        self._window.revoke(partitions)
        self._applied = [taken for taken in self._applied if taken.live]
        for partition in partitions:
            self._committed.pop(partition, None)

    def _drain(self) -> None:
        """Finish what is in flight within the drain budget, commit it, and read nothing new."""
        deadline = Deadline.after(self._limits.drain_seconds)
        self._stage.stop(deadline)
        self._collect()
        try:
            self._stage.raise_failure()
        finally:
            self._settle(force=True)


def _size(taken: Taken) -> int:
    return len(taken.record.value or b"") + len(taken.record.key or b"")
