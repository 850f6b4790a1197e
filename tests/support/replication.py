"""The postgres connector at work on one test's tables: followed, counted and waited for."""

from __future__ import annotations

import time
from pathlib import Path

from connectors.postgres.source import PostgresSource
from connectors.runner import RunnerLimits
from pipeline.ports import Hint
from tests.support.positions import position
from tests.support.sources import Documents, running, wait_until
from tests.support.tables import Tables

LIMITS = RunnerLimits(position_seconds=0.0, hints_seconds=0.05)


class Counted:
    """A source that counts what is read of it."""

    def __init__(self, source: PostgresSource) -> None:
        self._source = source
        self.scans = 0
        self.fetched: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def scan(self) -> object:
        self.scans += 1
        return self._source.scan()

    def fetch(self, path: str) -> object:
        self.fetched.append(path)
        return self._source.fetch(path)


def synced(one: Tables, documents: Documents, directory: Path | None, texts: dict[str, str]) -> Counted:
    """One run, until the log has these texts and the slot has moved behind them."""
    source = Counted(one.source())
    with running(source, documents, directory, LIMITS) as at_work:  # type: ignore[arg-type]
        at_work.wait_scanned()
        documents.wait_for(dict(texts))
        confirmed_all(one)
        wait_until(lambda: position(documents) is not None)
    return source


def confirmed_all(one: Tables) -> None:
    """Wait until the slot has moved behind everything that was written."""
    ((end,),) = one.rows("SELECT pg_current_wal_insert_lsn()::text")
    wait_until(lambda: one.rows(f"SELECT '{one.confirmed()}'::pg_lsn >= '{end}'::pg_lsn")[0][0])


def hints_until(source: PostgresSource, path: str | None) -> list[Hint]:
    """All hints up to and with that of a path; None: that everything is to be scanned."""
    found: list[Hint] = []
    end = time.monotonic() + 30
    while not any(hint.path == path for hint in found):
        assert time.monotonic() < end, found
        found += source.hints(0.5)
    return found
