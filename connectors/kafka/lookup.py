"""Single records of partitions, by their offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeline.broker.kafka_topics import OutOfLog, PartitionsReader
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable
from pipeline.ports import Record, TopicPartition

_RECORDS: Final = 500
_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.5
#: A record so many offsets further on is read to, not sought: it has probably been fetched already.
_AHEAD: Final = 1000


class Lookup:
    """Reads ahead: whoever asks for records in the order in which they lie reads each partition once. One thread.

    Args:
        opened: a reader of one partition, from an offset on.
    """

    def __init__(self, opened: Callable[[TopicPartition, int], PartitionsReader]) -> None:
        self._opened = opened
        self._reader: PartitionsReader | None = None
        self._at: TopicPartition | None = None
        self._next = 0
        self._ahead: dict[int, Record] = {}

    def get(self, at: TopicPartition, offset: int) -> Record | None:
        """The record there; None: the log does not have it any more.

        Raises:
            SourceUnavailable: no answer.
            BrokerUnavailable: likewise.
        """
        if at == self._at and offset in self._ahead:
            return self._ahead[offset]
        deadline = Deadline.after(_SECONDS)
        try:
            reader = self._sought(at, offset)
            while self._next <= offset:
                if deadline.expired:
                    raise SourceUnavailable(f"record {offset} of {at.topic}[{at.partition}] is not sent")
                found = reader.poll(_POLL_SECONDS, _RECORDS)
                self._next = reader.positions().get(at, offset)
                if found:
                    self._ahead = {one.offset: one for one in found}
        except OutOfLog:
            self._at = None
            return None
        return self._ahead.get(offset)

    def close(self) -> None:
        """Release connections."""
        reader, self._reader, self._at, self._ahead = self._reader, None, None, {}
        if reader is not None:
            reader.close()

    def _sought(self, at: TopicPartition, offset: int) -> PartitionsReader:
        if self._reader is None:
            self._reader = self._opened(at, offset)
        elif at != self._at or not self._next <= offset < self._next + _AHEAD:
            self._reader.assign({at: offset})
        else:
            return self._reader
        self._at, self._next, self._ahead = at, offset, {}
        return self._reader
