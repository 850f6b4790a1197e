"""The loop around a source: what differs from what was last published becomes events.

1. Take over the transactional id: whoever wrote this source's keys before is fenced. Only then
   read what has been published (:mod:`connectors.state`).
2. Scan, once the source is watching. A document whose revision is the known one is not read; of
   the others, those whose content or metadata differ are published.
3. What the scan did not list is fetched once more; only what certainly is gone becomes a delete.
4. Follow hints, with a scan from time to time as a safety net.

At any time, and first of all, it carries out what is asked of it (:mod:`connectors.duties`); a
document that was forgotten is not looked at until that is lifted.

Events and what they make known are written in one transaction, so that a crash anywhere leaves
both or neither; everything that was fetched for it lies in memory by then. Creates and changes
come before deletes, so that a rename finds the vectors of the old name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from connectors.batches import Batch, Pending, changed, deleted, known_of, smaller, traceparent, unreadable
from connectors.duties import FORGOTTEN
from connectors.following import POSITION, Following
from connectors.hearing import Hearing, Unheard
from connectors.looks import Look, Looks
from connectors.state import Known, State
from connectors.writing import ALL, FIRST, Writer
from pipeline.errors import Backpressure, Poison, SourceUnavailable, Transient
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import SKIPPED, Metrics, bounded, printable_label
from pipeline.patience import Patience
from pipeline.ports import Broker, Expired, Fetched, Hint, LogSource, Skipped, Source
from pipeline.records import Provenance, Request

T = TypeVar("T")

log = logging.getLogger(__name__)

#: An editor that saves by way of a rename leaves no file for some milliseconds.
_GONE_SECONDS: Final = 0.05
#: Between the looks at a document that is empty or cannot be extracted: a writer truncates first.
_UNSETTLED_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 0.6)
#: Between the looks at a document that cannot be read; after these, each scan looks again.
_UNREADABLE_SECONDS: Final = (0.05, 0.5, 2.0, 10.0, 30.0)
#: A document that changes within this time of its last event is held back for it, then for twice
#: as long, up to the second figure: a file that grows for minutes is not published 500 times a second.
_HOT_SECONDS: Final = (0.02, 1.0)
_HOT_DOCUMENTS: Final = 1000
#: After a scan, one that is asked for waits for so many times as long: those of up to 15 s take a fifth of the time at
#: most. After longer ones it waits a minute, for what asked for it cannot wait for hours: they may follow each other.
_SCAN_REST: Final = 4.0
_SCAN_REST_SECONDS: Final = 60.0
#: How often a long scan stops for what happens meanwhile.
_BREATH_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What bounds a runner's memory and its waits."""

    batch_documents: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    publish_seconds: float = 10.0
    hints_seconds: float = 0.25
    rescan_seconds: float = 600.0
    position_seconds: float = 5.0


class Runner:
    """The one writer of a source's keys.

    Args:
        source: closed when the runner ends.
        broker: has the documents topic and ``connector-state``.
        names: of the pipeline.
        epoch: of the documents topic.
        state_directory: of the cache of what was published; None keeps it in memory.
        patience: waits out outages of broker and source.
        health: told about the loop ``connect.<id>`` and the parts ``broker`` and ``source.<id>``.
        metrics: counts what was published and skipped.
        limits: bounds.
        requests: what is asked of the writers of sources, in order.
    """

    def __init__(
        self,
        source: Source,
        broker: Broker,
        names: Names,
        epoch: int,
        state_directory: Path | None,
        patience: Patience,
        health: Health,
        metrics: Metrics,
        limits: RunnerLimits = RunnerLimits(),
        requests: Callable[[], Sequence[Request]] = tuple,
    ) -> None:
        self.scanned = threading.Event()
        """Set once the first scan is complete, or the log of a source that needs none has been followed up
        to where it ended at the start, and everything that was found is published.
        """
        self._source = source
        self._broker = broker
        self._loop = f"connect.{source.id}"
        self._part = f"source.{source.id}"
        self._writer = Writer(source.id, broker, names, epoch, requests, limits.publish_seconds, self._refresh)
        self._state_topic = names.connector_state
        self._directory = state_directory
        self._patience = patience
        self._health = health
        self._metrics = metrics
        self._label = printable_label(source.id)
        self._limits = limits
        self._batch = Batch()
        self._looks = Looks()
        self._hearing = Hearing(source, self._something_is_due)
        self._hot: dict[str, tuple[float, float]] = {}
        self._unreadable: set[str] = set()
        self._told: set[str] = set()
        self._following = Following(source, limits.position_seconds) if isinstance(source, LogSource) else None
        self._scan_wanted = self._following is None
        self._scan_owed = True
        self._given_up = 0
        self._next_scan = 0.0
        self._rested = 0.0
        self._scanned_at = 0.0
        self._next_breath = 0.0
        metrics.source_rescan_seconds.labels(self._label).set(limits.rescan_seconds)
        for gauge in (
            metrics.source_documents,
            metrics.source_last_scan_timestamp_seconds,
            metrics.source_scan_duration_seconds,
        ):
            gauge.labels(self._label)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set.

        Raises:
            Fenced: another runner has taken this source over.
            Fatal: from the broker, the source or the disk; nothing was half written.
        """
        self._patience.give_up_with(stop)
        self._state = State(self._broker, self._state_topic, self._source.id, self._directory)
        try:
            self._until_done("broker", self._writer.take_over)
            while not stop.is_set() and self._attend(FIRST, sure=True):
                pass
            self._resume()
            while not stop.is_set():
                self._turn(stop)
            self._acknowledge(at_once=True)
        except (Transient, Backpressure):
            if not stop.is_set():
                raise
        finally:
            self._health.end(self._loop)
            self._health.set_ready(self._part, True, "")
            self._source.close()
            self._writer.leave()
            self._state.close()

    def _until_done(self, dependency: str, operation: Callable[[], T], part: str = "") -> T:
        """Wait out outages; the loop is alive as long as attempts come back."""

        def attempt() -> T:
            self._health.beat(self._loop)
            if dependency == "source":
                self._attend()  # a source can be away for days
            return operation()

        return self._patience.until_done(dependency, attempt, part)

    # ----------------------------------------------------------------------- the loop

    def _resume(self) -> None:
        """A source with a log goes on where it was, without a scan if nothing was missed."""
        following = self._following
        if following is None:
            return
        # A state that was built anew may have believed in what is not in the log.
        position = None if self._scan_wanted else following.stored(self._state)
        if self._until_done("source", lambda: following.source.resume(position), self._part) and position is not None:
            self._scan_owed = False
            self._next_scan = time.monotonic() + following.until_scan(self._limits.rescan_seconds)
            self._metrics.source_last_scan_timestamp_seconds.labels(self._label).set(following.last_scan)
        else:
            self._scan_wanted = True

    def _turn(self, stop: threading.Event) -> None:
        self._health.beat(self._loop)
        if self._scan_is_due(time.monotonic()):
            self._scan_owed = self._scan_owed or self._scan_wanted
            self._scan_wanted = False
            try:
                self._until_done("source", lambda: self._scan(stop), self._part)
            except (Transient, Backpressure):
                self._scan_wanted = True
                raise
        self._follow(self._limits.hints_seconds)

    def _scan_is_due(self, now: float) -> bool:
        return (self._scan_wanted and now >= self._rested) or now >= self._next_scan

    def _something_is_due(self, now: float) -> bool:
        """True if there is something to do that needs no hints."""
        look = self._looks.next()
        return self._scan_is_due(now) or (look is not None and look <= now)

    def _scan(self, stop: threading.Event) -> None:
        """Compare everything that there is with what was published."""
        self._hearing.scanning = True
        try:
            self._compare(stop)
        finally:
            self._hearing.scanning = False

    def _compare(self, stop: threading.Event) -> None:
        first, started, documents = not self.scanned.is_set(), time.time(), 0
        self._state.begin_scan()
        given_up = self._given_up
        # Leaving early is no harm: what was not listed is only deleted after the last one.
        for listed in self._source.scan():
            if listed is not None:
                documents += 1
                known = self._state.see(listed.path)
                if known is None or (known.revision != listed.revision and not known.forgotten):
                    self._examine(self._look(listed.path, started, listed.revision, backfill=first))
            if self._breathe(stop):
                return
        for path in self._state.unseen():
            self._examine(self._look(path, started, backfill=first, decided=True))
            if self._breathe(stop):
                return
        self._flush()
        self._scanned_at = started
        self._scan_owed = self._given_up != given_up  # what was given up meanwhile may have been passed before
        if self._following is not None:
            self._following.scanned(started)
        ended, took = time.monotonic(), time.time() - started
        self._next_scan = ended + self._limits.rescan_seconds
        self._rested = ended + min(_SCAN_REST * max(0.0, took), _SCAN_REST_SECONDS)
        self._metrics.source_documents.labels(self._label).set(documents)
        self._metrics.source_last_scan_timestamp_seconds.labels(self._label).set(started)
        self._metrics.source_scan_duration_seconds.labels(self._label).set(max(0.0, took))
        self.scanned.set()
        log.debug("scanned", extra={"source": self._source.id, "seconds": round(took, 3)})
        if not first:
            self._until_done("broker", self._refresh)

    def _breathe(self, stop: threading.Event) -> bool:
        """Live changes do not wait for the end of a long scan; True if it is time to stop."""
        now = time.monotonic()
        if now >= self._next_breath:
            self._health.beat(self._loop)
            self._follow(0.0)
            self._next_breath = time.monotonic() + _BREATH_SECONDS
        return stop.is_set()

    def _follow(self, timeout: float) -> None:
        """Look at what may have changed, and publish what did."""
        if self._attend():
            timeout = 0.0
        wakes = [self._looks.next(), self._rested if self._scan_wanted else None]
        for wake in wakes:
            if wake is not None:
                timeout = max(0.0, min(timeout, wake - time.monotonic()))
        try:
            hints = self._until_done("source", lambda: self._hearing.hints(timeout), self._part)
        except Unheard as why:
            self._health.set_ready(self._part, False, str(why))
        else:
            if self._following is not None:
                self._following.heard()
            for look in self._noticed(hints):
                self._examine(look)
        for look in self._looks.due(time.monotonic()):
            self._examine(look)
        self._flush()
        self._acknowledge()

    def _noticed(self, hints: Iterable[Hint]) -> Iterable[Look]:
        now, clock = time.time(), time.monotonic()
        for hint in hints:
            if hint.path is None:
                self._scan_wanted = True
                continue
            waiting = self._looks.take(hint.path)
            at = now if hint.at is None else hint.at
            look = Look(hint.path, at, clock, number=self._number) if waiting is None else replace(waiting, noticed=at)
            last, pause = self._hot.get(hint.path, (0.0, 0.0))
            if last + pause > clock:
                self._later(replace(look, held=pause), last + pause)
            else:
                yield replace(look, held=0.0)

    def _look(self, path: str, at: float, revision: str = "", *, backfill: bool, decided: bool = False) -> Look:
        """A look that a scan asks for. ``decided``: what is missing now was missing before."""
        since = time.monotonic() - (_GONE_SECONDS if decided else 0.0)
        return Look(path, at, since, revision, backfill=backfill, number=self._number)

    @property
    def _number(self) -> int:
        return 0 if self._following is None else self._following.number

    def _later(self, look: Look, at: float) -> None:
        if not self._looks.add(look, at):
            self._scan_wanted = True

    # -------------------------------------------------------------------- one document

    def _examine(self, look: Look) -> None:
        """Fetch one document and put what differs into the batch."""
        if self._forgotten(look.path):
            return
        found = self._until_done("source", lambda: self._fetch(look.path), self._part)
        if self._forgotten(look.path):
            return  # while the source did not answer
        if not isinstance(found, Transient):
            self._unreadable.discard(look.path)
        match found:
            case None:
                self._gone(look)
            case Skipped():
                self._skipped(found, look)
            case Expired():
                pass
            case Poison():
                if not self._unsettled(look):
                    self._found(unreadable(look.path, look.revision, found), look)
            case Transient():
                self._unread(found, look)
            case Fetched():
                if found.text != "" or not self._unsettled(look):
                    self._found(found, look)

    def _fetch(self, path: str) -> Fetched | Skipped | Expired | Poison | Transient | None:
        """What is wrong with one document is an answer; only what is wrong with all is retried."""
        try:
            return self._source.fetch(path)
        except SourceUnavailable:
            if self._following is None:
                self._scan_wanted = True  # what happens meanwhile may not be noticed
            raise
        except (Poison, Transient) as error:
            return error

    def _found(self, fetched: Fetched, look: Look) -> None:
        known, now = self._known(look.path), known_of(fetched)
        if known is not None and (known.digest, known.facts) == (now.digest, now.facts):
            # Only of what is in the log: a revision noted before its event could outlive it.
            if self._batch.get(look.path) is None:
                self._until_done("state", lambda: self._state.note(look.path, known, fetched.revision))
            return
        self._unfit(fetched)
        provenance = Provenance(look.event_time(fetched.event_time, self._scanned_at), traceparent(), look.backfill)
        self._add(changed(self._writer.topic, self._state, self._key(look.path), fetched, provenance), look)

    def _unfit(self, fetched: Fetched) -> None:
        """Metadata that is left out of what is published is counted; the first document of each name is told."""
        for name in fetched.unfit:
            self._metrics.metadata_left_out.inc()
            if name not in self._told:
                self._told.add(name)
                log.warning(
                    "metadata does not fit its type and is left out; others of this name are only counted",
                    extra={"field": name, "document": self._key(fetched.path).text},
                )

    def _gone(self, look: Look) -> None:
        known = self._known(look.path)
        below = next(self._state.below(look.path), None)
        if known is None and below is None:
            return
        if time.monotonic() - look.since < _GONE_SECONDS:
            self._later(look, look.since + _GONE_SECONDS)
            return
        if known is not None:
            self._delete(look.path, known, look)
        if below is not None:
            for path in self._state.below(look.path):
                self._examine(replace(look, path=path, revision=""))

    def _skipped(self, skipped: Skipped, look: Look) -> None:
        known = self._known(look.path)
        if known is not None and known.published:
            self._delete(look.path, known, look)
            self._flush()
            if self._forgotten(look.path):
                return  # by another writer, while that was held up
        new = known is None or known.published
        if new:
            self._metrics.source_skipped.labels(bounded(skipped.reason, SKIPPED)).inc()
        # Only in the cache: a scan need not open it again, and losing that costs one look. A hint of
        # another change writes nothing: the file that changed can be the cache itself.
        if new or look.revision:
            left = Known(skipped.revision, "", "")
            self._until_done("state", lambda: self._state.put({look.path: left}))

    def _delete(self, path: str, known: Known, look: Look) -> None:
        if not known.published:
            self._until_done("state", lambda: self._state.put({path: None}))
            return
        provenance = Provenance(look.noticed, traceparent(), look.backfill)
        self._add(deleted(self._writer.topic, self._state, self._key(path), provenance), look)

    def _unsettled(self, look: Look) -> bool:
        """True if a live document is empty or broken and may be about to be written: look again."""
        if look.backfill or look.tries >= len(_UNSETTLED_SECONDS):
            return False
        self._later(replace(look, tries=look.tries + 1), time.monotonic() + _UNSETTLED_SECONDS[look.tries])
        return True

    def _unread(self, error: Transient, look: Look) -> None:
        """Its last version stays as it is: nobody knows what it says now."""
        if look.path not in self._unreadable:
            self._metrics.source_skipped.labels("unreadable").inc()
            log.warning("document cannot be read", extra={"document": self._key(look.path).text, "error": str(error)})
            if len(self._unreadable) < _HOT_DOCUMENTS:
                self._unreadable.add(look.path)
        if look.tries < len(_UNREADABLE_SECONDS):
            self._later(replace(look, tries=look.tries + 1), time.monotonic() + _UNREADABLE_SECONDS[look.tries])
        else:
            self._given_up += 1
            self._scan_owed = True  # the next scan looks again, in this process or after a restart

    def _known(self, path: str) -> Known | None:
        """What is published, or is about to be."""
        pending = self._batch.get(path)
        return self._state.get(path) if pending is None else pending.known

    def _key(self, path: str) -> DocumentKey:
        return DocumentKey(self._source.id, path)

    # ------------------------------------------------------------------------ requests

    def _forgotten(self, path: str) -> bool:
        """True if the document stays out, whatever the source says."""
        known = self._state.get(path)
        return (known is not None and bool(known.forgotten)) or self._state.mark(FORGOTTEN) is not None

    def _attend(self, kinds: Collection[str] = ALL, *, sure: bool = False) -> bool:
        """Go on with what is asked of this source's writer, by one transaction; True if there was
        something to do.

        Args:
            kinds: of requests.
            sure: wait until it is known what is asked.
        """
        if not self._writer.asked(self._state, kinds, self._patiently if sure else None):
            return False
        self._flush()  # what was seen before is published before
        self._until_done("broker", lambda: self._serve(kinds))
        return True

    def _patiently(self, operation: Callable[[], T]) -> T:
        return self._until_done("broker", operation)

    def _serve(self, kinds: Collection[str]) -> None:
        served = self._writer.serve(self._state, kinds)
        if served is None or served.kind == "lift":
            self._scan_wanted = True  # what was forgotten may be out no more

    # ---------------------------------------------------------------------- publishing

    def _add(self, one: Pending, look: Look) -> None:
        self._batch.add(one)
        if not look.backfill:
            pause = min(max(_HOT_SECONDS[0], 2 * look.held), _HOT_SECONDS[1])
            self._hot[one.path] = (time.monotonic(), pause)
        if len(self._batch) >= self._limits.batch_documents or self._batch.size >= self._limits.batch_bytes:
            self._flush()

    def _flush(self) -> None:
        if len(self._hot) > _HOT_DOCUMENTS:
            now = time.monotonic()
            self._hot = {path: one for path, one in self._hot.items() if sum(one) > now}
        if len(self._batch):
            batch, self._batch = self._batch, Batch()
            self._until_done("broker", lambda: self._publish(batch))

    def _publish(self, batch: Batch) -> None:
        """One transaction. Repeated after a failure, it leaves out what was written after all."""
        self._health.beat(self._loop)
        if self._writer.hold():
            # Another writer may have had some of them forgotten meanwhile.
            batch = Batch(
                one for one in batch if self._state.get(one.path) != one.known and not self._forgotten(one.path)
            )
        try:
            with self._writer.transaction() as (publisher, deadline):
                written = publisher.publish(batch.records(), deadline)
                self._state.put(batch.known(), written[len(batch) :])
                self._writer.duties.published(one.path for one in batch)
        except Poison as error:
            self._publish_apart(batch, error)
            return
        for one in batch:
            self._metrics.documents_published.labels(one.kind).inc()

    def _publish_apart(self, batch: Batch, error: Poison) -> None:
        """One of them is too large for the log: it alone goes without its text, or with fewer metadata."""
        if len(batch) > 1:
            for one in batch:
                self._publish(Batch([one]))
            return
        (one,) = batch
        left = smaller(self._writer.topic, one, error.detail)
        if left is None:
            raise error
        log.warning("document is too large for the log", extra={"document": one.event.key.text, "error": str(error)})
        self._publish(Batch([left]))

    def _acknowledge(self, *, at_once: bool = False) -> None:
        """Note how far the source's log is published, then let it forget what lies before."""
        following = self._following
        if following is None:
            return
        oldest = self._looks.oldest()
        if oldest is None and not self._scan_owed and not self._scan_wanted and following.source.caught_up():
            self.scanned.set()
        backlog = following.source.backlog()
        if backlog is not None:
            self._metrics.source_backlog.labels(self._label, backlog.unit).set(backlog.amount)
        position = following.published(oldest, at_once=at_once)
        if position is not None:
            noted = self._until_done("broker", lambda: self._note(following.mark(position)))
            following.source.acknowledge(position)
            following.acknowledged(position, noted=noted)

    def _note(self, position: bytes) -> bool:
        """Write down where a restart goes on; nothing while it would have to scan: then False."""
        self._writer.hold()
        value = None if self._scan_wanted or self._scan_owed else position
        if value is None and self._state.mark(POSITION) is None:
            return False
        with self._writer.transaction() as (publisher, deadline):
            written = publisher.publish([self._state.mark_record(POSITION, value)], deadline)
        self._state.put({}, written, {POSITION: value})
        return value is not None

    def _refresh(self) -> None:
        if not self._state.refresh():
            self._scan_wanted = True
