"""Partitions that wait for an upgrade: a record of a newer schema stops its partition, not the rest."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

from pipeline.errors import NewerSchema
from pipeline.observe.health import Health
from pipeline.ports import TopicPartition
from pipeline.stages.window import Lease, Taken

log = logging.getLogger(__name__)


class _Place(NamedTuple):
    lease: Lease
    offset: int


class Parking:
    """Keeps the order within a parked partition: nothing behind the record is worked on.

    The record is not finished, so its offset is never committed and the upgraded process reads it
    again. The worker pauses a parked partition and goes back to the record, which frees what was
    read behind it. Safe for several threads.
    """

    def __init__(self, stage: str, generation: str, health: Health) -> None:
        self._part = f"schema.{stage}.{generation}"
        self._health = health
        self._lock = threading.Lock()
        self._parked: dict[TopicPartition, _Place] = {}

    @property
    def partitions(self) -> dict[TopicPartition, int]:
        """Those that wait, and the offset at which they do."""
        with self._lock:
            return {at: place.offset for at, place in self._parked.items() if not place.lease.lost}

    def holds(self, taken: Taken) -> bool:
        """True for the record that parked its partition, and for those behind it."""
        with self._lock:
            place = self._parked.get(taken.record.at)
            # Under a new lease everything from the commit on is read again, what is fine included.
            return place is not None and place.lease is taken.lease and taken.record.offset >= place.offset

    def park(self, taken: Taken, why: NewerSchema) -> None:
        """Stop this partition here; the process is not ready until it is upgraded."""
        with self._lock:
            self._parked[taken.record.at] = _Place(taken.lease, taken.record.offset)
            self._health.set_ready(self._part, False, str(why))
        log.error("partition waits for an upgrade", extra={"part": self._part, "error": str(why)})

    def keep(self, partitions: frozenset[TopicPartition]) -> None:
        """Another owner has the others."""
        with self._lock:
            self._parked = {
                at: place for at, place in self._parked.items() if at in partitions and not place.lease.lost
            }
            if not self._parked:
                self._health.set_ready(self._part, True, "")
