"""A broker that fails where a test says, around the real one; and a source that counts and fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from connectors.memory import MemorySource
from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable
from pipeline.ports import Broker, Fetched, Hint, Listed, NewRecord, Skipped, Then, TransactionalPublisher, Written


class Killed(BaseException):
    """The process is gone, here."""


class FaultyBroker:
    """Passes everything on, but for what happens around a transaction.

    Args:
        broker: the real one.
        plan: called before (``after`` False) and after (True) each transaction was written; raises
            what should happen there.
    """

    def __init__(self, broker: Broker, plan: Callable[[bool], None]) -> None:
        self._broker = broker
        self.plan = plan
        self.taken_over = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def transactional_publisher(self, transactional_id: str) -> TransactionalPublisher:
        self.taken_over += 1
        return _FaultyPublisher(self._broker.transactional_publisher(transactional_id), self)


class _FaultyPublisher:
    def __init__(self, publisher: TransactionalPublisher, broker: FaultyBroker) -> None:
        self._publisher = publisher
        self._broker = broker
        self._broken = False

    def publish(self, records: Sequence[NewRecord], deadline: Deadline, then: Then | None = None) -> list[Written]:
        assert not self._broken, "a publisher whose outcome is unknown was used again"
        try:
            self._broker.plan(False)
            written = self._publisher.publish(records, deadline, then)
            self._broker.plan(True)
        except BrokerUnavailable:
            self._broken = True
            raise
        return written

    def close(self, deadline: Deadline) -> None:
        self._publisher.close(deadline)


class Spy:
    """A source that passes everything on, counts what is fetched, and fails where told."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.id: str = source.id
        self.fetched: list[str] = []
        self.fetch_errors: dict[str, list[Exception]] = {}
        self.scan_errors: list[Exception] = []
        self.hide: set[str] = set()
        """Paths that a scan does not list, though they are there."""

    def scan(self) -> Iterator[Listed]:
        for number, listed in enumerate(self._source.scan()):
            if self.scan_errors and number == 1:
                raise self.scan_errors.pop(0)
            if listed.path not in self.hide:
                yield listed
        if self.scan_errors:
            raise self.scan_errors.pop(0)

    def hints(self, timeout: float) -> list[Hint]:
        return self._source.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        self.fetched.append(path)
        errors = self.fetch_errors.get(path)
        if errors:
            raise errors.pop(0)
        return self._source.fetch(path)

    def close(self) -> None:
        self._source.close()


def reopened(source: MemorySource) -> MemorySource:
    """The same documents, as a new process finds them."""
    return MemorySource(source.id, source._documents, _revision=source._revision)
