"""One table: its rows as documents, read by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg2
from psycopg2.sql import SQL, Composable, Identifier

from connectors.extraction import Extracted
from connectors.keys import LIMIT_BYTES, path_of
from connectors.postgres.server import Server, TooSlow
from connectors.postgres.settings import TableSettings
from connectors.texts import bounded
from pipeline.errors import Poison, Transient
from pipeline.identity import MetadataValue, content_hash
from pipeline.ports import Fetched, Listed

#: Rows of one statement of a scan: no transaction is open for longer than it takes.
_PAGE: Final = 5000
_INTEGER_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class Column:
    """Of a table."""

    name: str
    type: str
    """As SQL has it, with its length."""
    category: str = ""
    """PostgreSQL's: A for arrays, B for booleans, S for texts."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the catalog has it, and what it is to be."""

    name: str
    """As the settings have it, and the first part of its documents' paths."""
    oid: int
    schema: str
    relation: str
    key: tuple[Column, ...]
    fields: tuple[Column, ...]
    """Of the text, in order."""
    settings: TableSettings
    fingerprint: str
    """Another one whenever the same row can be another document."""
    deleted: Column | None = None
    partitioned: bool = False

    @property
    def sql(self) -> Composable:
        """What a statement reads: of a table that others inherit from, not their rows, for the stream has those
        as of other tables.
        """
        return SQL("{}{}").format(
            SQL("" if self.partitioned else "ONLY "),
            SQL(".").join([Identifier(self.schema), Identifier(self.relation)]),
        )

    def scan(self, server: Server) -> Iterator[Listed | str | None]:
        """Every row's path and revision, in order of keys; instead, the path of a row that is too long for one.
        None after each statement.

        The content is not read. Each page is a statement of its own, so that nothing holds back
        vacuum: what changes between two of them is in the stream. A row for which the condition cannot be
        computed is listed: :meth:`fetch` says what is wrong with it, and it does not count as deleted.
        """
        after: tuple[str, ...] | None = None
        size = _PAGE
        while True:
            try:
                rows = self._page(server, after, size, self._documents())
            except (psycopg2.Error, TooSlow) as error:
                if isinstance(error, psycopg2.Error) and not _of_values(error):
                    raise
                # Its first row alone: without the condition, the server answers, or has a trouble of its own.
                alone = self._page(server, after, 1, SQL("true"))
                yield None
                if size > 1:
                    size = 1
                    continue
                rows = alone
            yield None
            for *key, xmin, document in rows:
                if document:
                    path = path_of(self.name, key)
                    within = len(path.encode()) <= LIMIT_BYTES
                    yield Listed(path, self._revision(xmin)) if within else path
            if len(rows) < size:
                return
            after = tuple(rows[-1][:-2])
            size = min(2 * size, _PAGE)

    def _page(
        self, server: Server, after: tuple[str, ...] | None, size: int, condition: Composable
    ) -> list[tuple[Any, ...]]:
        """Key, xmin and whether the condition holds, of the rows behind a key: however few it holds for,
        no statement reads more of the table than a page.
        """
        # What is volatile is computed after rows are sorted and cut off: of no row beyond the page.
        query = SQL(
            "SELECT {shown}, xmin::text, CASE WHEN random() >= 0 THEN {condition} END "
            "FROM {table} WHERE {behind} ORDER BY {keys} LIMIT {page}"
        ).format(
            shown=self._shown(),
            condition=condition,
            table=self.sql,
            behind=SQL("true") if after is None else self._after(),
            keys=SQL(", ").join(self._keys()),
            page=SQL("%s"),
        )
        return server.rows(query, [*(after or ()), size])

    def fetch(self, server: Server, key: Sequence[str], limit: int) -> Fetched | None:
        """The row now.

        Args:
            server: that has it.
            key: of the row, as text.
            limit: bytes of its text, and of its metadata; what is longer is not read.

        Raises:
            Poison: its metadata are over the limit, it is not Unicode, or HTML that nobody can read.
            Transient: the condition, or a column, cannot be computed for it.
        """
        path = path_of(self.name, key)
        if len(key) != len(self.key) or any("\0" in part for part in key) or len(path.encode()) > LIMIT_BYTES:
            return None
        names, fields = list(self.settings.metadata), [one.name for one in self.fields]
        query = SQL(
            "SELECT {shown}, xmin::text, {size}, CASE WHEN {size} <= {limit} THEN {text} END, "
            "CASE WHEN {size} > {limit} THEN md5(ROW({content})::text) END, "
            "{bytes}, CASE WHEN {bytes} <= {limit} THEN {metadata} END, {time} "
            "FROM {table} WHERE {condition} AND {one}"
        ).format(
            shown=self._shown(),
            size=_size(fields),
            limit=SQL(str(limit)),
            text=SQL("ARRAY[{}]::text[]").format(SQL(", ").join(map(_written, self.fields))),
            content=SQL(", ").join(map(Identifier, fields)),
            bytes=_size(names),
            metadata=_json(names),
            time=self._time(),
            table=self.sql,
            condition=self._documents(),
            one=SQL(" AND ").join(
                SQL("{} = {}").format(name, value) for name, value in zip(self._keys(), self._values(), strict=True)
            ),
        )
        try:
            rows = server.rows(query, key)
        except TooSlow as error:
            self._page(server, None, 1, SQL("true"))  # the server answers: it is this row
            raise Transient(f"row {path}: {error}") from None
        except psycopg2.Error as error:
            if not _of_values(error):
                raise
            if isinstance(error, psycopg2.DataError) and not self._is_key(server, key):
                return None
            raise Transient(f"row {path}: {' '.join(str(error).split())}") from None
        except UnicodeDecodeError as error:
            raise Poison("not_unicode", f"the row is not UTF-8: {error}") from None
        found = [row for row in rows if tuple(row[: len(key)]) == tuple(key)]
        if not found:
            return None  # none, or one that writes its key in another way
        xmin, size, content, digest, metadata_size, metadata, at = found[0][len(key) :]
        if metadata is None:
            raise Poison("bad_metadata", f"{metadata_size} bytes of metadata, over the limit of {limit}")
        read = Extracted("", self.settings.media_type)
        if content is not None:
            read, size = bounded(self._text(content), self.settings.media_type, limit)
        within = content is not None and size <= limit
        if within:
            digest = content_hash(read.text)
        else:
            digest = digest or hashlib.blake2b(read.text.encode(), digest_size=16).hexdigest()
        return Fetched(
            path=path,
            revision=self._revision(xmin),
            text=read.text if within else None,
            digest=digest,
            media_type=read.media_type,
            metadata={**read.metadata, **self._metadata(json.loads(metadata))},
            event_time=at or 0.0,
            size=size,
            omitted="" if within else f"{size} bytes, over the limit of {limit}",
        )

    def columns(self) -> list[str]:
        """All that are read."""
        settings = self.settings
        more = [name for name in (settings.event_time, settings.deleted) if name]
        named = (one.name for one in (*self.key, *self.fields))
        return list(dict.fromkeys([*named, *settings.metadata, *more]))

    def check(self, server: Server) -> None:
        """Run the statements of :meth:`scan` and :meth:`fetch` over no row: a condition can be wrong.

        Raises:
            psycopg2.Error: what the server has against them.
        """
        names = SQL(", ").join(map(Identifier, self.columns()))
        query = SQL("SELECT {}, {}, xmin FROM {} WHERE {} LIMIT %s")
        server.rows(query.format(names, self._time(), self.sql, self._documents()), [0])

    def _is_key(self, server: Server, key: Sequence[str]) -> bool:
        """Whether these are values of the key's types at all."""
        try:
            server.rows(SQL("SELECT {}").format(SQL(", ").join(self._values())), key)
        except psycopg2.DataError:
            return False
        return True

    def _text(self, row: Sequence[str | None]) -> str:
        values = {one.name: value or "" for one, value in zip(self.fields, row, strict=True)}
        if self.settings.text:
            return self.settings.text.format_map(values)
        return "\n\n".join(value for value in values.values() if value)

    def _metadata(self, row: Mapping[str, Any]) -> Mapping[str, MetadataValue]:
        pairs = zip(self.settings.metadata.values(), row.values(), strict=True)
        return {name: _value(value) for name, value in pairs if value is not None}

    def _revision(self, xmin: str) -> str:
        """The transaction that wrote the row, and all that makes another document of it."""
        return f"{xmin}-{self.fingerprint}"

    def _keys(self) -> list[Identifier]:
        return [Identifier(one.name) for one in self.key]

    def _shown(self) -> Composable:
        """The key as the stream has it: concat writes with a type's output function, a cast need not."""
        return SQL(", ").join(SQL("concat({})").format(name) for name in self._keys())

    def _values(self) -> list[Composable]:
        return [SQL("CAST(%s AS {})").format(SQL(one.type)) for one in self.key]

    def _time(self) -> Composable:
        name = self.settings.event_time
        return SQL("extract(epoch FROM {})::float8").format(Identifier(name)) if name else SQL("NULL::float8")

    def _after(self) -> Composable:
        return SQL("({}) > ({})").format(SQL(", ").join(self._keys()), SQL(", ").join(self._values()))

    def _documents(self) -> Composable:
        """What holds for rows that are documents."""
        conditions: list[Composable] = [SQL("true")]
        if self.settings.where:
            conditions.append(SQL("({})").format(SQL(self.settings.where.replace("%", "%%"))))
        if self.deleted is not None:
            form = "{} IS NOT TRUE" if self.deleted.category == "B" else "{} IS NULL"
            conditions.append(SQL(form).format(Identifier(self.deleted.name)))
        return SQL(" AND ").join(conditions)


def _of_values(error: psycopg2.Error) -> bool:
    """Whether another row could be read: a statement about a table that changed, or an answer that is not
    understood, concerns all of them. (An outage is no :class:`psycopg2.Error` any more here.)
    """
    return error.pgcode is not None and not isinstance(error, psycopg2.ProgrammingError)


def _size(names: Sequence[str]) -> Composable:
    """Bytes of columns as text. Of a text that is stored apart, its length is read and not the text."""
    sizes = [SQL("coalesce(octet_length({}::text), 0)").format(Identifier(name)) for name in names]
    return SQL("({})").format(SQL(" + ").join(sizes)) if sizes else SQL("0")


def _written(column: Column) -> Composable:
    """A column in a text."""
    form = "array_to_string({}, ', ')" if column.category == "A" else "{}::text"
    return SQL(form).format(Identifier(column.name))


def _json(names: Sequence[str]) -> Composable:
    """Columns as a JSON object, in order: their types are there, and no session's formats."""
    if not names:
        return SQL("'{{}}'").format()
    # A function takes 100 arguments, a row 1,600 columns. A name can be twice in it only under another one.
    pairs = [SQL("{} AS {}").format(Identifier(name), Identifier(f"c{at}")) for at, name in enumerate(names)]
    return SQL("row_to_json((SELECT r FROM (SELECT {}) AS r))::text").format(SQL(", ").join(pairs))


def _value(value: Any) -> MetadataValue:
    """A value of JSON as metadata."""
    match value:
        case bool() | str() | float():
            return value
        case int():
            return value if value.bit_length() <= _INTEGER_BITS else str(value)
        case list() if not any(isinstance(one, list | dict) for one in value):
            return [one if isinstance(one, str) else json.dumps(one) for one in value if one is not None]
    return json.dumps(value, ensure_ascii=False)
