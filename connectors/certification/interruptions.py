"""A process that is killed where a check says, and a log that notes each transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.deadline import Deadline
from pipeline.errors import BrokerUnavailable
from pipeline.ports import (
    Backlog,
    Broker,
    Expired,
    Fetched,
    Hint,
    Listed,
    LogSource,
    NewRecord,
    Skipped,
    Source,
    Then,
    TransactionalPublisher,
)
from pipeline.ports import Written as WrittenTo


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
        self.transactions: list[list[NewRecord]] = []
        """What each transaction that was written held."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def transactional_publisher(self, transactional_id: str) -> TransactionalPublisher:
        """Take the id over, as the real broker does."""
        self.taken_over += 1
        return _FaultyPublisher(self._broker.transactional_publisher(transactional_id), self)


class _FaultyPublisher:
    def __init__(self, publisher: TransactionalPublisher, broker: FaultyBroker) -> None:
        self._publisher = publisher
        self._broker = broker
        self._broken = False

    def publish(self, records: Sequence[NewRecord], deadline: Deadline, then: Then | None = None) -> list[WrittenTo]:
        assert not self._broken, "a publisher whose outcome is unknown was used again"
        try:
            self._broker.plan(False)
            written = self._publisher.publish(records, deadline, then)
            self._broker.transactions.append(list(records))
            self._broker.plan(True)
        except BrokerUnavailable:
            self._broken = True
            raise
        return written

    def close(self, deadline: Deadline) -> None:
        self._publisher.close(deadline)


class Watched:
    """A source that passes everything on, counts what is fetched, and is killed where a plan says.

    Args:
        source: the real one.
        plan: called before each call and each listed document; raises :class:`Killed` to end there.
    """

    def __init__(self, source: Source, plan: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self.id = source.id
        self.plan = plan
        self.fetched: list[str] = []
        self.listed = 0
        self.scanning = False

    def scan(self) -> Iterator[Listed | None]:
        """The source's, one by one."""
        self.scanning = True
        self.plan()
        for listed in self._source.scan():
            self.plan()
            self.listed += listed is not None
            yield listed
        self.scanning = False

    def hints(self, timeout: float) -> list[Hint]:
        """The source's."""
        self.plan()
        return self._source.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | Expired | None:
        """The source's, counted."""
        self.plan()
        self.fetched.append(path)
        return self._source.fetch(path)

    def close(self) -> None:
        """Pass it on."""
        self._source.close()


class WatchedLog(Watched):
    """The same of a source with a log: killed between what is published, noted and acknowledged, too.

    Args:
        source: the real one.
        plan: as for :class:`Watched`.
    """

    def __init__(self, source: LogSource, plan: Callable[[], None] = lambda: None) -> None:
        super().__init__(source, plan)
        self._log = source

    def resume(self, position: str | None) -> bool:
        """The source's."""
        self.plan()
        return self._log.resume(position)

    def caught_up(self) -> bool:
        """The source's."""
        self.plan()
        return self._log.caught_up()

    def position(self) -> str:
        """The source's."""
        self.plan()
        return self._log.position()

    def acknowledge(self, position: str) -> None:
        """Pass it on."""
        self.plan()
        self._log.acknowledge(position)

    def backlog(self) -> Backlog | None:
        """The source's."""
        self.plan()
        return self._log.backlog()


def watched(source: Source, plan: Callable[[], None] = lambda: None) -> Watched:
    """The source, watched as what it is: a runner resumes one with a log."""
    return WatchedLog(source, plan) if isinstance(source, LogSource) else Watched(source, plan)
