"""Whether a generation's collection equals the log, proved while connectors and stages go on writing (ADR 0003).

1. Read the documents topic to its end; of each document's last record make the head that it leads
   to, and keep its cells.
2. Read the heads that are not complete: what they list cannot be foretold.
3. Let the store count its points by cell, and take the log's counts from these.
4. Read the documents and the points whose cells differ, until they explain every difference.
5. What looks wrong is looked at again, a few times: only what stays wrong is a finding.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Final, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from pipeline.broker.partitioner import partition_of
from pipeline.cells import CELLS, TABLE, Counts, chunk_cell, document_cells, head_cells
from pipeline.chunking.documents import Chunk, made_of
from pipeline.errors import LogDiverged, NewerSchema, RequestRefused
from pipeline.identity import DocumentKey, offset_in, version_of
from pipeline.points import Head, HeadState
from pipeline.ports import Broker, Collection, Record, Tallied
from pipeline.sync.foretelling import Foretold, foretold
from pipeline.verification.expectations import Expectations, Expected, Holding, Known
from pipeline.verification.findings import Findings, Found
from pipeline.verification.judging import Reach, Seen, wrong_head, wrong_with
from pipeline.verification.log import ends_of, key_of, pages_of
from pipeline.verification.verdict import UNSERVED, OnProgress, Pause, Verdict

_T = TypeVar("_T")
Applied: TypeAlias = Callable[[], Mapping[int, int] | None]

#: How often what looked wrong is looked at again, and seconds before each look: many times what a
#: stage takes between a chunk and its head.
LOOKS: Final = 3
LOOK_SECONDS: Final = 1.0
#: With more cells wrong than this, a suspect is suspect by chance: everything is read.
_MOST_WRONG: Final = CELLS // 10
#: Heads and points of one page.
_PAGE: Final = 256
#: Documents looked at together, with all of their chunks.
_DOCUMENTS: Final = 64


def verify(
    broker: Broker,
    topic: str,
    epoch: int,
    collection: Collection,
    ends: Mapping[int, int],
    chunk: Chunk,
    on_progress: OnProgress = lambda step, done, whole: None,
    wait: Callable[[float], object] = time.sleep,
    pause: Pause = lambda done: None,
    applied: Applied = dict,
) -> Verdict:
    """Hold a collection against the log below ``ends``; nothing is written.

    Args:
        broker: has the log.
        topic: of the documents.
        epoch: of that topic.
        collection: of a generation that has committed everything below ``ends``, in both stages.
        ends: by partition, the next offset of the topic at some moment before.
        chunk: the generation's chunker.
        on_progress: told after every page.
        wait: for so many seconds, before each second look.
        pause: between pages.
        applied: where the embed stage is if it has no record before it, else None; asked before and after the
            last look: chunks that were written for a replay in between are on their way in.

    Returns:
        The verdict; close it.

    Raises:
        LogDiverged: the topic is not the one that ``ends`` were taken of.
        Transient: the broker or the store does not answer, or there is no room for the temporary
            file; call again, from the start.
        StoreBusy, NewerSchema: likewise, when that has passed.
    """
    started = time.monotonic()
    now = ends_of(broker, topic)
    if now.keys() != ends.keys() or any(now[partition] < end for partition, end in ends.items()):
        raise LogDiverged(
            f"{topic} ends at {now}, and has ended at {dict(ends)} before",
            "the topic was replaced or truncated: restore it, or start a new epoch and a new generation from it",
        )
    with ExitStack() as failing, closing(Expectations()) as expectations:
        findings = failing.enter_context(Findings())
        comparison = _Comparison(
            broker, topic, epoch, collection, ends, chunk, expectations, findings, on_progress, pause
        )
        comparison.read()
        comparison.scan_unserved()
        heads = comparison.count()
        unexplained = comparison.explain()
        comparison.look_again(wait, applied)
        verdict = Verdict(
            documents=expectations.documents(),
            heads={state: heads.get(state, 0) for state in get_args(HeadState)},
            findings=findings,
            points_read=comparison.points_read,
            points=comparison.points,
            requests=comparison.requests,
            unexplained=unexplained,
            seconds=time.monotonic() - started,
        )
        failing.pop_all()  # whoever has the verdict closes the findings
        return verdict


class _Comparison:
    """One verification."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        epoch: int,
        collection: Collection,
        ends: Mapping[int, int],
        chunk: Chunk,
        expectations: Expectations,
        findings: Findings,
        on_progress: OnProgress,
        pause: Pause,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._epoch = epoch
        self._collection = collection
        self._ends = ends
        self._chunk = chunk
        self._expectations = expectations
        self._findings = findings
        self._on_progress = on_progress
        self._pause = pause
        self._difference: dict[Tallied, Counts] = {}
        self._read_to: Mapping[int, int] = {}
        self._read_before: Mapping[int, int] = {}
        self._present: Mapping[int, int] = {}
        self._records = 0
        self._replayed = False
        self._tried: set[tuple[Tallied, int]] = set()
        self.points = self.points_read = self.requests = 0

    # -------------------------------------------------------------------------- 1. the log

    def read(self) -> None:
        """The log to its end: of each document its last record.

        What compaction takes in favour of newer records while it is read is in the log when that is
        over, so the end is read once more.
        """
        self._read_to = ends_of(self._broker, self._topic)
        self._read({})
        self.read_on()

    def read_on(self) -> None:
        """What the log has got since."""
        later = ends_of(self._broker, self._topic)
        self._read_before, self._read_to = self._read_to, later
        self._present = later
        if later != self._read_before:
            self._read(self._read_before)

    def _read(self, start: Mapping[int, int]) -> None:
        with closing(pages_of(self._broker, self._topic, start)) as pages:
            for records in pages:
                cut = self._take(records)
                self._records += len(records)
                self._on_progress("log", self._records, sum(self._read_to.values()))
                self._pause(len(records) - cut)

    def _take(self, records: Sequence[Record]) -> int:
        """How many of them were cut, with a pause after each: a page of them is far too long to hold live work up."""
        last: dict[DocumentKey, Record] = {}
        beyond: dict[DocumentKey, Record] = {}
        for record in records:
            key = key_of(record)
            if key is None:
                continue
            if record.offset < self._ends[record.partition]:
                last[key] = record
            elif record.value is not None:
                # A null is no version: it is written when every generation has committed the delete
                # that it forgets.
                beyond[key] = record
        self._expectations.below((key, record.partition, self._known(record)) for key, record in last.items())
        self._expectations.beyond((key, record.partition, self._beyond(record)) for key, record in beyond.items())
        return len(last) + len(beyond)

    def _known(self, record: Record) -> Known:
        told = self._foretold(record)
        version = version_of(self._epoch, record.offset)
        if told is None:
            return Known(version, "gone", None)
        return Known(version, "deleted" if told.state == "deleted" else "live", told)

    def _beyond(self, record: Record) -> Foretold | None:
        try:
            return self._foretold(record)
        except NewerSchema:
            return None  # the stages wait for an upgrade here; nothing below depends on it

    def _foretold(self, record: Record) -> Foretold | None:
        spec = self._collection.spec
        version = version_of(self._epoch, record.offset)
        document = made_of(record, version, spec.generation, self._chunk).document
        told = None if document is None else foretold(document, spec.filter_fields)
        self._pause(1)
        return told

    # ------------------------------------------------------------------------ 2. and 3.

    def scan_unserved(self) -> None:
        """Heads that are not complete: judge each, and believe what it lists."""
        for heads in self._scanned(UNSERVED):
            log = self._expectations.of([head.doc for head in heads])
            self._expectations.listed(heads)
            self._look_ahead(heads, log)
            for head in heads:
                # Its chunks are counted like any other's.
                self._judge(head.doc, log.get(head.doc), head, None)
        self._expectations.suspect_unlisted()

    def count(self) -> dict[str, int]:
        """Take the log's counts from the store's; heads by state."""
        heads = self._asked(self._collection.count_heads())
        self.points = sum(heads.values()) + self._asked(self._collection.count_chunks())
        expected = self._expectations.counts()
        try:
            for number, (of, counts) in enumerate(expected.items(), 1):
                self._difference[of] = self._tallied(of, counts)
                self._on_progress("counts", number, len(expected))
        except RequestRefused as error:
            logging.getLogger(__name__).warning("the store counts no cells: all is read", extra={"error": str(error)})
            self._difference.clear()
        return heads

    def _tallied(self, of: Tallied, counts: Counts) -> Counts:
        """The store's counts less those of the log; where they differ, as the store says a second time."""
        difference = self._asked(self._collection.tally(of)) - counts
        # The store may have tombstones that the log has forgotten: that is no difference to be sure of.
        if np.any(difference < 0 if of == "tombstones" else difference):
            difference = self._asked(self._collection.tally(of)) - counts
        return difference

    # --------------------------------------------------------------------- 4. differences

    def explain(self) -> int:
        """Look at documents until they explain every difference; how many cells stay unexplained."""
        tallies: tuple[Tallied, ...] = ("heads", "documents", "chunks")
        counted = bool(self._difference)
        if not counted:
            self._suspect_everything()
        elif any(np.count_nonzero(self._difference[of]) > _MOST_WRONG for of in tallies):
            self._suspect_heads()
        if counted and np.count_nonzero(self._difference["tombstones"]) > _MOST_WRONG:
            self._suspect_tombstones()
        done = 0
        while True:
            if counted and not self._expectations.suspects():
                self._suspect()
            whole = done + self._expectations.suspects()
            docs = self._expectations.take_suspects(_DOCUMENTS)
            if not docs:
                return sum(int(np.count_nonzero(self._difference[of])) for of in tallies if counted)
            self._look_at(docs, explaining=counted)
            self._expectations.mark_seen(docs)
            done += len(docs)
            self._on_progress("suspects", done, whole)
            self._pause(len(docs))

    def _suspect_heads(self) -> None:
        """Every document of the log, and every other that has a head."""
        self._expectations.suspect_all()
        for heads in self._scanned(None):
            self._expectations.suspect(head.doc for head in heads)

    def _suspect_everything(self) -> None:
        """Every document of the log, and every other that has any point."""
        self._suspect_heads()
        after: str | None = None
        while True:
            chunks, after = self._asked(self._collection.scan_chunks(after, _PAGE))
            self.points_read += len(chunks)
            self._expectations.suspect(chunk.doc for chunk in chunks)
            self._pause(len(chunks))
            if after is None:
                return

    def _suspect(self) -> None:
        """Suspect who can explain what differs; first those who explain most of it.

        A document whose points are missing is short in cells of both tables; points that should not
        be there are in the surplus of both. Where faults have cells in common, in one of either. A
        chunk that is there in place of another of its document shows in the chunks' own cells alone.
        """
        expectations = self._expectations
        for both in (True, False):
            for of in ("heads", "tombstones", "documents"):
                first, second = _where(self._difference[of] < 0)
                expectations.suspect_short(of, first, second, both=both)
                if of == "tombstones":
                    continue  # the store may have some that the log has forgotten
                first, second = _where(self._difference[of] > 0)
                if both:
                    self._suspect_points(of, first, second)
                else:
                    # Whoever has a point there was looked at, and it is no use to ask again.
                    cells = [cell for cell in (*first, *second) if (of, cell) not in self._tried]
                    self._tried.update((of, cell) for cell in cells)
                    self._suspect_points(of, cells, None)
            if expectations.suspects():
                return
        short, surplus = (
            np.flatnonzero(side) for side in (self._difference["chunks"] < 0, self._difference["chunks"] > 0)
        )
        found = [doc for page in self._points("chunks", surplus.tolist(), None) for doc in page]
        expectations.suspect_short_chunks(short, found)
        if not expectations.suspects():
            expectations.suspect(found)
            expectations.suspect_short_chunks(short)

    def _suspect_points(self, of: Tallied, cells: Sequence[int], others: Sequence[int] | None) -> None:
        for docs in self._points(of, cells, others):
            self._expectations.suspect(docs)

    def _points(self, of: Tallied, cells: Sequence[int], others: Sequence[int] | None) -> Generator[list[str]]:
        after: str | None = None
        while cells:
            docs, after = self._asked(self._collection.in_cells(of, cells, others, after, _PAGE))
            self.points_read += len(docs)
            yield docs
            self._pause(len(docs))
            if after is None:
                return

    def _suspect_tombstones(self) -> None:
        """The store has many tombstones that the log has forgotten: read all, since counts say little."""
        for heads in self._scanned(("deleted",)):
            log = self._expectations.of([head.doc for head in heads])
            self._expectations.suspect(
                head.doc
                for head in heads
                if head.doc in log and log[head.doc].holding.head != ("tombstones", head_cells(head))
            )

    # ----------------------------------------------------------------- one document each

    def _look_at(self, docs: Sequence[str], *, explaining: bool) -> None:
        """Judge documents by their heads and chunks as they are now."""
        heads = self._asked(self._collection.heads(docs))
        chunks: dict[str, list[Seen]] = defaultdict(list)
        after: str | None = None
        while True:
            page, after = self._asked(self._collection.scan_chunks(after, _PAGE, docs))
            self.points_read += len(page)
            for chunk in page:
                chunks[chunk.doc].append(Seen(chunk.id, chunk.stamp, chunk.content_hash, chunk.filter_hash))
            if after is None:
                break
        self.points_read += len(heads)
        log = self._expectations.of(docs)
        self._look_ahead(heads.values(), log)
        for doc in docs:
            expected, head = log.get(doc), heads.get(doc)
            if explaining:
                _holding(doc, head, chunks[doc]).add_to(self._difference, -1)
                if expected is not None:
                    expected.holding.add_to(self._difference, +1)
            self._judge(doc, expected, head, chunks[doc])

    def _judge(self, doc: str, expected: Expected | None, head: Head | None, chunks: Sequence[Seen] | None) -> None:
        """Remember what is wrong with a document now, and forget what was; None: not by its chunks."""
        known = None if expected is None else expected.known
        superseded = expected is not None and expected.superseded
        reach = self._reach(expected, head)
        if chunks is None:
            kind = wrong_head(known, head, reach, superseded)
            kinds = frozenset() if kind is None else frozenset({kind})
        else:
            kinds = wrong_with(known, head, chunks, reach, superseded, self._replayed)
        key = expected.key if expected is not None else None if head is None else head.key
        stamps = [chunk.stamp for chunk in chunks or ()]
        stamp = max([-1 if head is None else head.stamp, *stamps])
        place = None if expected is None or known is None else (expected.partition, offset_in(known.version))
        self._findings.replace(doc, [Found(doc, kind, key, stamp, place) for kind in kinds])

    def _look_ahead(self, heads: Iterable[Head], log: Mapping[str, Expected]) -> None:
        """Of heads that were read before, whether the log has got records for those that are above its end."""
        if any(head.version >= self._reach(log.get(head.doc), head).present for head in heads):
            self._present = ends_of(self._broker, self._topic)

    def _reach(self, expected: Expected | None, head: Head | None) -> Reach:
        """How far the log goes. Versions are comparable only within a partition: the one that the
        document was read from, else its key's, else (chunks alone) the longest.
        """
        if expected is not None:
            at = expected.partition
        elif head is not None:
            at = partition_of(head.key.to_bytes(), len(self._ends))
        else:
            at = max(self._ends, key=self._ends.__getitem__)
        covered, read, present = (
            version_of(self._epoch, ends[at]) for ends in (self._ends, self._read_before, self._present)
        )
        return Reach(covered, read, present)

    # ----------------------------------------------------------------------- 5. the looks

    def look_again(self, wait: Callable[[float], object], applied: Applied) -> None:
        """Look at what is in doubt a few times more, and forget what is in order by then."""
        for look in range(1, LOOKS + 1):
            if not self._findings:
                return
            wait(LOOK_SECONDS)
            before = applied() if look == LOOKS else None
            # A chunk may be the first of a document that has only just come.
            self.read_on()
            self._look_at_found()
            if look == LOOKS and self._findings and (before is None or before != applied()):
                self._replayed = True
                self._look_at_found()
            self._on_progress("looks", look, LOOKS)

    def _look_at_found(self) -> None:
        for page in self._findings.pages(_DOCUMENTS):
            self._look_at(list(dict.fromkeys(found.doc for found in page)), explaining=False)
            self._pause(len(page))

    # ---------------------------------------------------------------------------- private

    def _scanned(self, states: Sequence[HeadState] | None) -> Generator[list[Head]]:
        done = 0
        after: str | None = None
        while True:
            heads, after = self._asked(self._collection.scan_heads(after, _PAGE, states))
            self.points_read += len(heads)
            done += len(heads)
            yield heads
            self._on_progress("heads", done, 0)
            self._pause(len(heads))
            if after is None:
                return

    def _asked(self, answer: _T) -> _T:
        """Count a request to the store."""
        self.requests += 1
        return answer


def _where(cells: npt.NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """The cells of the first table, and those of the second."""
    found = np.flatnonzero(cells)
    return found[found < TABLE].tolist(), found[found >= TABLE].tolist()


def _holding(doc: str, head: Head | None, chunks: Iterable[Seen]) -> Holding:
    """Where the points of a document are counted."""
    tallies: dict[str, Tallied] = {"complete": "heads", "deleted": "tombstones"}
    tally = None if head is None else tallies.get(head.state)
    return Holding(
        None if head is None or tally is None else (tally, head_cells(head)),
        tuple(document_cells(doc, chunk.filter_hash) for chunk in chunks),
        tuple(chunk_cell(chunk.id) for chunk in chunks),
    )
