"""The loop of a pushed source: what senders ask for becomes events, one transaction for all who wait.

1. Take over the transactional id: whoever wrote this source's keys before is fenced. Only then read what has been
   published.
2. Take what is queued, decide on each request against the state, write events, state and answers in one transaction.
3. Answer, once that is committed and never before.

Whether a transaction has happened whose answer was lost is read back: each writes a mark of its own. What else is
asked of the source's writer, to forget and to collect, is done between two transactions (:mod:`connectors.duties`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from connectors.push.draft import Draft
from connectors.push.intake import Asked, Intake, Looked, answer, refuse
from connectors.push.ledger import Ledger
from connectors.push.operations import Outcome, Place
from connectors.push.source import PushSource
from connectors.state import State
from connectors.writing import ALL, FIRST, Writer
from pipeline.broker.reading import to_the_end
from pipeline.codec import decode_event
from pipeline.deadline import Deadline
from pipeline.errors import Backpressure, NotAllowed, Poison, Transient
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics, printable_label
from pipeline.patience import Patience
from pipeline.ports import Broker
from pipeline.records import DocumentChanged, Request

T = TypeVar("T")

log = logging.getLogger(__name__)

_BEHIND_EVERY_SECONDS: Final = 5.0
#: Marks that have outlived their time are removed with requests, or after so long without any.
_TIDY_SECONDS: Final = 60.0
#: What is known of a document is told by whoever has proved within so long that it is still the writer.
_PROVED_SECONDS: Final = 5.0
_PAGE: Final = 50
#: A read of one record, behind an open transaction of another source at the worst.
_LOOKUP_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class PushLimits:
    """What bounds the waits of a pushed source's writer."""

    publish_seconds: float = 10.0
    wait_seconds: float = 0.25
    drain_seconds: float = 10.0


class PushRunner:
    """The one writer of a pushed source's keys.

    Args:
        source: closed when the runner ends.
        broker: has the documents topic and ``connector-state``.
        names: of the pipeline.
        epoch: of the documents topic.
        state_directory: of the cache of what was published; None keeps it in memory.
        patience: waits out outages of the broker.
        health: told about the loop ``connect.<id>`` and the part ``broker``.
        metrics: counts what was published.
        limits: bounds.
        requests: what is asked of the writers of sources, in order.
        behind: records of the log that the live generation has not committed; None: nobody knows.
    """

    def __init__(
        self,
        source: PushSource,
        broker: Broker,
        names: Names,
        epoch: int,
        state_directory: Path | None,
        patience: Patience,
        health: Health,
        metrics: Metrics,
        limits: PushLimits = PushLimits(),
        requests: Callable[[], Sequence[Request]] = tuple,
        behind: Callable[[], int] | None = None,
    ) -> None:
        self.scanned = threading.Event()
        """Set once it is known what was published: from then on requests are answered."""
        self.intake = Intake(source.limits)
        self._source = source
        self._broker = broker
        self._loop = f"connect.{source.id}"
        self._epoch = epoch
        self._writer = Writer(source.id, broker, names, epoch, requests, limits.publish_seconds, self._read_state)
        self._state_topic = names.connector_state
        self._directory = state_directory
        self._patience = patience
        self._health = health
        self._metrics = metrics
        self._limits = limits
        self._behind = behind
        self._next_behind = 0.0
        self._told: set[str] = set()
        self._next_tidy = 0.0
        self._proved_at = -math.inf
        """On the monotonic clock."""
        self._label = printable_label(source.id)
        metrics.push_waiting.labels(self._label)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; what was accepted by then is written and answered.

        Raises:
            Fenced: another process has taken this source over.
            Fatal: from the broker, the source or the disk; nothing was half written.
        """
        self._patience.give_up_with(stop)
        self._state = State(self._broker, self._state_topic, self._source.id, self._directory)
        self._ledger = Ledger(self._state, self._source.memory)
        try:
            # First of all: who asks while the log is away is told so.
            self._source.listen(self.intake, self._epoch, self._count)
            self._until_done(self._writer.take_over)
            while not stop.is_set() and self._attend(FIRST, sure=True):
                pass
            self.intake.away("")
            self.scanned.set()
            while not stop.is_set():
                self._turn(self._limits.wait_seconds)
            self._finish()
        except (Transient, Backpressure):
            if not stop.is_set():
                raise
        finally:
            self.intake.close()
            self.intake.refuse_all(Transient("this process is ending"))
            self._health.end(self._loop)
            self._source.drain(Deadline.after(self._limits.drain_seconds))
            self._source.close()
            self._writer.leave()
            self._state.close()

    def _count(self, status: int) -> None:
        self._metrics.push_requests.labels(self._label, str(status)).inc()

    def _finish(self) -> None:
        self.intake.close()
        deadline = Deadline.after(self._limits.drain_seconds)
        while self.intake.waiting and not deadline.expired:
            self._turn(0.0)

    def _turn(self, timeout: float) -> None:
        self._health.beat(self._loop)
        if self._attend(ALL):
            timeout = 0.0
        self._sample()
        taken = self.intake.take(timeout)
        self._metrics.push_waiting.labels(self._label).set(self.intake.waiting)
        asked = [one for one in taken if isinstance(one, Asked)]
        looked = [one for one in taken if isinstance(one, Looked)]
        try:
            if asked or self._unproved(looked) or time.monotonic() >= self._next_tidy:
                self._next_tidy = time.monotonic() + _TIDY_SECONDS
                self._write(asked, looked)
        except BaseException as error:
            for question in looked:
                refuse(question, Transient(f"what is known of it cannot be told: {error}"))
            raise
        # After what was asked before them.
        for question in looked:
            if question.future.set_running_or_notify_cancel():
                question.future.set_result(self._ledger.standing(question.path))

    def _unproved(self, looked: Sequence[Looked]) -> bool:
        """Whether an answer to these could be one of long ago: another process may have taken over since."""
        return bool(looked) and time.monotonic() >= self._proved_at + _PROVED_SECONDS

    def _until_done(self, operation: Callable[[], T]) -> T:
        """Wait out outages; senders are told meanwhile."""

        def attempt() -> T:
            self._health.beat(self._loop)
            try:
                return operation()
            except (Transient, Backpressure) as error:
                self.intake.away(str(error))
                raise

        return self._patience.until_done("broker", attempt)

    # ---------------------------------------------------------------------- transactions

    def _write(self, requests: list[Asked], looked: Sequence[Looked] = ()) -> None:
        """One transaction for all of these; for questions alone, one of a mark, if nothing else proves that they are
        asked of the writer.
        """
        drafts: list[Draft] = []
        started = time.monotonic()
        try:
            self._until_done(lambda: self._commit(requests, drafts, looked))
        except Poison as error:
            self._apart(requests, error)
        except BaseException as error:
            for one in requests:
                refuse(one, Transient(f"it may have been written, or not: {error}"))
            raise
        if self.scanned.is_set():
            self.intake.away("")
        self._metrics.push_commit_duration_seconds.observe(time.monotonic() - started)

    def _commit(self, requests: list[Asked], drafts: list[Draft], looked: Sequence[Looked]) -> None:
        """An attempt; ``drafts`` has the one before, of which nobody knows whether it was written."""
        self._writer.hold()
        last = drafts.pop() if drafts else None
        if last is not None and self._ledger.commit() == last.token:
            last.placed()
            self._answer(last)
            return
        draft = self._draft(requests)
        if not draft.empty or self._unproved(looked):
            drafts.append(draft)
            events, began = draft.events(), time.monotonic()
            with self._writer.transaction() as (publisher, deadline):
                written = (
                    publisher.publish(events, deadline, draft.then)[len(events) :]
                    if events
                    else publisher.publish(draft.then(()), deadline)
                )
                self._state.put(draft.entries, written, draft.marks)
                self._ledger.noted(draft.marks)
                self._writer.duties.published(draft.entries)
            self._proved_at = began
        self._answer(draft)

    def _draft(self, requests: list[Asked]) -> Draft:
        draft = Draft(
            self._source.id,
            self._writer.topic,
            self._state,
            self._ledger,
            self._lookup,
            self._source.rules,
            time.time(),
        )
        draft.tidy()
        for one in requests:
            if one.deadline.expired or one.future.cancelled():
                refuse(one, Transient("it was not written in time, and is not going to be"))
            else:
                draft.add(one)
        return draft

    def _answer(self, draft: Draft) -> None:
        for ruling in draft.rulings:
            if ruling.error is not None:
                refuse(ruling.request, ruling.error)
            else:
                answer(ruling.request, draft.outcomes(ruling), replayed=ruling.replayed)
        for kind, count in draft.changed().items():
            self._metrics.documents_published.labels(kind).inc(count)

    def _apart(self, requests: list[Asked], error: Poison) -> None:
        """One of them is too large for the log: it alone is refused."""
        if len(requests) > 1:
            for one in requests:
                self._write([one])
            return
        for one in requests:
            log.warning("a request is too large for the log", extra={"source": self._source.id, "error": str(error)})
            answer(one, tuple(Outcome("refused", refusal="too-large", detail=error.detail) for _ in one.operations))

    def _lookup(self, key: DocumentKey, place: Place) -> DocumentChanged | None:
        """The event of a document, from where the state says that it is. Compaction never removes the last one
        of a key, so it is there. None: it is not, or this process may not read it.
        """
        try:
            return self._read(key, place)
        except NotAllowed as error:
            self._tell("documents cannot be patched: this process may not read the log", error)
            return None

    def _tell(self, what: str, error: NotAllowed) -> None:
        """Once: what a connector's rights do not cover is left out."""
        if what not in self._told:
            self._told.add(what)
            log.warning(what, extra={"source": self._source.id, "error": str(error)})

    def _read(self, key: DocumentKey, place: Place) -> DocumentChanged | None:
        start = {partition: one.end for partition, one in self._broker.offsets(self._writer.topic).items()}
        if place.offset >= start.get(place.partition, 0):
            written = self._broker.offsets(self._writer.topic, uncommitted=True).get(place.partition)
            if written is not None and place.offset < written.end:
                raise Transient("a transaction of another source is open before it")
            return None
        start[place.partition] = place.offset
        reader = self._broker.reader(self._writer.topic, start)
        with closing(to_the_end(reader, self._writer.topic, _PAGE, _LOOKUP_SECONDS)) as pages:
            for records in pages:
                for record in records:
                    if (record.partition, record.offset) == (place.partition, place.offset):
                        event = decode_event(record)
                        found = isinstance(event, DocumentChanged) and event.key == key
                        return event if found and isinstance(event, DocumentChanged) else None
                    if record.partition == place.partition and record.offset > place.offset:
                        return None
        return None

    # ---------------------------------------------------------------------------- duties

    def _attend(self, kinds: Sequence[str], *, sure: bool = False) -> bool:
        """Go on with what is asked of this source's writer, by one transaction; True if there was something to do."""
        if not self._writer.asked(self._state, kinds, self._until_done if sure else None):
            return False
        self._until_done(lambda: self._writer.serve(self._state, kinds))
        if self.scanned.is_set():
            self.intake.away("")
        return True

    def _sample(self) -> None:
        """Whether the pipeline is so far behind that senders should wait."""
        limit = self._source.lag_limit_records
        if self._behind is None or not limit or time.monotonic() < self._next_behind:
            return
        self._next_behind = time.monotonic() + _BEHIND_EVERY_SECONDS
        try:
            records = self._behind()
        except NotAllowed as error:
            self._tell("senders are not slowed down: this process may not see how far the pipeline is behind", error)
            self._behind = None
            return
        except (Transient, Backpressure):
            return  # a broker that does not answer is another part's news
        self.intake.behind(f"the pipeline is {records} records behind, over {limit}" if records > limit else "")

    def _read_state(self) -> None:
        """What the last writer has published, and what it remembered."""
        began = time.monotonic()
        self._state.refresh()
        self._ledger.load()
        self._proved_at = began
