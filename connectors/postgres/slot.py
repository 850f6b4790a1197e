"""Publication and replication slot: made where they are missing, and looked at."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg2.errors

from connectors.postgres.server import Server
from connectors.postgres.tables import Table
from pipeline.errors import Fatal, NotAllowed, SourceUnavailable

log = logging.getLogger(__name__)

#: Another name is quoted in SQL.
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")
_LOW_BITS: Final = 32
_VIA_ROOT: Final = "WITH (publish_via_partition_root = true)"


def lsn_of(text: str) -> int:
    """A place in the WAL, from ``16/B374D848``."""
    high, low = text.split("/")
    return int(high, 16) << _LOW_BITS | int(low, 16)


def lsn_text(lsn: int) -> str:
    """The inverse of :func:`lsn_of`."""
    return f"{lsn >> _LOW_BITS:X}/{lsn & ((1 << _LOW_BITS) - 1):X}"


class Publication:
    """What the stream tells of.

    Args:
        server: that has it.
        name: its name.
        create: make it, and add tables to it, where that is missing.
    """

    def __init__(self, server: Server, name: str, *, create: bool) -> None:
        self._server = server
        self._name = name
        self._create = create

    def ensure(self, tables: Sequence[Table]) -> None:
        """Have it publish these tables.

        Raises:
            SourceUnavailable: no answer.
            NotAllowed: it is missing, and this role may not make it; says what an admin is to run.
            Fatal: it leaves out what is needed.
        """
        found = self._server.rows(
            "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_publication "
            "WHERE pubname = %s",
            [self._name],
        )
        if not found:
            self._run(f"CREATE PUBLICATION {_quoted(self._name)} FOR TABLE {self._listed(tables)} {_VIA_ROOT}")
            return
        ((all_kinds, via_root),) = found
        if not all_kinds:
            raise self._wrong("leaves out kinds of changes", "SET (publish = 'insert, update, delete, truncate')")
        listed = self._published()
        for table in tables:
            columns, filtered = listed.get((table.schema, table.relation), (None, False))
            if filtered:
                raise self._wrong(
                    f"has a condition for {table.name}, so that rows leave it without a word",
                    f"SET TABLE {self._listed(tables)}",
                    "; put the condition into `where` of the settings",
                )
            if columns is not None and not {one.name for one in table.key} <= set(columns):
                raise self._wrong(f"leaves the key of {table.name} out", f"SET TABLE {self._listed(tables)}")
        if not via_root and any(one.partitioned for one in tables):
            raise self._wrong("names partitions and not their table", "SET (publish_via_partition_root = true)")
        missing = [one for one in tables if (one.schema, one.relation) not in listed]
        if missing:
            self._run(f"ALTER PUBLICATION {_quoted(self._name)} ADD TABLE {self._listed(missing)}")

    def identity(self, tables: Sequence[Table]) -> str:
        """Another one once it or a table of it was made anew: what happened between is in no stream.

        Raises:
            SourceUnavailable: no answer.
        """
        rows = self._server.rows(
            "SELECT p.oid::bigint, r.oid::bigint FROM pg_publication p LEFT JOIN pg_publication_rel r "
            "ON r.prpubid = p.oid AND r.prrelid = ANY (%s::oid[]) WHERE p.pubname = %s ORDER BY 2",
            [[one.oid for one in tables], self._name],
        )
        return repr(rows)

    def _published(self) -> dict[tuple[str, str], tuple[list[str] | None, bool]]:
        """Tables, with the columns that are published (None: not said) and whether only some rows are."""
        rows = self._server.rows(
            "SELECT schemaname, tablename, to_jsonb(t) -> 'attnames', to_jsonb(t) ->> 'rowfilter' IS NOT NULL "
            "FROM pg_publication_tables t WHERE pubname = %s",
            [self._name],
        )
        return {(schema, table): (columns, filtered) for schema, table, columns, filtered in rows}

    def _listed(self, tables: Sequence[Table]) -> str:
        # Whole rows: with a list of columns, PostgreSQL refuses every UPDATE of a table once its replica
        # identity has another one.
        return ", ".join(f"{_quoted(one.schema)}.{_quoted(one.relation)}" for one in tables)

    def _run(self, statement: str) -> None:
        what = f"{self._server.name}: publication {self._name} does not have all tables"
        if not self._create:
            raise NotAllowed(what, f"have an admin run: {statement}")
        try:
            self._server.rows(statement)
        except NotAllowed as error:
            raise NotAllowed(f"{what}, and: {error.what}", f"have an admin run: {statement}") from None
        except psycopg2.errors.DuplicateObject:
            return  # another process was faster
        log.debug("publication changed", extra={"statement": statement})

    def _wrong(self, what: str, change: str, more: str = "") -> Fatal:
        return Fatal(
            f"{self._server.name}: publication {self._name} {what}",
            f"have an admin run: ALTER PUBLICATION {_quoted(self._name)} {change}{more}",
        )


@dataclass(frozen=True, slots=True)
class SlotState:
    """A replication slot as it is."""

    confirmed: int
    """The LSN up to which nothing is sent any more."""
    kept: int
    """Bytes of WAL that the server keeps for it."""
    lost: bool
    """The server has thrown away what it needs."""
    threatened: bool
    """It is over the server's limit, and can be lost at the next checkpoint."""


class Slot:
    """The server's memory of how far this source is.

    Args:
        server: that has it.
        name: its name.
        create: make it, and make it anew, where that is needed.
    """

    def __init__(self, server: Server, name: str, *, create: bool) -> None:
        self._server = server
        self._name = name
        self._create = create

    def state(self) -> SlotState | None:
        """None: there is no such slot.

        Raises:
            SourceUnavailable: no answer.
            Fatal: it is somebody else's.
        """
        rows = self._server.rows(
            "SELECT plugin, database = current_database(), confirmed_flush_lsn::text, wal_status, "
            "coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint "
            "FROM pg_replication_slots WHERE slot_name = %s",
            [self._name],
        )
        if not rows:
            return None
        ((plugin, here, confirmed, status, kept),) = rows
        if plugin != "pgoutput" or not here:
            raise Fatal(
                f"{self._server.name}: replication slot {self._name} is of another database or plugin",
                "give another name in slot",
            )
        lost = status == "lost" or confirmed is None
        return SlotState(0 if lost else lsn_of(confirmed), int(kept), lost, status == "unreserved")

    def make(self) -> int:
        """Make it, in place of a lost one.

        Returns:
            A transaction that began after it: of older ones that have not ended, the slot may not tell,
            and what they wrote is seen only later.

        Raises:
            SourceUnavailable: no answer, or transactions that are older than it do not end.
            NotAllowed: this role may not, or is not to.
        """
        if not self._create:
            raise NotAllowed(
                f"{self._server.name}: replication slot {self._name} is missing or lost",
                f"have an admin run: SELECT pg_create_logical_replication_slot('{self._name}', 'pgoutput')",
            )
        self._server.rows(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
            [self._name],
        )
        try:
            self._server.rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self._name])
        except psycopg2.errors.DuplicateObject:
            raise SourceUnavailable(
                f"{self._server.name}: replication slot {self._name} is in use by another process"
            ) from None
        except SourceUnavailable as error:
            raise SourceUnavailable(
                f"{error}; a slot is made only once all transactions that are under way have ended"
            ) from None
        ((xid,),) = self._server.rows("SELECT pg_current_xact_id()::text::bigint")
        return int(xid)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a statement sees that begins now."""

    oldest: int
    """All transactions below have ended."""
    limit: int
    """Transactions from here on had not begun."""
    running: frozenset[int]
    """Those below that had not ended."""

    @classmethod
    def of(cls, server: Server) -> Snapshot:
        """The server's, now."""
        ((text,),) = server.rows("SELECT pg_current_snapshot()::text")
        oldest, limit, running = str(text).split(":")
        return cls(int(oldest), int(limit), frozenset(int(one) for one in running.split(",") if one))

    def sees(self, xid: int) -> bool:
        """Whether it sees what a transaction wrote that has committed; of its number, the low 32 bits."""
        # The one of all with these bits that is nearest: no two that are alive are further apart.
        span = 1 << _LOW_BITS
        whole = self.limit + (xid - self.limit + span // 2) % span - span // 2
        return whole < self.limit and whole not in self.running


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'
