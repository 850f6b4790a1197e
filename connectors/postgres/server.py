"""Connections to one PostgreSQL: their options, and what an error of it means to a source."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection, make_dsn, parse_dsn
from psycopg2.extras import LogicalReplicationConnection
from psycopg2.sql import Composable

from connectors.postgres.settings import PostgresSettings
from pipeline.errors import ConfigError, NotAllowed, SourceUnavailable

#: A key is compared as text, and the stream and the queries must write it alike.
_FORMATS: Final = (
    "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 -c bytea_output=hex"
)
#: What libpq is told unless the URL says otherwise: a host that went away silently is noticed in a minute.
_DEFAULTS: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "45000",
    "application_name": "vectide",
    "client_encoding": "UTF8",
}
#: Of the server's refusals while connecting, which have no code: those that come from what url and password_file
#: say, or pg_hba.conf. In another language than English they are waited out like these, without the advice.
_REFUSALS: Final = (
    "authentication failed",
    "no pg_hba.conf entry",
    "no password supplied",
    "does not exist",
    "is not permitted to log in",
)
#: The role lacks REPLICATION: before PostgreSQL 16, and from it on.
_NO_REPLICATION: Final = ("to start walsender", "to start WAL sender")


class TooSlow(SourceUnavailable):
    """The server answers, but not to this statement within its time."""


class Server:
    """A database of a PostgreSQL server, for queries that are each a transaction.

    Args:
        source_id: for the texts of errors.
        settings: of the source.

    Raises:
        ConfigError: the URL or the password's file is wrong.
    """

    def __init__(self, source_id: str, settings: PostgresSettings) -> None:
        self._place = f"sources.{source_id}"
        self._password_file = settings.password_file
        self._timeout = settings.timeout_seconds
        self._lock = threading.Lock()
        self._closed = False
        self._connection: connection | None = None
        try:
            given = parse_dsn(settings.url.get_secret_value())
        except psycopg2.ProgrammingError:
            # libpq's text repeats the URL, and it may hold the password.
            raise ConfigError(
                f"{self._place}.url is no address of a PostgreSQL database",
                "write postgres://user@host:5432/database, special characters of the password percent-encoded",
            ) from None
        try:
            self._password()
        except SourceUnavailable as error:
            raise ConfigError(str(error), "give a file that this user can read") from None
        given["options"] = f"{given.get('options', '')} {_FORMATS}".strip()
        self._options = {**_DEFAULTS, **given}
        self.name = f"{given.get('host', 'localhost')}/{given.get('dbname', given.get('user', ''))}"
        """For people, without a password."""

    def rows(self, query: Composable | str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any.

        Raises:
            SourceUnavailable: no answer, or nobody is let in.
            TooSlow: not in time.
            NotAllowed: the role lacks a right.
            psycopg2.Error: anything else that the server has against it.
        """
        with self._meanings(), self._open().cursor() as cursor:
            cursor.execute(query, values or None)
            return [] if cursor.description is None else cursor.fetchall()

    def stream(self) -> LogicalReplicationConnection:
        """A new connection for a replication stream.

        Raises:
            SourceUnavailable, NotAllowed: as for :meth:`rows`.
        """
        with self._meanings():
            dsn = make_dsn(**{**self._options, **self._password()})
            return psycopg2.connect(dsn, connection_factory=LogicalReplicationConnection)

    @property
    def connected(self) -> bool:
        """False before the first statement, and after a connection was lost: the next one can lead elsewhere."""
        with self._lock:
            return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        """For good; from any thread. A statement that runs is waited for, up to its timeout."""
        with self._lock:
            self._closed = True
            opened, self._connection = self._connection, None
        _end(opened)

    def _open(self) -> connection:
        with self._lock:
            if self._closed:
                raise SourceUnavailable(f"{self.name}: the source is closed")
            found = self._connection
        if found is None or found.closed:
            milliseconds = int(self._timeout * 1000)
            options = f"{self._options['options']} -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
            found = psycopg2.connect(make_dsn(**{**self._options, **self._password(), "options": options}))
            found.autocommit = True
            with self._lock:
                self._connection = found
                closed = self._closed
            if closed:
                _end(found)
        return found

    def _password(self) -> dict[str, str]:
        """What the file says now, for it can be another by then; nothing where there is none.

        Raises:
            SourceUnavailable: it cannot be read.
        """
        if self._password_file is None:
            return {}
        try:
            return {"password": self._password_file.read_text().rstrip("\r\n")}
        except (OSError, UnicodeDecodeError) as error:
            raise SourceUnavailable(f"{self._place}.password_file: {error}") from None

    @contextmanager
    def _meanings(self) -> Iterator[None]:
        try:
            yield
        except psycopg2.errors.InsufficientPrivilege as error:
            raise NotAllowed(
                f"{self._place}: PostgreSQL refuses: {_text(error)}", "docs/connectors.md has the rights that it needs"
            ) from None
        except psycopg2.errors.QueryCanceled:
            raise TooSlow(f"{self.name}: no answer within {self._timeout:g} s") from None
        except psycopg2.errors.ProgramLimitExceeded:
            raise  # of this statement's values, and not of the server's state
        except psycopg2.errors.ReadOnlySqlTransaction as error:
            raise SourceUnavailable(f"{self.name}: {_text(error)}; give the address of the primary") from None
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            text = _text(error)
            if error.pgcode is None and any(one in text for one in _NO_REPLICATION):
                raise NotAllowed(
                    f"{self._place}: PostgreSQL refuses: {text}", "docs/connectors.md has the rights that it needs"
                ) from None
            with self._lock:
                lost, self._connection = self._connection, None
            _end(lost)
            if error.pgcode is None and any(one in text for one in _REFUSALS):
                # Waited out: passwords are exchanged, and roles and databases restored, while this runs.
                raise SourceUnavailable(
                    f"{self._place}: PostgreSQL lets nobody in: {text}: see url, password_file and pg_hba.conf"
                ) from None
            raise SourceUnavailable(f"{self.name}: {text}") from None


def _end(opened: connection | None) -> None:
    if opened is not None:
        with suppress(psycopg2.Error):
            opened.close()


def _text(error: psycopg2.Error) -> str:
    """One line of it."""
    return " ".join(str(error).split())
