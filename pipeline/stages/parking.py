"""Partitions that wait for an upgrade: a record of a newer schema stops its partition, not the rest."""

from __future__ import annotations

import logging

from pipeline.errors import NewerSchema
from pipeline.observe.health import Health
from pipeline.ports import TopicPartition
from pipeline.stages.window import Taken

log = logging.getLogger(__name__)


class Parking:
    """Keeps the order within a parked partition: nothing behind the record is worked on.

    The records stay in flight and uncommitted, so the upgraded process reads them again. Memory
    is bounded: the worker pauses a parked partition.
    """

    def __init__(self, stage: str, health: Health) -> None:
        self._stage = stage
        self._health = health
        self._parked: dict[TopicPartition, str] = {}

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """Those that wait."""
        return frozenset(self._parked)

    def holds(self, taken: Taken) -> bool:
        """True for a record behind the one that parked its partition."""
        return taken.record.at in self._parked

    def park(self, taken: Taken, why: NewerSchema) -> None:
        """Stop this partition here; the process is not ready until it is upgraded."""
        self._parked = {**self._parked, taken.record.at: str(why)}
        log.error("partition waits for an upgrade", extra={"stage": self._stage, "error": str(why)})
        self._health.set_ready("schema", False, str(why))

    def keep(self, partitions: frozenset[TopicPartition]) -> None:
        """Another owner has the others."""
        self._parked = {at: why for at, why in self._parked.items() if at in partitions}
        if not self._parked:
            self._health.set_ready("schema", True, "")
