"""The embedded log's records on disk: two SQLite files in WAL mode, one process.

``log.db`` holds what is the truth (documents, control, connector state, dead letters) and is
synced at every commit. ``transient.db`` holds what can be made again (chunks, reports) and the
groups' offsets; it is synced at checkpoints only. It can lose its newest commits in a power cut,
always a suffix of them: so a group's offset is never ahead of the records that caused it.

Both overwrite with zeros what they delete, so that a text that was erased is nowhere in them.

Offsets are never reused: after an unclean end each partition skips 2**20 of them before its next
record, more than could have been handed out and lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from pipeline.broker.partitioner import partition_of
from pipeline.errors import BrokerUnavailable, Fatal, Poison, StateInUse, TopicMismatch
from pipeline.ports import Headers, Lifetime, NewRecord, OffsetRange, Record, Then, TopicInfo, TopicSpec, Written

log = logging.getLogger(__name__)

#: Skipped after an unclean end, per partition.
SKIPPED_OFFSETS: Final = 1 << 20
#: Nulls are kept this long after compaction may have removed what they delete, as Kafka does.
_DELETE_RETENTION_SECONDS: Final = 86_400.0
_FETCH_BYTES: Final = 16 * 1024 * 1024
#: The files' mark of having had zeros written over what was deleted ever since.
_SCRUBBED: Final = 1
#: Given back to the file system in one go, some 8 MB.
_FREED_PAGES: Final = 2000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS topics (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL, partitions INTEGER NOT NULL,
    cleanup TEXT NOT NULL, max_record_bytes INTEGER NOT NULL, retention_seconds REAL);
CREATE TABLE IF NOT EXISTS partitions (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    at REAL NOT NULL, key BLOB, headers BLOB, value BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS by_offset ON records (topic, partition, offset);
CREATE INDEX IF NOT EXISTS by_key ON records (topic, partition, key, offset);
CREATE TABLE IF NOT EXISTS offsets (
    consumer_group TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition)) WITHOUT ROWID;
"""


@dataclass(slots=True)
class _Topic:
    number: int
    info: TopicInfo
    spec: TopicSpec
    file: sqlite3.Connection
    bounds: dict[int, OffsetRange]
    dirty: int = 0


class _Placed(NamedTuple):
    topic: _Topic
    record: NewRecord
    written: Written


class EmbeddedLog:
    """Topics, records and committed offsets. Safe for several threads of one process.

    Args:
        directory: where the files are; None keeps everything in memory.
        clock: seconds since 1970, for append times and retention.

    Raises:
        StateInUse: another process has the directory open.
    """

    def __init__(self, directory: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock_file = _lock(directory) if directory is not None else None
        self.changed = threading.Condition(threading.RLock())
        self._log = _open(directory, "log.db", "FULL")
        self._transient = _open(directory, "transient.db", "NORMAL")
        self._topics: dict[str, _Topic] = {}
        self._unskipped: set[tuple[str, int]] = set()
        self._closed = False
        self._load()

    # ------------------------------------------------------------------------------ topics

    def ensure_topics(self, specs: Sequence[TopicSpec]) -> list[str]:
        """Create what is missing; see the Broker port."""
        created = []
        with self.changed:
            for spec in specs:
                present = self._topics.get(spec.name)
                if present is None:
                    self._create(spec)
                    created.append(spec.name)
                    continue
                for setting, is_, wanted in (
                    ("partitions", present.info.partitions, spec.partitions),
                    ("cleanup.policy", present.spec.cleanup, spec.cleanup),
                ):
                    if is_ != wanted:
                        raise TopicMismatch(
                            f"topic {spec.name}: {setting} is {is_}, this configuration needs {wanted}",
                            "use another pipeline.name, or raise pipeline.epoch to start a new log",
                        )
        return created

    def topics(self, prefix: str) -> dict[str, TopicInfo]:
        """Those whose names start with ``prefix``."""
        with self.changed:
            return {name: topic.info for name, topic in self._topics.items() if name.startswith(prefix)}

    def topic(self, name: str) -> TopicInfo:
        """One topic.

        Raises:
            Fatal: there is none of that name.
        """
        with self.changed:
            return self._named(name).info

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics with their records."""
        with self.changed:
            for name in names:
                topic = self._topics.pop(name, None)
                if topic is None:
                    continue
                with _transaction(topic.file) as file:
                    for table, column in (("records", "topic"), ("partitions", "topic"), ("topics", "number")):
                        file.execute(f"DELETE FROM {table} WHERE {column} = ?", (topic.number,))  # noqa: S608 - constants
                with _transaction(self._transient) as file:
                    file.execute("DELETE FROM offsets WHERE topic = ?", (name,))
            self.changed.notify_all()

    # ----------------------------------------------------------------------------- records

    def append(self, records: Sequence[NewRecord], then: Then | None = None) -> list[Written]:
        """Write all records or none; those of one file in one transaction, durable on return.

        Args:
            records: at least one.
            then: makes further records from where these go.

        Raises:
            Poison: a record is over its topic's limit; nothing is written.
            BrokerUnavailable: the disk is full or fails; nothing of that file is written.
        """
        with self.changed:
            if self._closed:
                raise BrokerUnavailable("the embedded log is closed")
            ends: dict[tuple[str, int], int] = {}
            placed = [self._placed(record, ends) for record in records]
            if then is not None:
                placed += [self._placed(record, ends) for record in then([one.written for one in placed])]
            for file in (self._log, self._transient):
                mine = [one for one in placed if one.topic.file is file]
                if mine:
                    self._write(file, mine)
            self.changed.notify_all()
            return [one.written for one in placed]

    def _placed(self, record: NewRecord, ends: dict[tuple[str, int], int]) -> _Placed:
        """Where a record goes, behind those that are placed already. Nothing is written."""
        topic = self._named(record.topic)
        size = len(record.key or b"") + len(record.value or b"")
        if size > topic.spec.max_record_bytes:
            raise Poison(
                "record_too_large",
                f"{size} bytes are over the limit of {topic.spec.max_record_bytes} of topic {record.topic}",
            )
        partition = record.partition
        if partition is None:
            partition = partition_of(record.key, topic.info.partitions)
        at = (topic.info.name, partition)
        skip = SKIPPED_OFFSETS if at in self._unskipped and at not in ends else 0
        offset = ends.get(at, topic.bounds[partition].end) + skip
        ends[at] = offset + 1
        return _Placed(topic, record, Written(partition, offset))

    def _write(self, file: sqlite3.Connection, placed: Sequence[_Placed]) -> None:
        now = self._clock()
        ends: dict[tuple[str, int], int] = {}
        rows = []
        for topic, record, (partition, offset) in placed:
            ends[topic.info.name, partition] = offset + 1
            headers = msgspec.msgpack.encode(record.headers) if record.headers else None
            rows.append((topic.number, partition, offset, now, record.key, headers, record.value))
        with _transaction(file):
            file.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            file.executemany(
                "UPDATE partitions SET end = ? WHERE topic = ? AND partition = ?",
                [(end, self._topics[name].number, partition) for (name, partition), end in ends.items()],
            )
        # Only now visible: a reader compares its position with these bounds first.
        for (name, partition), end in ends.items():
            topic = self._topics[name]
            topic.bounds[partition] = OffsetRange(topic.bounds[partition].start, end)
            self._unskipped.discard((name, partition))
        for topic, _, _ in placed:
            topic.dirty += 1

    def fetch(self, topic_name: str, partition: int, offset: int, limit: int) -> tuple[list[Record], int]:
        """Up to ``limit`` records (and about 16 MB) from ``offset`` on, and where to go on."""
        with self.changed:
            topic = self._named(topic_name)
            end = topic.bounds[partition].end
            if offset >= end:
                return [], end
            rows = topic.file.execute(
                "SELECT offset, at, key, headers, value FROM records "
                "WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT ?",
                (topic.number, partition, offset, limit),
            )
            found: list[Record] = []
            size = 0
            for at_offset, at, key, headers, value in rows:
                decoded: Headers = msgspec.msgpack.decode(headers, type=Headers) if headers else ()
                found.append(Record(topic_name, partition, at_offset, key, value, decoded, at))
                size += len(value or b"")
                if size > _FETCH_BYTES:
                    break
            if len(found) < limit and size <= _FETCH_BYTES:
                return found, end
            return found, found[-1].offset + 1

    def bounds(self, topic_name: str) -> dict[int, OffsetRange]:
        """First kept and next offset of each partition."""
        with self.changed:
            return dict(self._named(topic_name).bounds)

    def count_from(self, topic_name: str, partition: int, offset: int) -> int:
        """How many records there are from ``offset`` on."""
        with self.changed:
            topic = self._named(topic_name)
            (count,) = topic.file.execute(
                "SELECT count(*) FROM records WHERE topic = ? AND partition = ? AND offset >= ?",
                (topic.number, partition, offset),
            ).fetchone()
            return int(count)

    def trim(self, topic_name: str, before: Mapping[int, int]) -> None:
        """Drop everything before these offsets."""
        with self.changed:
            topic = self._named(topic_name)
            starts = {
                partition: min(max(offset, topic.bounds[partition].start), topic.bounds[partition].end)
                for partition, offset in before.items()
            }
            with _transaction(topic.file) as file:
                for partition, start in starts.items():
                    file.execute(
                        "DELETE FROM records WHERE topic = ? AND partition = ? AND offset < ?",
                        (topic.number, partition, start),
                    )
                    file.execute(
                        "UPDATE partitions SET start = ? WHERE topic = ? AND partition = ?",
                        (start, topic.number, partition),
                    )
            for partition, start in starts.items():
                topic.bounds[partition] = OffsetRange(start, topic.bounds[partition].end)

    # ----------------------------------------------------------------------------- offsets

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets."""
        with self.changed:
            rows = self._transient.execute(
                "SELECT partition, next FROM offsets WHERE consumer_group = ? AND topic = ?", (group, topic)
            )
            return {int(partition): int(offset) for partition, offset in rows}

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Store a group's offsets."""
        rows = [(group, topic, partition, offset) for (topic, partition), offset in offsets.items()]
        with self.changed, _transaction(self._transient) as file:
            file.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)", rows)

    def groups(self) -> set[str]:
        """Those that have committed offsets."""
        with self.changed:
            return {name for (name,) in self._transient.execute("SELECT DISTINCT consumer_group FROM offsets")}

    def delete_group(self, group: str) -> None:
        """Forget a group's offsets."""
        with self.changed, _transaction(self._transient) as file:
            file.execute("DELETE FROM offsets WHERE consumer_group = ?", (group,))

    # -------------------------------------------------------------------------- compaction

    def maintain(self, least_dirty: int = 500) -> int:
        """Compact and expire, a partition at a time; returns how many records went."""
        removed = 0
        with self.changed:
            names = list(self._topics)
        for name in names:
            with self.changed:
                topic = self._topics.get(name)
                if topic is None or self._closed:
                    continue
                dirty, partitions = topic.dirty, topic.info.partitions
                compact = topic.spec.cleanup.startswith("compact") and dirty >= least_dirty
                expire = topic.spec.retention_seconds is not None and "delete" in topic.spec.cleanup
            if compact or expire:
                removed += sum(self._maintain(name, partition, compact) for partition in range(partitions))
            if compact:
                with self.changed:
                    topic.dirty -= dirty
        if removed:
            with self.changed:
                for file in (self._log, self._transient):
                    with _written():
                        # As a script: `execute` steps a statement without rows once, and that frees one page.
                        file.executescript(f"PRAGMA incremental_vacuum({_FREED_PAGES})")
        return removed

    def lifetime(self, topic_name: str) -> Lifetime:
        """How long what was superseded can stay."""
        with self.changed:
            spec = self._named(topic_name).spec
        compacts, deletes = spec.cleanup.startswith("compact"), "delete" in spec.cleanup
        return Lifetime(
            None, _DELETE_RETENTION_SECONDS if compacts else None, spec.retention_seconds if deletes else None
        )

    def size(self, topic_name: str) -> int:
        """Bytes of a topic's records."""
        with self.changed:
            topic = self._named(topic_name)
            (size,) = topic.file.execute(
                "SELECT coalesce(sum(length(key) + coalesce(length(headers), 0) + coalesce(length(value), 0)), 0) "
                "FROM records WHERE topic = ?",
                (topic.number,),
            ).fetchone()
            return int(size)

    def purge(self, names: Sequence[str]) -> None:
        """Compact topics now, and overwrite what was removed, in the write-ahead files too.

        Raises:
            BrokerUnavailable: the disk is full or fails, or another process reads the files; call again.
        """
        for name in names:
            with self.changed:
                partitions = self._named(name).info.partitions
            for partition in range(partitions):
                self._maintain(name, partition, True)
        with self.changed:
            for file in (self._log, self._transient):
                with _written():
                    _scrub(file)

    def _maintain(self, name: str, partition: int, compact: bool) -> int:
        with self.changed:
            topic = self._topics.get(name)
            if topic is None or self._closed:
                return 0
            removed = 0
            with _transaction(topic.file) as file:
                if compact:
                    removed += file.execute(
                        "DELETE FROM records WHERE topic = ?1 AND partition = ?2 AND key IS NOT NULL AND offset < "
                        "(SELECT max(offset) FROM records AS later WHERE later.topic = ?1 AND later.partition = ?2 "
                        "AND later.key = records.key)",
                        (topic.number, partition),
                    ).rowcount
                    removed += file.execute(
                        "DELETE FROM records WHERE topic = ? AND partition = ? AND value IS NULL AND at < ?",
                        (topic.number, partition, self._clock() - _DELETE_RETENTION_SECONDS),
                    ).rowcount
                if topic.spec.retention_seconds is not None and "delete" in topic.spec.cleanup:
                    removed += file.execute(
                        "DELETE FROM records WHERE topic = ? AND partition = ? AND at < ?",
                        (topic.number, partition, self._clock() - topic.spec.retention_seconds),
                    ).rowcount
            return removed

    def close(self) -> None:
        """Close cleanly: the next open skips no offsets."""
        with self.changed:
            if self._closed:
                return
            self._closed = True
            # Partitions that still owe a skip stay unclean, or their offsets could be reused.
            if not self._unskipped:
                try:
                    with _transaction(self._log) as file:
                        file.execute("INSERT OR REPLACE INTO meta VALUES ('end', 'clean')")
                except BrokerUnavailable as error:
                    log.warning("not closed cleanly: the next open skips offsets", extra={"error": str(error)})
            self._log.close()
            self._transient.close()
            self.changed.notify_all()
        if self._lock_file is not None:
            self._lock_file.close()

    # ----------------------------------------------------------------------------- private

    def _load(self) -> None:
        row = self._log.execute("SELECT value FROM meta WHERE name = 'end'").fetchone()
        unclean = row is not None and row[0] != "clean"
        with _transaction(self._log) as log:
            log.execute("INSERT OR REPLACE INTO meta VALUES ('end', 'unclean')")
        for file in (self._log, self._transient):
            for number, name, id, partitions, cleanup, limit, retention in file.execute("SELECT * FROM topics"):
                spec = TopicSpec(name, partitions, cleanup, limit, retention)
                bounds = {
                    int(partition): OffsetRange(start, end)
                    for partition, start, end in file.execute(
                        "SELECT partition, start, end FROM partitions WHERE topic = ?", (number,)
                    )
                }
                self._topics[name] = _Topic(number, TopicInfo(name, id, partitions), spec, file, bounds, 1)
                if unclean:
                    self._unskipped |= {(name, partition) for partition in bounds}

    def _create(self, spec: TopicSpec) -> None:
        # What only compaction ever shortens is the truth; the rest can be made again.
        file = self._log if spec.cleanup.startswith("compact") and spec.retention_seconds is None else self._transient
        id = uuid.uuid4().hex
        with _transaction(file):
            number = file.execute(
                "INSERT INTO topics (name, id, partitions, cleanup, max_record_bytes, retention_seconds) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (spec.name, id, spec.partitions, spec.cleanup, spec.max_record_bytes, spec.retention_seconds),
            ).lastrowid
            assert number is not None  # an INSERT into a rowid table
            rows = [(number, partition, 0, 0) for partition in range(spec.partitions)]
            file.executemany("INSERT INTO partitions VALUES (?, ?, ?, ?)", rows)
        bounds = {partition: OffsetRange(0, 0) for partition in range(spec.partitions)}
        self._topics[spec.name] = _Topic(number, TopicInfo(spec.name, id, spec.partitions), spec, file, bounds)

    def _named(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise Fatal(f"there is no topic {name!r}", "run `vectide topics apply` first")
        return topic


@contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing.

    Raises:
        BrokerUnavailable: the disk is full or fails; nothing was written.
    """
    try:
        file.execute("BEGIN IMMEDIATE")
        yield file
        file.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise BrokerUnavailable(f"the embedded log cannot write: {error} (is the disk full?)") from None
    except sqlite3.ProgrammingError:
        raise BrokerUnavailable("the embedded log is closed") from None
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


#: For another connection's lock.
_BUSY_SECONDS: Final = 5
#: The same, while the whole log waits for it.
_SCRUB_MILLISECONDS: Final = 200


def _open(directory: Path | None, name: str, synchronous: str) -> sqlite3.Connection:
    where = ":memory:" if directory is None else str(directory / name)
    try:
        file = sqlite3.connect(where, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        file.execute("PRAGMA auto_vacuum = INCREMENTAL")
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(f"PRAGMA synchronous = {synchronous}")
        file.execute("PRAGMA secure_delete = ON")  # zeros over what is deleted: 0.04 ms a record
        new = file.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
        file.executescript(_SCHEMA)
        if new:
            file.execute(f"PRAGMA user_version = {_SCRUBBED}")
    except sqlite3.DatabaseError as error:
        raise Fatal(f"{where}: {error}", "is it a log of vectide, on a disk with room, and writable?") from None
    return file


def _scrub(file: sqlite3.Connection) -> None:
    """Leave no byte of what was deleted, in the write-ahead file either.

    Raises:
        BrokerUnavailable: somebody else reads the file, as a backup does.
    """
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version != _SCRUBBED:
        file.execute("VACUUM")  # once: what was deleted before deletes wrote zeros
        file.execute(f"PRAGMA user_version = {_SCRUBBED}")
    file.execute(f"PRAGMA busy_timeout = {_SCRUB_MILLISECONDS}")
    try:
        (busy, _, _) = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        file.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_SECONDS}")
    if busy:
        raise BrokerUnavailable("the embedded log's files are read by another process; what was deleted is still there")


@contextmanager
def _written() -> Iterator[None]:
    """What is no transaction.

    Raises:
        BrokerUnavailable: the disk is full or fails, or the log is closed.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise BrokerUnavailable(f"the embedded log cannot write: {error} (is the disk full?)") from None
    except sqlite3.ProgrammingError:
        raise BrokerUnavailable("the embedded log is closed") from None


def _lock(directory: Path) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("a+")
    except OSError as error:
        raise Fatal(f"state folder {directory}: {error.strerror}", "give a writable folder with --state") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read().strip() or "unknown"
        file.close()
        raise StateInUse(
            f"state folder {directory} is in use by process {pid}",
            "`vectide search` and `vectide status` ask it; stop it first, or give another folder with --state",
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
