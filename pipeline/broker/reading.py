"""Reading a topic to the end that it had when the reader was opened."""

from __future__ import annotations

from collections.abc import Generator

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable
from pipeline.ports import Reader, Record

_POLL_SECONDS = 0.2


def to_the_end(reader: Reader, topic: str, page: int, stall_seconds: float) -> Generator[list[Record]]:
    """Pages of records up to the end; closes the reader when it is exhausted or closed.

    Args:
        reader: of ``topic``.
        topic: for the error.
        page: most records of one page.
        stall_seconds: without a record for so long, the topic counts as unreachable. However much
            there is to read may take its time.

    Raises:
        BrokerUnavailable: no answer, or no record for that long before the end.
    """
    stalled = Deadline.after(stall_seconds)
    try:
        while not reader.caught_up():
            records = reader.poll(_POLL_SECONDS, page)
            if records:
                yield records
                stalled = Deadline.after(stall_seconds)
            elif stalled.expired and not reader.caught_up():
                raise BrokerUnavailable(f"no records of {topic} for {stall_seconds:.0f} s")
    finally:
        reader.close()
