"""When each generation was last verified and what was found, in the reports topic, so that ``status`` can say it."""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any, Final, Literal

import msgspec

from pipeline.broker.partitioner import partition_of
from pipeline.broker.reading import to_the_end
from pipeline.codec import UNREADABLE
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import Broker, NewRecord, Publisher

log = logging.getLogger(__name__)

#: No worker is called so: theirs begin with a host's name.
_PREFIX: Final = b"verified/"
_PUBLISH_SECONDS: Final = 5.0
_READ_SECONDS: Final = 20.0
_PAGE: Final = 500


class Verified(msgspec.Struct, frozen=True):
    """The outcome of one generation's last complete verification."""

    generation: str
    at: float
    """When it ended, in seconds since 1970."""
    seconds: float
    by: Literal["command", "patrol"]
    ok: bool
    """The collection equals the log; after a repair, as it is then."""
    documents: int
    findings: dict[str, int]
    """Documents by what was wrong with them, kinds without any left out; before a repair."""
    vectors: int = 0
    """Chunks whose text was embedded again."""
    repaired: int = 0
    """Documents."""
    covered: dict[int, int] = {}
    """By partition of the log, the first version that it did not look at; empty: an earlier vectide's, nobody knows."""

    def covers(self, key: DocumentKey, version: int) -> bool | None:
        """Whether it looked at this version of a document, or came before; None: that is not known."""
        below = self.covered.get(partition_of(key.to_bytes(), len(self.covered) or 1))
        return None if below is None else version < below

    def as_json(self) -> dict[str, Any]:
        """For ``status --json``."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("generation", "covered")}


def publish(publisher: Publisher, names: Names, verified: Verified) -> None:
    """Replace what was last said of the generation.

    Raises:
        BrokerUnavailable: no answer.
    """
    record = NewRecord(names.reports, _PREFIX + verified.generation.encode(), msgspec.json.encode(verified))
    publisher.publish([record], Deadline.after(_PUBLISH_SECONDS))


def last_verified(broker: Broker, names: Names) -> dict[str, Verified]:
    """By generation; those that were not verified for a week are left out.

    Raises:
        BrokerUnavailable: no answer.
    """
    found: dict[str, Verified] = {}
    for record in chain.from_iterable(to_the_end(broker.reader(names.reports), names.reports, _PAGE, _READ_SECONDS)):
        if record.key is None or record.value is None or not record.key.startswith(_PREFIX):
            continue
        try:
            one = msgspec.json.decode(record.value, type=Verified)
        except UNREADABLE as error:
            log.debug("report not understood", extra={"error": str(error)})  # a later vectide's
            continue
        found[one.generation] = one
    return found
