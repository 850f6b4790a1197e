"""Which offsets may be committed: the contiguous prefix whose effects are durable. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.ports import Record, TopicPartition


@dataclass(slots=True, eq=False)
class Lease:
    """The time during which this worker holds a partition; a new assignment is a new lease."""

    partition: TopicPartition
    lost: bool = False


@dataclass(slots=True, eq=False)
class Taken:
    """A record that was read under a lease and is not yet done."""

    record: Record
    lease: Lease
    done: bool = False

    @property
    def live(self) -> bool:
        """False once the partition is lost: then nothing more may be written for it."""
        return not self.lease.lost


@dataclass(slots=True)
class _Flight:
    lease: Lease
    taken: deque[Taken] = field(default_factory=deque)


class Window:
    """Records in flight, per partition, in the order of their offsets."""

    def __init__(self) -> None:
        self._flights: dict[TopicPartition, _Flight] = {}
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Records that were taken and are not done, over all partitions."""
        return self._in_flight

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Start a lease for each partition that has none."""
        for partition in partitions:
            if partition not in self._flights:
                self._flights[partition] = _Flight(Lease(partition))

    def revoke(self, partitions: Iterable[TopicPartition]) -> None:
        """End the leases: nothing of these is committed or written any more."""
        for partition in partitions:
            flight = self._flights.pop(partition, None)
            if flight is not None:
                flight.lease.lost = True
                self._in_flight -= sum(not taken.done for taken in flight.taken)

    def take(self, record: Record) -> Taken:
        """Account for a record, in the order in which it was read."""
        self.assign([record.at])
        flight = self._flights[record.at]
        taken = Taken(record, flight.lease)
        flight.taken.append(taken)
        self._in_flight += 1
        return taken

    def done(self, taken: Taken) -> None:
        """The record's effect is durable. Of a lost lease: ignored."""
        if taken.lease.lost or taken.done:
            return
        taken.done = True
        self._in_flight -= 1

    def committable(self) -> dict[TopicPartition, int | None]:
        """For each partition the offset to commit: the first that is not done.

        None means that nothing is in flight: commit the consumer's position, which also passes
        transaction markers and compacted offsets, or lag would never reach 0.
        """
        result: dict[TopicPartition, int | None] = {}
        for partition, flight in self._flights.items():
            while flight.taken and flight.taken[0].done:
                flight.taken.popleft()
            result[partition] = flight.taken[0].record.offset if flight.taken else None
        return result

    def oldest(self) -> dict[TopicPartition, Record]:
        """The first record that is not done, of each partition that has one."""
        return {
            partition: next(taken.record for taken in flight.taken if not taken.done)
            for partition, flight in self._flights.items()
            if any(not taken.done for taken in flight.taken)
        }
