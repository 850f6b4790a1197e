"""One database of a real PostgreSQL for one test, and a connector of its tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from connectors.postgres import connector
from connectors.postgres.source import PostgresSource
from tests.support.postgres import PostgresServer

#: One table; a test adds its rows.
PAGES = "CREATE TABLE pages (id int PRIMARY KEY, title text, body text)"


@dataclass
class Tables:
    """A database, dropped with its slots when the test is over."""

    server: PostgresServer
    database: str
    slot: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the source, besides url and slot."""

    def source(self, limit_bytes: int = 1 << 20, user: str = "admin", **more: Any) -> PostgresSource:
        """A connector's source over it, as a new process would have it."""
        settings = {"url": self.server.url(self.database, user), "slot": self.slot, **self.settings, **more}
        found = connector("m", settings, limit_bytes)
        assert isinstance(found, PostgresSource)
        return found

    def execute(self, *statements: str) -> None:
        """Run statements, each a transaction."""
        self.server.execute(self.database, *statements)

    def rows(self, query: str) -> list[Any]:
        """What a query gives."""
        return self.server.rows(self.database, query)

    def confirmed(self) -> str:
        """Where the slot is."""
        ((found,),) = self.rows(
            f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
        )
        return str(found)

    def drop_slot(self) -> None:
        """Throw the slot away, whoever reads it."""
        self.server.drop_slots(self.database)


@contextmanager
def tables(server: PostgresServer, name: str, *statements: str, **settings: Any) -> Iterator[Tables]:
    """A new database in which these statements were run."""
    server.execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
    one = Tables(server, name, name, settings)
    try:
        one.execute(*statements)
        yield one
    finally:
        server.drop_database(name)
