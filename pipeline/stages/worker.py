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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, BrokerUnavailable, PartitionsLost, Transient
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import Consumer, TopicPartition
from pipeline.stages.intervals import Intervals
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
        """On return, what :meth:`finished` has reported survives a power cut. Does not wait out an
        outage: the worker polls on and asks again.

        Raises:
            Transient, Backpressure: it may not survive; nothing of it may be committed.
        """
        ...

    @property
    def flush_seconds(self) -> float:
        """How long to gather effects between two flushes; 0 where a flush costs nothing."""
        ...

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """The assignment changed."""
        ...

    @property
    def steps(self) -> int:
        """Pieces of work done so far; a large record is many, so that it does not look like a stall."""
        ...

    @property
    def held(self) -> int:
        """Records that are applied but for a delayed sweep; bounded by the stage."""
        ...

    def parked(self) -> Mapping[TopicPartition, int]:
        """Partitions from which nothing more should be read until the process is upgraded, and the
        offset of the record that waits: what is behind it was put aside.
        """
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
    poll_budget_seconds: float = 60.0
    """Between two polls: longer, and it loses its partitions or its process is restarted."""


class Worker:
    """One member of a stage's consumer group, for one generation.

    Args:
        generation: tells its loops and gauges from those of others in the same process.
    """

    def __init__(
        self,
        consumer: Consumer,
        stage: Stage,
        limits: WorkerLimits,
        health: Health,
        metrics: Metrics,
        on_tick: Callable[[], None] = lambda: None,
        generation: str = "",
    ) -> None:
        self._consumer = consumer
        self._stage = stage
        self._limits = limits
        self._health = health
        self._metrics = metrics
        self._on_tick = on_tick
        self._window = Window()
        self._paused = False
        self._parked: frozenset[TopicPartition] = frozenset()
        self._moving: frozenset[int] = frozenset()
        self._applied: list[Taken] = []
        self._committed: dict[TopicPartition, int] = {}
        self._next_commit = 0.0
        self._flush_at = 0.0
        self._commit_failing = False
        self._polls = Intervals()
        self._over = False
        self._showing = threading.Lock()
        self._labels = (stage.name, generation)
        of = f".{generation}" if generation else ""
        self._poll_loop = f"{stage.name}.poll{of}"
        self._commit_loop = f"{stage.name}.commit{of}"
        self._flush_part = f"store.{stage.name}.flush{of}"

    @property
    def in_flight(self) -> int:
        """Records taken and not yet done."""
        return self._window.in_flight

    @property
    def busy(self) -> bool:
        """True while there are records whose effect is not applied: neither those that only wait for
        their commit count, nor deletes that wait for their delayed sweep.
        """
        return self._window.waiting > self._stage.held

    @property
    def moving(self) -> frozenset[int]:
        """Partitions whose committed offsets should advance: held, and neither parked nor held back."""
        return self._moving

    @property
    def steps(self) -> int:
        """Pieces of work that the stage has done so far."""
        return self._stage.steps

    def watch(self) -> None:
        """Show how near it is to losing its partitions; from another thread, for this one may hang."""
        used = self._polls.longest() / self._limits.poll_budget_seconds
        with self._showing:
            if not self._over:
                self._metrics.poll_budget_used_ratio.labels(*self._labels).set(used)

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
            for loop in (self._poll_loop, self._commit_loop):
                self._health.end(loop)
                self._health.set_ready(f"broker.{loop}", True, "")
            self._health.set_ready(self._flush_part, True, "")
            with self._showing:
                self._over = True
                self._metrics.forget(*self._labels)
            self._consumer.close(Deadline.after(self._limits.commit_timeout_seconds))

    def step(self) -> None:
        """One turn of the loop."""
        self._health.beat(self._poll_loop)
        self._stage.raise_failure()
        self._read()
        self._collect()
        self._throttle()
        self._park()
        now = time.monotonic()
        if now >= self._next_commit:
            self._next_commit = now + self._limits.commit_seconds
            self._settle(force=False)
            self._age()
            working = frozenset() if self._stage.held_back() else self._consumer.assignment() - self._parked
            self._moving = frozenset(at.partition for at in working)
        self._on_tick()

    def _read(self) -> None:
        self._polls.mark()
        # A short poll while work is in flight: its completion must not wait for the poll to end.
        timeout = 0.05 if self._window.in_flight else self._limits.poll_seconds
        try:
            polled = self._consumer.poll(timeout, self._limits.poll_records)
        except BrokerUnavailable as error:
            self._health.set_ready(f"broker.{self._poll_loop}", False, str(error))
            time.sleep(min(1.0, self._limits.poll_seconds))
            return
        # A poll that only waits for the group to form succeeds as well.
        joined = self._consumer.joined()
        why = "" if joined else "this worker has not joined its group yet"
        self._health.set_ready(f"broker.{self._poll_loop}", joined, why)
        if polled.revoked:
            self._forget(polled.revoked)
        if polled.assigned:
            self._window.assign(polled.assigned)
        if polled.assigned or polled.revoked:
            self._metrics.rebalances.inc()
            assignment = self._consumer.assignment()
            self._stage.assigned(assignment)
            self._metrics.assigned_partitions.labels(*self._labels).set(len(assignment))
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
            self._stage.offer([self._window.take(record) for record in polled.records])

    def _collect(self) -> None:
        if not self._applied:
            # Gather from the first unflushed effect on: a lone edit does not flush at once, and the
            # one behind it does not wait for that flush.
            self._flush_at = time.monotonic() + self._stage.flush_seconds
        for taken in self._stage.finished():
            self._window.applied(taken)
            if taken.live:
                self._applied.append(taken)

    def _throttle(self) -> None:
        limits = self._limits
        why = self._stage.held_back()
        waiting = self._window.waiting - self._stage.held
        size = self._window.waiting_bytes
        full = waiting >= limits.in_flight_records or size >= limits.in_flight_bytes
        # Resume well below the limit, so that pausing does not flutter.
        drained = waiting < max(1, limits.in_flight_records // 2) and size < max(1, limits.in_flight_bytes // 2)
        if not self._paused and (full or why):
            self._consumer.pause(self._consumer.assignment())
            self._paused = True
        elif self._paused and drained and not why:
            self._paused = False
            self._resume(self._consumer.assignment())
        paused = len(self._consumer.assignment()) if self._paused else len(self._parked)
        self._metrics.paused_partitions.labels(*self._labels).set(paused)
        self._metrics.inflight_records.labels(*self._labels).set(self._window.in_flight)

    def _park(self) -> None:
        """Pause what waits for an upgrade, and go back to the record that does."""
        parked = self._stage.parked()
        held = self._consumer.assignment()
        for at in held & (parked.keys() - self._parked):
            self._consumer.pause([at])
            # What was read behind it holds memory and would be committed over: forget it.
            self._consumer.seek(at, parked[at])
            self._window.park(at, parked[at])
        self._parked = held & parked.keys()

    def _resume(self, partitions: Iterable[TopicPartition]) -> None:
        if not self._paused:
            self._consumer.resume(frozenset(partitions) - self._parked)

    def _settle(self, *, force: bool) -> None:
        """Flush, then commit what was applied before the flush."""
        if self._applied and (force or time.monotonic() >= self._flush_at):
            part = self._flush_part
            try:
                self._stage.flush()
            except (Transient, Backpressure) as error:
                # Applied, and not committed: polling goes on, and the next turn asks again.
                self._health.set_ready(part, False, str(error))
            else:
                self._health.set_ready(part, True, "")
                for taken in self._applied:
                    self._window.done(taken)
                self._applied.clear()
        self._commit(Deadline.after(self._limits.commit_timeout_seconds))

    def _commit(self, deadline: Deadline) -> None:
        self._health.beat(self._commit_loop)
        started = time.monotonic()
        offsets: dict[TopicPartition, int] = {}
        try:
            held = self._consumer.assignment()
            for partition, offset in self._window.committable().items():
                if partition not in held:
                    continue
                target = self._consumer.position(partition) if offset is None else offset
                if target > self._committed.get(partition, -1):
                    offsets[partition] = target
            if offsets:
                self._consumer.commit(offsets, deadline)
        except PartitionsLost as error:
            log.warning("partitions lost", extra={"stage": self._stage.name, "error": str(error)})
            self._metrics.commits.labels("lost").inc()
            self._reread(frozenset(offsets))
        except BrokerUnavailable as error:
            # Not lost: the same prefix is committed by the next turn, or read again by the next owner.
            if not self._commit_failing:
                log.warning("offsets not committed", extra={"stage": self._stage.name, "error": str(error)})
            self._commit_failing = True
            self._health.set_ready(f"broker.{self._commit_loop}", False, str(error))
            self._metrics.commits.labels("failed").inc()
        else:
            self._commit_failing = False
            self._health.set_ready(f"broker.{self._commit_loop}", True, "")
            if not offsets:
                return
            self._committed.update(offsets)
            self._metrics.commits.labels("ok").inc()
            self._metrics.last_commit_timestamp_seconds.labels(*self._labels).set_to_current_time()
            self._metrics.commit_duration_seconds.observe(time.monotonic() - started)

    def _age(self) -> None:
        oldest = self._window.oldest()
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest.timestamp)
        self._metrics.oldest_unprocessed_event_age_seconds.labels(*self._labels).set(age)

    def _reread(self, partitions: frozenset[TopicPartition]) -> None:
        """Forget partitions that may be lost; of those that are still ours, read again what is not
        known to be committed. Only what this worker knows counts: asking the broker could fail, and
        what was forgotten and not read again would be committed over.
        """
        starts = {at: self._committed.get(at, self._window.first(at)) for at in partitions}
        self._forget(partitions)
        for at in partitions & self._consumer.assignment():
            start = starts[at]
            if start is not None:
                self._consumer.seek(at, start)
        self._resume(partitions & self._consumer.assignment())

    def _forget(self, partitions: frozenset[TopicPartition]) -> None:
        self._window.revoke(partitions)
        self._applied = [taken for taken in self._applied if taken.live]
        self._parked -= partitions
        for partition in partitions:
            self._committed.pop(partition, None)

    def _drain(self) -> None:
        """Finish what is in flight within the drain budget, commit it, and read nothing new."""
        self._stage.stop(Deadline.after(self._limits.drain_seconds))
        self._collect()
        try:
            self._stage.raise_failure()
        finally:
            deadline = Deadline.after(self._limits.commit_timeout_seconds)
            self._settle(force=True)
            while self._commit_failing and not deadline.expired:
                # A group that rebalances takes no commit for a moment, until its members have joined again.
                self._consumer.pause(self._consumer.assignment())
                self._read()
                self._commit(deadline)
