"""SQLite files that are made from what is elsewhere: one of another layout, or a broken one, is made anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tables:
    """What is in a file."""

    layout: int
    """Raised with every change of the script."""
    names: tuple[str, ...]
    """Of its tables. The first one is read when it is opened, to see whether it can be."""
    script: str


def opened(
    path: Path | None,
    tables: Tables,
    busy_seconds: float = 30.0,
    broken: Callable[[sqlite3.DatabaseError], None] = lambda error: None,
    *,
    any_thread: bool = True,
) -> sqlite3.Connection:
    """The file, made if it is not there, of another layout or broken.

    Args:
        path: of the file; None: it is in memory.
        tables: of it.
        busy_seconds: how long to wait for who else writes it.
        broken: told of a file that is made again.
        any_thread: who opens it need not be who uses it; one at a time in any case.

    Raises:
        OSError, sqlite3.Error: it cannot be made.
    """
    try:
        return connected(path, tables, busy_seconds, any_thread=any_thread)
    except sqlite3.DatabaseError as error:
        if path is None or isinstance(error, sqlite3.OperationalError):
            raise
        broken(error)
        removed(path)
        return connected(path, tables, busy_seconds, any_thread=any_thread)


def connected(path: Path | None, tables: Tables, busy_seconds: float, *, any_thread: bool = True) -> sqlite3.Connection:
    """Likewise, but a broken file is left as it is.

    Raises:
        sqlite3.OperationalError: it cannot be opened now.
        sqlite3.DatabaseError: it is broken.
    """
    file = sqlite3.connect(
        ":memory:" if path is None else path,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=not any_thread,
    )
    try:
        file.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the newest commits: what they say is found again where it came from.
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("PRAGMA secure_delete = ON")  # what is said of a document that was forgotten is gone, too
        (layout,) = file.execute("PRAGMA user_version").fetchone()
        if layout != tables.layout:
            dropped = "".join(f"DROP TABLE IF EXISTS {name};" for name in tables.names)
            made = f"{dropped} {tables.script} PRAGMA user_version = {tables.layout};"
            file.executescript(f"BEGIN IMMEDIATE; {made} COMMIT")
        file.execute(f"SELECT count(*) FROM {tables.names[0]}").fetchone()  # noqa: S608 - a constant
    except BaseException:
        file.close()
        raise
    return file


def removed(path: Path) -> None:
    """Delete the file, and what SQLite has beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


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
