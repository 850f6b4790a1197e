"""What a connector has published, per document: the truth is the compacted ``connector-state`` topic.

Beside what is published stands what must not be: documents that were *forgotten* stay out until that
is lifted (docs/adr/0004). *Marks* of the source say which requests are done.

A SQLite file holds the source's own part of it, with the topic's id and the offsets it was read
up to, so that a restart reads only what is new and memory holds none of it. The file is a cache:
lost, foreign, broken or too old, it is built again from the topic.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from connectors.cache import Tables, opened
from pipeline.broker.reading import to_the_end
from pipeline.codec import UNREADABLE
from pipeline.deadline import Deadline
from pipeline.errors import Fatal, NewerSchema, Transient
from pipeline.identity import DocumentKey
from pipeline.ports import Broker, NewRecord, Record, TopicInfo, Written

log = logging.getLogger(__name__)

_SCHEMA: Final = 2
#: Of an entry that an older vectide reads as we do.
_PUBLISHED_SCHEMA: Final = 1
#: Before the key of a mark: no source id is so long, so it is no document's key.
_MARK: Final = b"\xff\xff\xff\xff"
_UPGRADE_POLL_SECONDS: Final = 10.0
#: Nothing read for so long, although there is more: the broker does not answer.
_STALL_SECONDS: Final = 30.0
#: Compaction forgets a null 24 hours after it was written. A cache that missed one would believe
#: for ever in a document that is gone, so one that is older than half of that is built again.
_CACHE_SECONDS: Final = 12 * 3600.0
#: Kafka ends a forgotten transaction at its timeout (10 s, pipeline.broker.kafka_producer) and looks
#: for those every 10 s. What is open for longer hangs: its markers were lost.
_SETTLE_SECONDS: Final = 25.0
_SETTLE_POLL_SECONDS: Final = 0.1
_PAGE: Final = 500
_BUSY_SECONDS: Final = 5.0

_TABLES: Final = Tables(
    2,
    ("origin", "positions", "documents", "marks"),
    """
CREATE TABLE origin (topic TEXT NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE positions (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE documents (
    path BLOB PRIMARY KEY, revision TEXT NOT NULL, digest TEXT NOT NULL, facts TEXT NOT NULL,
    scan INTEGER NOT NULL DEFAULT 0, forgotten TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE marks (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
""",
)
#: Forgotten documents are looked at by nobody.
_KEPT: Final = "forgotten = ''"
_FORGOTTEN: Final = "SELECT 1 FROM documents WHERE path = ? AND forgotten <> ''"
_ADVANCE: Final = "INSERT INTO positions VALUES (?, ?) ON CONFLICT DO UPDATE SET next = max(next, excluded.next)"


@dataclass(frozen=True, slots=True)
class Known:
    """What was last published of a document, enough to tell whether it differs now."""

    revision: str
    """The source's; equal means unchanged, without a look at the content."""
    digest: str
    """Of the text. Empty: seen and left out, nothing is published (kept in the cache only)."""
    facts: str
    """Hash of everything else that was published with it."""
    forgotten: str = ""
    """The request that had it forgotten: whatever the source says, it is not published."""

    @property
    def published(self) -> bool:
        """True if there is a document of it in the log."""
        return bool(self.digest)


class _Entry(msgspec.Struct, omit_defaults=True):
    schema: int
    revision: str
    digest: str
    facts: str
    forgotten: str = ""


def says_published(value: bytes | None) -> bool:
    """Whether an entry of ``connector-state`` says that its document is published, with a digest of it."""
    try:
        return value is not None and bool(msgspec.json.decode(value)["digest"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return True  # something was, nobody knows what


def mark_key(source: str, name: str) -> bytes:
    """The key of a mark of a source in ``connector-state``."""
    return _MARK + DocumentKey(source, name).to_bytes()


def is_mark(key: bytes | None) -> bool:
    """A record of ``connector-state`` that is about the source, and about no document of it."""
    return key is not None and key.startswith(_MARK)


class State:
    """One source's published documents; used by one thread.

    Args:
        broker: has the topic.
        topic: ``connector-state``, shared with other sources.
        source: only keys of this one are kept.
        directory: of the cache; None keeps it in memory.
        clock: seconds since 1970.

    Raises:
        Fatal: the cache cannot be written there.
    """

    def __init__(
        self, broker: Broker, topic: str, source: str, directory: Path | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._source = source
        self._prefix = DocumentKey(source, "").to_bytes()
        self._marks = mark_key(source, "")
        self._clock = clock
        self._scan = 0
        self._seen: list[tuple[int, bytes]] = []
        self._file = _open(None if directory is None else directory / f"connector-{quote(source, safe='')}.db")

    # ------------------------------------------------------------------------- the topic

    def refresh(self) -> bool:
        """Read what was written since the last time. Call it after the transactional id is taken
        over: then nobody else writes these keys.

        Returns:
            False if the cache was no good and was built anew: what it believed in may not be in the
            log, so only a scan tells what is to be published.

        Raises:
            BrokerUnavailable: no answer; call again.
            Transient: the cache cannot be written; call again.
            NewerSchema: a later vectide wrote here: upgrade this process.
            Fatal: there is no such topic.
        """
        info = self._broker.topics(self._topic).get(self._topic)
        if info is None:
            raise Fatal(f"there is no topic {self._topic}", "run `vectide topics apply` first")
        ends = self._settled_ends()
        start = self._positions(info, ends)
        reader = self._broker.reader(self._topic, start or {})
        with closing(to_the_end(reader, self._topic, 2 * _PAGE, _STALL_SECONDS)) as pages:
            for records in pages:
                self._read(records)
        # Up to these ends everything was read, markers of transactions and foreign keys included.
        with self._transaction() as file:
            file.executemany(_ADVANCE, list(ends.items()))
            file.execute("UPDATE origin SET at = ?", (self._clock(),))
        self.scrub()  # a command may have had something forgotten
        return start is not None

    def record(self, path: str, known: Known | None) -> NewRecord:
        """What to write to the topic, in the transaction of the event; None: the document is gone."""
        key = DocumentKey(self._source, path).to_bytes()
        if known is None:
            return NewRecord(self._topic, key, None)
        schema = _SCHEMA if known.forgotten else _PUBLISHED_SCHEMA
        entry = _Entry(schema, known.revision, known.digest, known.facts, known.forgotten)
        return NewRecord(self._topic, key, msgspec.json.encode(entry))

    def mark_record(self, name: str, value: bytes | None) -> NewRecord:
        """What to write to the topic for a mark of the source; None removes it."""
        return NewRecord(self._topic, mark_key(self._source, name), value)

    # ------------------------------------------------------------------------- documents

    def get(self, path: str) -> Known | None:
        """What is known of one document."""
        row = self._file.execute(
            "SELECT revision, digest, facts, forgotten FROM documents WHERE path = ?", (_bytes(path),)
        ).fetchone()
        return None if row is None else Known(*row)

    def mark(self, name: str) -> bytes | None:
        """A mark of the source."""
        row = self._file.execute("SELECT value FROM marks WHERE name = ?", (_bytes(name),)).fetchone()
        return None if row is None else bytes(row[0])

    def mark_names(self) -> list[str]:
        """The names of all marks."""
        rows = self._file.execute("SELECT name FROM marks ORDER BY name").fetchall()
        return [bytes(name).decode("utf-8", "surrogateescape") for (name,) in rows]

    def marks(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The marks whose names begin so, in order of their names; they must not be changed meanwhile."""
        first = _bytes(prefix)
        rows = self._file.execute(
            "SELECT name, value FROM marks WHERE name >= ? AND substr(name, 1, ?) = ? ORDER BY name",
            (first, len(first), first),
        )
        for name, value in rows:
            yield bytes(name).decode("utf-8", "surrogateescape"), bytes(value)

    def published(self, limit: int) -> list[str]:
        """Some of the paths that are published, in order."""
        rows = self._file.execute("SELECT path FROM documents WHERE digest <> '' ORDER BY path LIMIT ?", (limit,))
        return [path.decode("utf-8", "surrogateescape") for (path,) in rows]

    def put(
        self,
        entries: Mapping[str, Known | None],
        written: Sequence[Written] = (),
        marks: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Take note of what was just published, or (only here, not in the topic) of a new revision
        of the same content and of what was left out.

        Args:
            entries: by path; None: there is nothing any more.
            written: where the records of these went. Nobody else writes this source's keys, so
                everything before them is known, and a restart reads on behind them. Without any,
                what is forgotten stays as it is: only the topic ends that.
            marks: by name; None: removed.
        """
        with self._transaction() as file:
            file.executemany(_ADVANCE, [(one.partition, one.offset + 1) for one in written])
            for path, known in entries.items():
                if not written and file.execute(_FORGOTTEN, (_bytes(path),)).fetchone() is not None:
                    continue
                if known is None:
                    file.execute("DELETE FROM documents WHERE path = ?", (_bytes(path),))
                else:
                    file.execute(
                        "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)",
                        (_bytes(path), known.revision, known.digest, known.facts, self._scan, known.forgotten),
                    )
            for name, value in (marks or {}).items():
                _put_mark(file, _bytes(name), value)

    def scrub(self) -> None:
        """Leave nothing of what was removed in the write-ahead file; while somebody reads it, the next
        call does.

        Raises:
            Transient: the cache cannot be written; call again.
        """
        try:
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            raise Transient(f"the cache of connector state of source {self._source!r}: {error}") from None

    def note(self, path: str, known: Known, revision: str) -> None:
        """Take note of a new revision of the same content."""
        if known.revision != revision:
            self.put({path: replace(known, revision=revision)})

    def below(self, path: str) -> Iterator[str]:
        """The known paths ``path/...``, in order; they may be changed meanwhile."""
        first = _bytes(path) + b"/"
        yield from self._pages(f"{_KEPT} AND path >= ? AND path < ?", (first, _bytes(path) + b"0"))  # 0 follows /

    # ----------------------------------------------------------------------------- scans

    def begin_scan(self) -> None:
        """From now on, :meth:`see` tells what is there; see :meth:`unseen`."""
        (last,) = self._file.execute("SELECT coalesce(max(scan), 0) FROM documents").fetchone()
        self._scan = max(self._scan, last) + 1
        self._seen.clear()

    def see(self, path: str) -> Known | None:
        """What is known of a path that the scan has listed."""
        known = self.get(path)
        if known is not None:
            self._seen.append((self._scan, _bytes(path)))
            if len(self._seen) >= _PAGE:
                self._mark()
        return known

    def unseen(self) -> Iterator[str]:
        """The known paths that the scan has not listed, in order."""
        self._mark()
        yield from self._pages(f"{_KEPT} AND scan < ?", (self._scan,))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --------------------------------------------------------------------------- private

    def _mark(self) -> None:
        with self._transaction() as file:
            file.executemany("UPDATE documents SET scan = ? WHERE path = ?", self._seen)
        self._seen.clear()

    def _pages(self, condition: str, values: Sequence[int | bytes]) -> Iterator[str]:
        after = b""
        while True:
            rows = self._file.execute(
                f"SELECT path FROM documents WHERE {condition} AND path > ? ORDER BY path LIMIT {_PAGE}",  # noqa: S608 - constants
                (*values, after),
            ).fetchall()
            for (path,) in rows:
                yield path.decode("utf-8", "surrogateescape")
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def _settled_ends(self) -> dict[int, int]:
        """Up to where committed transactions can be read, once those that are open now have ended.

        Other sources write to the same partitions: while one of their transactions is open, records
        of this source behind it are there, and cannot be read yet.
        """
        written = self._broker.offsets(self._topic, uncommitted=True)
        deadline = Deadline.after(_SETTLE_SECONDS)
        while True:
            ends = {partition: one.end for partition, one in self._broker.offsets(self._topic).items()}
            hanging = [partition for partition, one in written.items() if ends[partition] < one.end]
            if not hanging:
                return ends
            if deadline.expired:
                log.warning(
                    "a transaction hangs: nobody can read past it until its writer commits another one there",
                    extra={"topic": self._topic, "partitions": hanging},
                )
                return ends
            time.sleep(_SETTLE_POLL_SECONDS)

    def _positions(self, info: TopicInfo, ends: Mapping[int, int]) -> dict[int, int] | None:
        """Where to read on; None, from the beginning, if the cache is not of this topic as it is.

        What was committed and cannot be read counts as not written: publishing it once more is what
        ends a transaction that hangs.
        """
        row = self._file.execute("SELECT topic, id, source, at FROM origin").fetchone()
        stored = dict(self._file.execute("SELECT partition, next FROM positions").fetchall())
        fits = (
            row is not None
            and tuple(row[:3]) == (info.name, info.id, self._source)
            and 0 <= self._clock() - row[3] < _CACHE_SECONDS
            and all(stored.get(partition, 0) <= end for partition, end in ends.items())
        )
        if fits:
            return stored
        with self._transaction() as file:
            for table in _TABLES.names:
                file.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
            # Not yet true, so marked as too old until everything has been read.
            file.execute("INSERT INTO origin VALUES (?, ?, ?, 0)", (info.name, info.id, self._source))
        return None

    def _read(self, records: Sequence[Record]) -> None:
        with self._transaction() as file:
            for record in records:
                if record.key is not None and record.key.startswith(self._prefix):
                    path = record.key[len(self._prefix) :]
                    if record.value is None:
                        file.execute("DELETE FROM documents WHERE path = ?", (path,))
                    else:
                        entry = _decode(record)
                        file.execute(
                            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, 0, ?)",
                            (path, entry.revision, entry.digest, entry.facts, entry.forgotten),
                        )
                elif record.key is not None and record.key.startswith(self._marks):
                    _put_mark(file, record.key[len(self._marks) :], record.value)
            file.executemany(_ADVANCE, [(record.partition, record.offset + 1) for record in records])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._file.execute("BEGIN IMMEDIATE")
            yield self._file
            self._file.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            # Waited out: where the log is embedded, it is on the same disk and waits as well.
            raise Transient(
                f"the cache of connector state of source {self._source!r} cannot be written: {error}; "
                "make room on the disk of the state folder (the cache can be deleted at any time)"
            ) from None
        except BaseException:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise


def _decode(record: Record) -> _Entry:
    place = f"record {record.topic}[{record.partition}]@{record.offset}"
    try:
        schema = msgspec.json.decode(record.value or b"")["schema"]
        if schema > _SCHEMA:
            raise NewerSchema(
                f"{place} has schema {schema}; this vectide knows up to {_SCHEMA}: upgrade",
                _UPGRADE_POLL_SECONDS,
            )
        return msgspec.json.decode(record.value or b"", type=_Entry)
    except (*UNREADABLE, KeyError, TypeError) as error:
        # Something was published, nobody knows what: it will differ from anything, and can be deleted.
        log.warning("a record of connector state is malformed", extra={"record": place, "error": str(error)})
        return _Entry(_SCHEMA, "", "?", "")


def _open(path: Path | None) -> sqlite3.Connection:
    def broken(error: sqlite3.DatabaseError) -> None:
        log.warning("connector state cache is broken, it is built again", extra={"file": str(path)})

    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        return opened(path, _TABLES, _BUSY_SECONDS, broken, any_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        raise Fatal(
            f"the cache of connector state cannot be opened at {path}: {error}", "give a writable folder with --state"
        ) from None


def _put_mark(file: sqlite3.Connection, name: bytes, value: bytes | None) -> None:
    if value is None:
        file.execute("DELETE FROM marks WHERE name = ?", (name,))
    else:
        file.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
