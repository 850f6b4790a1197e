"""The one writer of a source's keys: it holds their transactional id, and does what is asked of whoever holds it.

Whether a transaction has happened whose answer was lost nobody here knows: after it the id is let go, and whoever
takes it over again reads what there is before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from connectors.duties import Duties
from connectors.state import State
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, Transient
from pipeline.naming import Names
from pipeline.ports import Broker, TransactionalPublisher
from pipeline.records import Request

_CLOSE_SECONDS: Final = 5.0
#: What must be done before anything is published; old deletes can wait.
FIRST: Final = ("forget", "lift")
ALL: Final = ("forget", "lift", "gc")


class Writer:
    """Of one source; one thread.

    Args:
        source_id: the source's.
        broker: has the documents topic.
        names: of the pipeline.
        epoch: of the documents topic.
        requests: what is asked of the writers of sources, in order.
        publish_seconds: for one transaction.
        read: reads what was published; after each take-over, which fences whoever wrote before.
    """

    def __init__(
        self,
        source_id: str,
        broker: Broker,
        names: Names,
        epoch: int,
        requests: Callable[[], Sequence[Request]],
        publish_seconds: float,
        read: Callable[[], None],
    ) -> None:
        self.topic = names.documents(epoch)
        self.duties = Duties(source_id, broker, self.topic, requests)
        self.publisher: TransactionalPublisher | None = None
        """While the id is held."""
        self._id = names.connector(source_id)
        self._broker = broker
        self._seconds = publish_seconds
        self._read = read

    def take_over(self) -> None:
        """Become the one writer, then read what the last one has published."""
        self.leave()
        self.duties.restart()
        publisher = self._broker.transactional_publisher(self._id)
        try:
            self._read()
        except BaseException:
            publisher.close(Deadline.after(_CLOSE_SECONDS))
            raise
        self.publisher = publisher

    def hold(self) -> bool:
        """Take over, unless the id is held; True if it was not: others may have written meanwhile."""
        if self.publisher is not None:
            return False
        self.take_over()
        return True

    def leave(self) -> None:
        """Let the id go."""
        publisher, self.publisher = self.publisher, None
        if publisher is not None:
            publisher.close(Deadline.after(_CLOSE_SECONDS))

    @contextmanager
    def transaction(self) -> Iterator[tuple[TransactionalPublisher, Deadline]]:
        """To write one, and to note what it has made known. After a transient error it is written or not: the next
        attempt takes over.
        """
        self.hold()
        assert self.publisher is not None  # just taken over
        try:
            yield self.publisher, Deadline.after(self._seconds)
        except Transient:
            self.leave()
            raise

    def asked(
        self,
        state: State,
        kinds: Collection[str],
        patiently: Callable[[Callable[[], Request | None]], Request | None] | None = None,
    ) -> bool:
        """True if something is asked of whoever writes this source.

        Args:
            state: of the source.
            kinds: of requests.
            patiently: waits until that is known; without it, what cannot be known now is left to the next look.
        """

        def look() -> Request | None:
            return self.duties.next(state, kinds)

        if patiently is not None:
            return patiently(look) is not None
        try:
            return look() is not None
        except (Transient, Backpressure):
            return False

    def serve(self, state: State, kinds: Collection[str]) -> Request | None:
        """Go on with the first request by one transaction; None: there is none. Which is the first is asked only now:
        whoever took over meanwhile may have done it, and more that was asked after it.
        """
        self.hold()
        request = self.duties.next(state, kinds)
        if request is not None:
            with self.transaction() as (publisher, deadline):
                self.duties.step(request, state, publisher, deadline)
        return request
