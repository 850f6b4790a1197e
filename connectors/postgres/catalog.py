"""What the settings ask for, held against the database's catalog: every mistake is named, with what to do."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import psycopg2

from connectors.postgres.server import Server
from connectors.postgres.settings import PostgresSettings, TableSettings
from connectors.postgres.tables import Column, Table
from connectors.templates import fields_of
from connectors.texts import reading
from pipeline.errors import ConfigError, Fatal, SourceUnavailable
from pipeline.identity import canonical_json

#: Raised with what a document is made of: then every row is read again.
_VERSION: Final = 1
_TEXTS: Final = "S"


def identity(server: Server) -> str:
    """The database as it is now: another one after a restore or a failover, for then numbers of
    transactions and places in the WAL are used again.

    Raises:
        SourceUnavailable: no answer, or a standby.
        Fatal: it cannot be followed as it is set up.
    """
    ((standby, version, level),) = server.rows(
        "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int, current_setting('wal_level')"
    )
    if version < 140000:
        raise Fatal(f"{server.name}: PostgreSQL {version // 10000} is too old", "14 or later is needed")
    if level != "logical":
        raise Fatal(
            f"{server.name}: wal_level is {level}",
            "set wal_level = logical in postgresql.conf and restart the server (managed ones have a parameter for it)",
        )
    if standby:
        # Waited out: in a failover, the address can lead to what is only about to become the primary.
        raise SourceUnavailable(f"{server.name} is a standby: url must lead to the primary")
    ((system, timeline),) = server.rows(
        "SELECT system_identifier::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system()"
    )
    return f"{system}-{timeline}"


def resolve(server: Server, source_id: str, settings: PostgresSettings, database: str) -> list[Table]:
    """The tables of the settings.

    Args:
        server: that has them.
        source_id: for the texts of errors.
        settings: of the source.
        database: its :func:`identity`.

    Raises:
        SourceUnavailable: no answer.
        Fatal: a table or column is not there, or does not suit; names it and says what to do.
    """
    return [
        _Table(server, f"sources.{source_id}.tables.{name}", name, one, database).resolved()
        for name, one in settings.tables.items()
    ]


class _Table:
    def __init__(self, server: Server, place: str, name: str, settings: TableSettings, database: str) -> None:
        self._server = server
        self._place = place
        self._name = name
        self._settings = settings
        self._database = database
        self._columns: dict[str, Column] = {}
        self._required: set[str] = set()
        self._generated: set[str] = set()

    def resolved(self) -> Table:
        settings = self._settings
        oid, schema, relation, kind = self._relation()
        self._read_columns(oid)
        key = tuple(self._column(name, "key") for name in self._key(oid))
        for one in key:
            if one.name in self._generated:
                raise ConfigError(
                    f"{self._place}.key: column {one.name} is generated, and PostgreSQL does not replicate such",
                    "name the columns of another unique index",
                )
        self._check_identity(oid, kind, [one.name for one in key])
        named = fields_of(settings.text)
        keys = {one.name for one in key}
        texts = [one.name for one in self._columns.values() if one.category == _TEXTS and one.name not in keys]
        fields = tuple(self._column(name, "text") for name in (named or texts))
        if not fields:
            raise ConfigError(f"{self._place}: it has no column of a text type", "give a template in text")
        for name in settings.metadata:
            self._column(name, "metadata")
        if settings.event_time:
            self._column(settings.event_time, "event_time")
        deleted = self._column(settings.deleted, "deleted") if settings.deleted else None
        used = [
            self._columns[name] for name in dict.fromkeys([*(one.name for one in (*key, *fields)), *settings.metadata])
        ]
        facts = [
            _VERSION,
            self._database,
            settings.model_dump(mode="json"),
            [[one.name, one.type] for one in used],
            *reading(settings.media_type),
        ]
        table = Table(
            name=self._name,
            oid=oid,
            schema=schema,
            relation=relation,
            key=key,
            fields=fields,
            settings=settings,
            fingerprint=hashlib.blake2b(canonical_json(facts), digest_size=6).hexdigest(),
            deleted=deleted,
            partitioned=kind == "p",
        )
        try:
            table.check(self._server)
        except psycopg2.Error as error:
            raise ConfigError(f"{self._place}: {' '.join(str(error).split())}", "see where and event_time") from None
        return table

    def _relation(self) -> tuple[int, str, str, str]:
        try:
            rows = self._server.rows(
                "SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relpersistence::text "
                "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)",
                [self._name],
            )
        except psycopg2.Error as error:  # not a name
            raise ConfigError(f"{self._place}: {' '.join(str(error).split())}", "write it as in SQL") from None
        if not rows:
            raise ConfigError(
                f"{self._place}: there is no such table in {self._server.name} that this role may see",
                "correct the name, with its schema where it is not in the search path",
            )
        oid, schema, relation, kind, persistence = rows[0]
        if kind not in ("r", "p") or persistence != "p":
            raise ConfigError(
                f"{self._place} is no table whose changes PostgreSQL replicates",
                "views, foreign, temporary and unlogged tables cannot be followed: name the table below a view",
            )
        return oid, schema, relation, kind

    def _read_columns(self, oid: int) -> None:
        rows = self._server.rows(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), t.typcategory::text, a.attnotnull, "
            "a.attgenerated <> '' "
            "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
            "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            [oid],
        )
        self._columns = {name: Column(name, type_, category) for name, type_, category, _, _ in rows}
        self._required = {name for name, _, _, required, _ in rows if required}
        self._generated = {name for name, _, _, _, generated in rows if generated}

    def _column(self, name: str, setting: str) -> Column:
        found = self._columns.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._columns)}"
            raise ConfigError(
                f"{self._place}.{setting}: table {self._name} has no column {name!r}; {hint}",
                "correct the setting, or put the column back; nothing is deleted meanwhile",
            )
        return found

    def _key(self, oid: int) -> Sequence[str]:
        indexes = self._server.rows(
            "SELECT i.indisprimary, ARRAY(SELECT a.attname::text "
            "FROM unnest(i.indkey[:i.indnkeyatts - 1]) WITH ORDINALITY AS k (number, place) "
            "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY k.place) "
            "FROM pg_index i WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate "
            "AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indisprimary DESC",
            [oid],
        )
        chosen = self._settings.key
        if not chosen:
            if indexes and indexes[0][0]:
                return list(indexes[0][1])
            raise ConfigError(
                f"{self._place}.key: table {self._name} has no primary key", "give key = [columns of a unique index]"
            )
        for name in chosen:
            self._column(name, "key")
        if not any(set(chosen) == set(columns) for _, columns in indexes) or not set(chosen) <= self._required:
            raise ConfigError(
                f"{self._place}.key: no unique index has exactly the columns {', '.join(chosen)}, all of them NOT NULL",
                "name the columns of one, or make one",
            )
        return chosen

    def _check_identity(self, oid: int, kind: str, key: Iterable[str]) -> None:
        """Of a row that is deleted the log must have the key: of a partitioned table, in each partition."""
        leaves = "SELECT relid FROM pg_partition_tree(%s::oid) WHERE isleaf" if kind == "p" else "SELECT %s::oid"
        rows = self._server.rows(
            "SELECT c.oid::regclass::text, c.relreplident::text, ARRAY(SELECT a.attname::text FROM pg_index i "  # noqa: S608 - constants
            "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) WHERE i.indrelid = c.oid "
            "AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END) "
            f"FROM pg_class c WHERE c.oid IN ({leaves})",
            [oid],
        )
        for name, identity_, columns in rows:
            if identity_ != "f" and not set(key) <= set(columns):
                raise ConfigError(
                    f"{self._place}: of a deleted row of {name}, PostgreSQL does not log the key ({', '.join(key)})",
                    f"ALTER TABLE {name} REPLICA IDENTITY USING INDEX name of its unique index; or FULL",
                )
