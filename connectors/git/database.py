"""The SQLite file of a copy's list: its tables, and transactions on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LAYOUT: Final = 1
_TABLES: Final = """
CREATE TABLE origin (repository TEXT, branch TEXT, folder TEXT, history INTEGER, tip TEXT, at INTEGER);
CREATE TABLE files (path BLOB PRIMARY KEY, blob TEXT NOT NULL, commit_ INTEGER) WITHOUT ROWID;
CREATE TABLE commits (number INTEGER PRIMARY KEY, id TEXT UNIQUE, at INTEGER, author TEXT);
"""


def opened(path: Path) -> sqlite3.Connection:
    """The file, made if it is not there, of another layout or broken.

    Raises:
        OSError, sqlite3.Error: it cannot be made.
    """
    file = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        (layout,) = file.execute("PRAGMA user_version").fetchone()
        if layout != _LAYOUT:
            dropped = "".join(f"DROP TABLE IF EXISTS {table};" for table in ("origin", "files", "commits"))
            file.executescript(f"BEGIN IMMEDIATE; {dropped} {_TABLES} PRAGMA user_version = {_LAYOUT}; COMMIT")
    except sqlite3.DatabaseError as error:
        file.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        for suffix in ("", "-wal", "-shm"):  # broken: it is made again
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return opened(path)
    return file


@contextmanager
def transaction(file: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """One transaction, begun as ``BEGIN`` with a kind; rolled back by any exception."""
    file.execute(f"BEGIN {kind}")
    try:
        yield file
    except BaseException:
        file.execute("ROLLBACK")
        raise
    file.execute("COMMIT")
