"""Whether a generation's collection equals the log, proved while connectors and stages go on writing.

1. Read the documents topic up to ``ends`` and keep, of each document, what its last record says.
2. Scan all heads, hold each against that, and look for the chunks that it lists.
3. What looks wrong is looked at again, a few times: only what stays wrong is a finding.

Versions beyond ``ends`` are somebody else's work in progress, and never a finding. Memory holds a
page at a time; the rest is in a temporary file of SQLite's, which is gone with its connection.

What can fail: the log or the store goes away (nothing is kept; call again); compaction takes a
record below ``ends`` in favour of one beyond them (what waits there is read before anything that
hangs on it counts); the topic is not the one that ``ends`` were taken of (fatal).
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pipeline.broker.partitioner import partition_of
from pipeline.broker.reading import to_the_end
from pipeline.codec import decode_event
from pipeline.errors import LogDiverged, MalformedRecord, Transient
from pipeline.identity import DocumentKey, version_of
from pipeline.points import Head, HeadState
from pipeline.ports import Broker, Collection, Record
from pipeline.records import DocumentDeleted

Kind: TypeAlias = Literal[
    "missing",  # a live document without a head, or with a tombstone at the log's own version
    "stale",  # a head below the log's version
    "orphan",  # a head that is not deleted, of a document that the log does not have or says is deleted
    "ahead",  # a head above the log's version, and nothing in the log explains it: the log lost records
    "unfinished",  # a head lists chunks that do not exist
]
Step: TypeAlias = Literal["log", "heads"]
Progress: TypeAlias = Callable[[Step, int], None]
"""Told after each page how many records (``log``) or heads have been read."""

#: Keys that are named of each kind of finding.
EXAMPLES: Final = 10
#: How often what looked wrong is looked at again, and seconds before each look: many times what a
#: stage takes between a chunk and its head.
LOOKS: Final = 3
LOOK_SECONDS: Final = 1.0
#: Records, heads and doubts of one page; the broker bounds the bytes of a page of records.
_PAGE: Final = 256
#: Chunk ids asked for at once.
_CHUNKS: Final = 1_000
#: Nothing read for so long, although there is more: the broker does not answer.
_STALL_SECONDS: Final = 30.0
#: Of the file, in memory: rows come in the order of a hash, so that each touches another page.
_CACHE_KIB: Final = 64 * 1024

_TABLES: Final = """
CREATE TABLE documents (
    doc TEXT PRIMARY KEY, key BLOB NOT NULL, partition INTEGER NOT NULL, version INTEGER NOT NULL,
    state TEXT NOT NULL, seen INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE doubts (
    doc TEXT PRIMARY KEY, key BLOB NOT NULL, kind TEXT NOT NULL, superseded INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
"""


class Known(NamedTuple):
    """What the log says last about a document, below the ends."""

    partition: int
    version: int
    state: Literal["live", "deleted", "gone"]
    """``gone``: a null, which only forgets an old delete: there may be a tombstone of it or none."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Documents that are wrong in one way."""

    count: int = 0
    examples: tuple[str, ...] = ()
    """The keys of up to :data:`EXAMPLES` of them, as :attr:`DocumentKey.text`."""


@dataclass(frozen=True, slots=True)
class Equality:
    """What a comparison has found."""

    documents: int
    """Documents of the log below the ends; deleted ones are none."""
    heads: Mapping[HeadState, int]
    """Heads of the collection in each state, newer ones than the ends cover included."""
    findings: Mapping[Kind, Findings]
    """Of every kind, also those without any."""

    @property
    def ok(self) -> bool:
        """True if the collection equals the log."""
        return not any(found.count for found in self.findings.values())

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the history of a generation."""
        return {
            "ok": self.ok,
            "documents": self.documents,
            "heads": dict(self.heads),
            "findings": {
                kind: {"count": found.count, "examples": list(found.examples)} for kind, found in self.findings.items()
            },
        }


def compare(
    broker: Broker,
    topic: str,
    epoch: int,
    collection: Collection,
    ends: Mapping[int, int],
    on_progress: Progress | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Equality:
    """Hold a collection against the log below ``ends``.

    Args:
        broker: has the log.
        topic: of the documents.
        epoch: of that topic.
        collection: of a generation that has committed everything below ``ends``, in both stages.
        ends: by partition, the next offset of the topic at some moment before.
        on_progress: told after every page; what it raises ends the comparison.
        wait: for so many seconds, before each second look.

    Raises:
        LogDiverged: the topic is not the one that ``ends`` were taken of.
        Transient: the broker or the store does not answer, or there is no room for the temporary
            file; call again, from the start.
        StoreBusy, NewerSchema: likewise, when that has passed.
    """
    now = {partition: bounds.end for partition, bounds in broker.offsets(topic).items()}
    if now.keys() != ends.keys() or any(now[partition] < end for partition, end in ends.items()):
        raise LogDiverged(
            f"{topic} ends at {now}, and has ended at {dict(ends)} before",
            "the topic was replaced or truncated: restore it, or start a new epoch and a new generation from it",
        )
    with _file() as file:
        comparison = _Comparison(file, broker, topic, epoch, collection, ends, on_progress or (lambda *_: None))
        comparison.read()
        heads = comparison.scan()
        # Before the first of these looks, and once: what compaction took in favour of newer records
        # was taken before the end of ``read``, so these are in the log by now.
        comparison.look_beyond()
        for _ in range(LOOKS):
            if comparison.sure():
                break
            wait(LOOK_SECONDS)
            comparison.look_again()
        return comparison.result(heads)


def judge(known: Known | None, head: Head | None, covered: int, superseded: bool) -> Kind | None:
    """What is wrong with a head, its chunks aside. Pure.

    Args:
        known: what the log says below the ends; None: nothing.
        head: of the document; None: there is none.
        covered: the first version of the document's partition that the ends do not cover.
        superseded: the log has a newer record of the document beyond the ends, in favour of which
            compaction may have taken any that are below.
    """
    live = known is not None and known.state == "live"
    if head is None:
        return "missing" if live else None
    if head.version >= covered:
        return None
    if superseded and (known is None or head.version > known.version):
        return None
    if not live and head.state != "deleted":
        return "orphan"
    if known is None or known.state == "gone":
        return None
    if head.version != known.version:
        return "stale" if head.version < known.version else "ahead"
    return "missing" if live and head.state == "deleted" else None


class _Comparison:
    """One comparison, and its file: ``documents`` is the log, ``doubts`` are findings to be."""

    def __init__(
        self,
        file: sqlite3.Connection,
        broker: Broker,
        topic: str,
        epoch: int,
        collection: Collection,
        ends: Mapping[int, int],
        on_progress: Progress,
    ) -> None:
        self._file = file
        self._broker = broker
        self._topic = topic
        self._collection = collection
        self._ends = ends
        self._epoch = epoch
        self._on_progress = on_progress

    def read(self) -> None:
        """The log below the ends: of each document its last record."""
        count = 0
        with closing(self._pages({})) as pages:
            for records in pages:
                rows = []
                for record in records:
                    key = _key_of(record)
                    # Beyond them nothing is decoded: it may be of a schema that this process does not know.
                    if key is not None and record.offset < self._ends[record.partition]:
                        version = version_of(self._epoch, record.offset)
                        rows.append((key.doc, key.to_bytes(), record.partition, version, _state_of(record)))
                self._file.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, 0)", rows)
                count += len(records)
                self._on_progress("log", count)

    def scan(self) -> Counter[HeadState]:
        """All heads, counted by state; doubt what is wrong with them and what has none."""
        states: Counter[HeadState] = Counter()
        after = None
        while True:
            page, after = self._collection.scan_heads(after, _PAGE)
            heads = {head.doc: head for head in page}
            self._file.executemany("UPDATE documents SET seen = 1 WHERE doc = ?", [(doc,) for doc in heads])
            wrong = self._wrong(list(heads), heads, superseded=())
            self._file.executemany(
                "INSERT OR REPLACE INTO doubts VALUES (?, ?, ?, 0)",
                [(doc, heads[doc].key.to_bytes(), kind) for doc, kind in wrong.items()],
            )
            states.update(head.state for head in page)
            self._on_progress("heads", states.total())
            if after is None:
                break
        self._file.execute(
            "INSERT INTO doubts SELECT doc, key, 'missing', 0 FROM documents WHERE state = 'live' AND NOT seen"
        )
        return states

    def sure(self) -> bool:
        """True if there is no doubt, or none any more."""
        return self._file.execute("SELECT 1 FROM doubts LIMIT 1").fetchone() is None

    def look_beyond(self) -> None:
        """Mark the doubts about documents that have a newer record beyond the ends. A null is none:
        it is written when every generation has committed the delete that it forgets.
        """
        if self.sure():
            return
        with closing(self._pages(self._ends)) as pages:
            for records in pages:
                keys = [_key_of(record) for record in records if record.value is not None]
                self._file.executemany(
                    "UPDATE doubts SET superseded = 1 WHERE doc = ?", [(key.doc,) for key in keys if key is not None]
                )

    def look_again(self) -> None:
        """Forget the doubts that are none by the heads as they are now."""
        after = ""
        while True:
            rows = self._file.execute(
                f"SELECT doc, superseded FROM doubts WHERE doc > ? ORDER BY doc LIMIT {_PAGE}",  # noqa: S608 - a constant
                (after,),
            ).fetchall()
            docs = [doc for doc, _ in rows]
            if not docs:
                return
            superseded = {doc for doc, newer in rows if newer}
            wrong = self._wrong(docs, self._collection.heads(docs), superseded)
            self._file.executemany(
                "UPDATE doubts SET kind = ? WHERE doc = ?", [(kind, doc) for doc, kind in wrong.items()]
            )
            self._file.executemany("DELETE FROM doubts WHERE doc = ?", [(doc,) for doc in docs if doc not in wrong])
            after = docs[-1]

    def result(self, heads: Mapping[HeadState, int]) -> Equality:
        """What is still in doubt is found."""
        (documents,) = self._file.execute("SELECT count(*) FROM documents WHERE state = 'live'").fetchone()
        counts = dict(self._file.execute("SELECT kind, count(*) FROM doubts GROUP BY kind").fetchall())
        return Equality(
            documents=documents,
            heads={state: heads.get(state, 0) for state in get_args(HeadState)},
            findings={kind: Findings(counts.get(kind, 0), self._examples(kind)) for kind in get_args(Kind)},
        )

    def _examples(self, kind: Kind) -> tuple[str, ...]:
        rows = self._file.execute(
            f"SELECT key FROM doubts WHERE kind = ? ORDER BY doc LIMIT {EXAMPLES}",  # noqa: S608 - a constant
            (kind,),
        )
        return tuple(DocumentKey.from_bytes(key).text for (key,) in rows)

    def _pages(self, start: Mapping[int, int]) -> Generator[list[Record]]:
        return to_the_end(self._broker.reader(self._topic, start), self._topic, _PAGE, _STALL_SECONDS)

    def _wrong(self, docs: Sequence[str], heads: Mapping[str, Head], superseded: Container[str]) -> dict[str, Kind]:
        """What is wrong with these documents, by their heads; those that are right are left out."""
        log = self._known(docs)
        wrong: dict[str, Kind] = {}
        whole: list[Head] = []
        for doc in docs:
            known, head = log.get(doc), heads.get(doc)
            covered = self._covered(known, head)
            kind = judge(known, head, covered, doc in superseded)
            if kind is not None:
                wrong[doc] = kind
            elif head is not None and head.version < covered:
                # A newer one may list chunks that a power cut has taken until its record comes again.
                whole.append(head)
        wrong.update(dict.fromkeys(self._unfinished(whole), "unfinished"))
        return wrong

    def _known(self, docs: Sequence[str]) -> dict[str, Known]:
        marks = ", ".join("?" * len(docs))
        rows = self._file.execute(
            f"SELECT doc, partition, version, state FROM documents WHERE doc IN ({marks})",  # noqa: S608 - question marks
            docs,
        )
        return {doc: Known(*known) for doc, *known in rows}

    def _covered(self, known: Known | None, head: Head | None) -> int:
        """Versions are comparable only within a partition: the one that the document was read from, else its key's."""
        if known is not None:
            return version_of(self._epoch, self._ends[known.partition])
        partition = partition_of(None if head is None else head.key.to_bytes(), len(self._ends))
        return version_of(self._epoch, self._ends[partition])

    def _unfinished(self, heads: Sequence[Head]) -> set[str]:
        """The documents that list chunks which do not exist."""
        owners = {chunk.id: head.doc for head in heads for chunk in head.chunks}
        ids = list(owners)
        lost: set[str] = set()
        for start in range(0, len(ids), _CHUNKS):
            asked = ids[start : start + _CHUNKS]
            present = self._collection.existing(asked)
            lost |= {owners[id] for id in asked if id not in present}
        return lost


def _key_of(record: Record) -> DocumentKey | None:
    """None for a key that cannot be read: no stage makes a head of it."""
    try:
        return DocumentKey.from_bytes(record.key or b"")
    except MalformedRecord:
        return None


def _state_of(record: Record) -> Literal["live", "deleted", "gone"]:
    try:
        event = decode_event(record)
    except MalformedRecord:
        return "live"  # a version that failed: its head says so, whatever it was meant to be
    if event is None:
        return "gone"
    return "deleted" if isinstance(event, DocumentDeleted) else "live"


@contextmanager
def _file() -> Iterator[sqlite3.Connection]:
    """A file in TMPDIR that is thrown away.

    Raises:
        Transient: it cannot be written.
    """
    try:
        # Without a name: SQLite unlinks it as soon as it is open, so that a killed process leaves nothing.
        with closing(sqlite3.connect("", isolation_level=None)) as file:
            file.execute("PRAGMA journal_mode = OFF")
            file.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            file.executescript(_TABLES)
            file.execute("BEGIN")  # one transaction, never committed
            yield file
    except sqlite3.OperationalError as error:
        raise Transient(
            f"the temporary file of a comparison cannot be written: {error}; make room in the folder for temporary "
            "files, or name another one with TMPDIR"
        ) from None
