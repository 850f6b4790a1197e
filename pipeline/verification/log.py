"""Reading the documents topic, for verification and repair."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final

from pipeline.broker.reading import to_the_end
from pipeline.errors import MalformedRecord
from pipeline.identity import DocumentKey
from pipeline.ports import Broker, Record

#: Records of one page; the broker bounds their bytes.
_PAGE: Final = 256
#: Nothing read for so long, although there is more: the broker does not answer.
_STALL_SECONDS: Final = 30.0


def ends_of(broker: Broker, topic: str) -> dict[int, int]:
    """By partition, the next offset."""
    return {partition: bounds.end for partition, bounds in broker.offsets(topic).items()}


def pages_of(broker: Broker, topic: str, start: Mapping[int, int]) -> Generator[list[Record]]:
    """Pages of records from ``start`` to the end that there is now; close it.

    Raises:
        BrokerUnavailable: no answer.
    """
    return to_the_end(broker.reader(topic, start), topic, _PAGE, _STALL_SECONDS)


def key_of(record: Record) -> DocumentKey | None:
    """None for a key that cannot be read: no stage makes a head of it."""
    try:
        return DocumentKey.from_bytes(record.key or b"")
    except MalformedRecord:
        return None
