"""Where the last record of each document lies: a SQLite file, made from the topics and from nothing else.

A topic cannot be asked for a key. This file can: it has a row for each document and partition, with the offset and
no content. It is written with the places up to which it was made, in one transaction, so that a killed process
goes on where the file is. Without the file the topics are read again.

Of a key that has records in several partitions, as after partitions were added, the latest by its timestamp
counts; within a partition, the last one.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from connectors.cache import Tables, opened, transaction
from pipeline.errors import SourceUnavailable
from pipeline.ports import TopicPartition

_PAGE: Final = 1000
_TABLES: Final = Tables(
    1,
    ("meta", "partitions", "records"),
    """
CREATE TABLE meta (fingerprint TEXT NOT NULL, complete INTEGER NOT NULL);
INSERT INTO meta VALUES ('', 0);
CREATE TABLE partitions (
    slot INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL,
    next INTEGER, fresh REAL NOT NULL DEFAULT 0, cut_at REAL NOT NULL DEFAULT -1, UNIQUE (topic, number));
CREATE TABLE records (
    path TEXT NOT NULL, slot INTEGER NOT NULL, place INTEGER NOT NULL, at REAL NOT NULL, gone INTEGER NOT NULL,
    PRIMARY KEY (path, slot)) WITHOUT ROWID;
CREATE INDEX by_place ON records (slot, place);
""",
)
#: Another row of the same document that counts before one.
_LATER: Final = (
    "(SELECT 1 FROM records b WHERE b.path = a.path AND b.slot != a.slot "
    "AND (b.at > a.at OR (b.at = a.at AND b.slot > a.slot)))"
)


class Place(NamedTuple):
    """Where a document's last record lies."""

    at: TopicPartition
    offset: int
    gone: bool
    """It is a delete."""


@dataclass(frozen=True, slots=True)
class Put:
    """A record of one document."""

    path: str
    at: TopicPartition
    offset: int
    time: float
    gone: bool


@dataclass(frozen=True, slots=True)
class Truncate:
    """A record that ends all documents below a path."""

    path: str
    at: TopicPartition
    offset: int
    time: float


class Index:
    """Of one source; one thread. It is made in memory's stead: a temporary file where there is no folder for
    it, or another process has it.

    Args:
        folder: of the source's own; None: it keeps nothing.

    Raises:
        SourceUnavailable: it cannot be made, as when the disk is full.
    """

    def __init__(self, folder: Path | None) -> None:
        self._lock: TextIO | None = None
        self._temporary: Path | None = None
        self._slots: dict[TopicPartition, int] = {}
        self._partitions: dict[int, TopicPartition] = {}
        self._cuts: dict[int, float] = {}
        with self._room():
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(folder / "index.lock")
            if folder is None or self._lock is None:
                self._temporary = folder = Path(tempfile.mkdtemp(prefix="vectide-topics-"))
            self._file = opened(folder / "index.sqlite", _TABLES)
            self._read_partitions()

    @property
    def kept(self) -> bool:
        """Whether it is there after a restart."""
        return self._temporary is None

    @property
    def fingerprint(self) -> str:
        """What it was made of; empty: of nothing yet."""
        return str(self._rows("SELECT fingerprint FROM meta")[0][0])

    @property
    def complete(self) -> bool:
        """Whether it was read to the ends that the topics had when it was begun."""
        return bool(self._rows("SELECT complete FROM meta")[0][0])

    def begin(self, fingerprint: str) -> None:
        """Empty it: the topics are read from their beginning."""
        with self._transaction():
            for table in ("records", "partitions"):
                self._file.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
            self._file.execute("UPDATE meta SET fingerprint = ?, complete = 0", (fingerprint,))
        self._read_partitions()

    def finish(self) -> None:
        """It is complete now."""
        with self._transaction():
            self._file.execute("UPDATE meta SET complete = 1")

    def add(self, partitions: Sequence[TopicPartition], now: float) -> None:
        """Partitions that it may not know yet: they are read from what they keep first."""
        with self._transaction():
            self._file.executemany(
                "INSERT OR IGNORE INTO partitions (topic, number, fresh) VALUES (?, ?, ?)",
                [(*at, now) for at in partitions],
            )
        self._read_partitions()

    def nexts(self) -> dict[TopicPartition, int | None]:
        """Up to where each partition was read; None: not at all."""
        return {self._partitions[slot]: offset for slot, offset in self._rows("SELECT slot, next FROM partitions")}

    def fresh(self) -> dict[TopicPartition, float]:
        """When each partition was last read to its end, or begun, in seconds since 1970."""
        return {self._partitions[slot]: at for slot, at in self._rows("SELECT slot, fresh FROM partitions")}

    def refresh(self, at: Mapping[TopicPartition, float]) -> None:
        """Set that."""
        with self._transaction():
            self._file.executemany(
                "UPDATE partitions SET fresh = ? WHERE slot = ?", [(time, self._slots[one]) for one, time in at.items()]
            )

    def apply(self, changes: Sequence[Put | Truncate], nexts: Mapping[TopicPartition, int]) -> None:
        """Take note of records, in the order in which they were read, and of up to where that was."""
        with self._transaction():
            for change in changes:
                if isinstance(change, Put):
                    self._put(change)
                else:
                    self._truncate(change)
            self._file.executemany(
                "UPDATE partitions SET next = ? WHERE slot = ?",
                [(offset, self._slots[at]) for at, offset in nexts.items()],
            )

    def find(self, path: str) -> Place | None:
        """Where a document's last record lies."""
        rows = self._rows(
            "SELECT slot, place, gone FROM records WHERE path = ? ORDER BY at DESC, slot DESC LIMIT 1", (path,)
        )
        return Place(self._partitions[rows[0][0]], rows[0][1], bool(rows[0][2])) if rows else None

    def documents(self, until: Mapping[TopicPartition, int]) -> Iterator[tuple[str, Place]]:
        """All documents whose last record lies before an offset, in order of partitions and offsets; the file may be
        written meanwhile.
        """
        for at, slot, end in [(at, self._slots[at], end) for at, end in until.items()]:
            after = -1
            while True:
                rows = self._rows(
                    "SELECT path, place FROM records a WHERE slot = ? AND place > ? AND place < ? AND NOT gone "  # noqa: S608 - constants
                    f"AND NOT EXISTS {_LATER} ORDER BY place LIMIT {_PAGE}",
                    (slot, after, end),
                )
                for path, place in rows:
                    yield path, Place(at, place, gone=False)
                if len(rows) < _PAGE:
                    break
                after = rows[-1][1]

    def prune(self, starts: Mapping[TopicPartition, int], published: Mapping[TopicPartition, int]) -> None:
        """Forget what is not needed any more.

        Args:
            starts: of partitions, the offset before which a record that is gone from the log was a document's end.
            published: up to where deletes are published: until then they are needed.
        """
        with self._transaction():
            for at, start in starts.items():
                self._file.execute(
                    "DELETE FROM records WHERE slot = ? AND place < ? AND NOT gone", (self._slots[at], start)
                )
            for at, end in published.items():
                self._file.execute(
                    "DELETE FROM records AS a WHERE slot = ? AND place < ? AND gone "
                    "AND NOT EXISTS (SELECT 1 FROM records b WHERE b.path = a.path AND b.slot != a.slot)",
                    (self._slots[at], end),
                )

    def truncated(self, topic: str) -> bool:
        """Whether a truncation of a topic was read: a document of it without a row ended with that."""
        return any(self._partitions[slot].topic == topic for slot in self._cuts)

    def count(self) -> int:
        """Rows: of documents, and of deletes that are still needed."""
        return int(self._rows("SELECT count(*) FROM records")[0][0])

    def close(self) -> None:
        """Close the file; a temporary one is deleted."""
        self._file.close()
        if self._lock is not None:
            self._lock.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    # ------------------------------------------------------------------------ private

    def _put(self, one: Put) -> None:
        slot = self._slots[one.at]
        # A truncation that another partition has told of; in its own, the order of records decides.
        cuts = (
            cut for other, cut in self._cuts.items() if other != slot and self._partitions[other].topic == one.at.topic
        )
        gone = one.gone or one.time <= max(cuts, default=-1.0)
        self._file.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT (path, slot) DO UPDATE "
            "SET place = excluded.place, at = excluded.at, gone = excluded.gone WHERE excluded.place > place",
            (one.path, slot, one.offset, one.time, gone),
        )

    def _truncate(self, one: Truncate) -> None:
        slot = self._slots[one.at]
        self._file.execute(
            "UPDATE records SET gone = 1 WHERE path >= ? AND path < ? "
            "AND ((slot = ? AND place < ?) OR (slot != ? AND at <= ?))",
            (f"{one.path}/", f"{one.path}0", slot, one.offset, slot, one.time),  # 0 comes behind the slash
        )
        self._file.execute("UPDATE partitions SET cut_at = max(cut_at, ?) WHERE slot = ?", (one.time, slot))
        self._cuts[slot] = max(self._cuts.get(slot, -1.0), one.time)

    def _read_partitions(self) -> None:
        rows = self._rows("SELECT slot, topic, number, cut_at FROM partitions")
        self._partitions = {slot: TopicPartition(topic, number) for slot, topic, number, _ in rows}
        self._cuts = {slot: cut for slot, _, _, cut in rows if cut >= 0}
        self._slots = {at: slot for slot, at in self._partitions.items()}

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._room():
            return self._file.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._room(), transaction(self._file):
            yield

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SourceUnavailable(f"the index of the topics cannot be written: {error}") from None


def _locked(path: Path) -> TextIO | None:
    """A lock that ends with the process; None: another process has it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
