"""A table of a real PostgreSQL as a place: each row is a document."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from connectors.certification import Fault
from connectors.postgres.source import PostgresSource
from connectors.registry import open_source
from pipeline.config import SourceConfig
from tests.contract.by_key import ByKey
from tests.support.absence import absent
from tests.support.postgres import Missing, PostgresServer, shared
from tests.support.socks import Relay

_TABLE = (
    "CREATE TABLE docs (path text PRIMARY KEY, body text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"
)
_PUT = "INSERT INTO docs VALUES (%s, %s) ON CONFLICT (path) DO UPDATE SET body = excluded.body, at = clock_timestamp()"


def server() -> PostgresServer:
    """The one of this run. Where PostgreSQL is missing it skips on a laptop and fails in CI."""
    try:
        return shared()
    except Missing as missing:
        absent(missing)


class PostgresPlace:
    """A database of its own, whose role needs its password, behind a relay."""

    faults: tuple[Fault, ...] = ("down", "slow", "unauthorised")
    secrets = ("hunter2",)

    def __init__(self, folder: Path, limit_bytes: int = 64 * 1024) -> None:
        self._limit = limit_bytes
        self._server = server()
        self._relay = Relay(self._server.port)
        self._database = f"place_{uuid.uuid4().hex[:10]}"
        role = self._database
        self._server.execute(
            "postgres",
            f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'hunter2' IN ROLE passworded",
            f"CREATE DATABASE {self._database} TEMPLATE template0 OWNER {role}",
        )
        self._server.execute(self._database, _TABLE, f"ALTER TABLE docs OWNER TO {role}")

    def put(self, path: str, text: str) -> None:
        self._run(_PUT, (path, text))

    def put_many(self, documents: Mapping[str, str]) -> None:
        values = ([*documents], [*documents.values()])
        self._run("INSERT INTO docs SELECT * FROM unnest(%s::text[], %s::text[])", values)

    def remove(self, path: str) -> None:
        self._run("DELETE FROM docs WHERE path = %s", (path,))

    def rename(self, old: str, new: str) -> None:
        self._run("DELETE FROM docs WHERE path = %s; UPDATE docs SET path = %s WHERE path = %s", (new, new, old))

    def poison(self, path: str) -> None:
        self.put(path, "x" * (self._limit + 1))

    def break_(self, fault: Fault) -> None:
        """The source does not get in, and is put out."""
        if fault == "slow":
            self._relay.break_(fault)
            return
        change = "CONNECTION LIMIT 0" if fault == "down" else "PASSWORD 'another'"
        self._server.execute(
            "postgres",
            f"ALTER ROLE {self._database} {change}",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self._database}'",
        )

    def mend(self) -> None:
        self._relay.mend()
        self._server.execute("postgres", f"ALTER ROLE {self._database} CONNECTION LIMIT -1 PASSWORD 'hunter2'")

    def asked(self) -> int:
        return self._relay.connections

    def source(self) -> ByKey:
        config = SourceConfig.model_validate(
            {
                "connector": "postgres",
                "url": f"postgres://{self._database}:hunter2@127.0.0.1:{self._relay.port}/{self._database}",
                "slot": self._database,
                "tables": {"docs": {"text": "{body}", "event_time": "at"}},
            }
        )
        found = open_source("place", config, self._limit)
        assert isinstance(found, PostgresSource)
        return ByKey(found, "docs")

    def close(self) -> None:
        self._relay.close()
        self._server.drop_database(self._database)
        self._server.execute("postgres", f"DROP ROLE {self._database}")

    def _run(self, statement: str, values: Sequence[object]) -> None:
        # The place works while it is down for its source.
        with self._server.connected(self._database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
