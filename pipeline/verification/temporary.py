"""Temporary files: what a verification knows of more documents than fit into memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipeline.errors import Transient

#: Of a file, in memory: rows come in the order of a hash, so that each touches another page.
_CACHE_KIB: Final = 64 * 1024


def temporary_file(tables: str) -> sqlite3.Connection:
    """A file in TMPDIR without a name, with these tables; a killed process leaves nothing.

    Raises:
        Transient: it cannot be made.
    """
    with room():
        # It may be made in one thread and closed in another, but is never used by two at once.
        file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        file.execute("PRAGMA journal_mode = OFF")
        file.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        file.executescript(tables)
        file.execute("BEGIN")  # one transaction, never committed
        return file


@contextmanager
def room() -> Iterator[None]:
    """What is done to such a file.

    Raises:
        Transient: there is no room for it.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Transient(
            f"the temporary file of a verification cannot be written: {error}; make room in the folder for temporary "
            "files, or name another one with TMPDIR"
        ) from None
