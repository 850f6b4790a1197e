"""Parts of the postgres connector that need no server: messages, keys, settings, snapshots."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.keys import escaped, key_of, path_of
from connectors.postgres import connector, settings_of
from connectors.postgres.catalog import identity
from connectors.postgres.pgoutput import Begin, Changed, Commit, Decoder, Malformed, Truncated
from connectors.postgres.settings import PostgresSettings
from connectors.postgres.slot import Snapshot, lsn_of, lsn_text
from connectors.settings import parse
from pipeline.errors import ConfigError, Fatal, SourceUnavailable

# ------------------------------------------------------------------------------------ messages

TABLE = 16385


def relation(oid: int = TABLE, *names: str) -> bytes:
    columns = b"".join(b"\0" + name.encode() + b"\0" + struct.pack(">Ii", 25, -1) for name in names)
    return b"R" + struct.pack(">I", oid) + b"public\0t\0d" + struct.pack(">h", len(names)) + columns


def row(*values: str | type[Ellipsis] | None) -> bytes:  # type: ignore[valid-type]
    def column(value: Any) -> bytes:
        if value is None:
            return b"n"
        if value is ...:
            return b"u"
        return b"t" + struct.pack(">I", len(value.encode())) + value.encode()

    return struct.pack(">h", len(values)) + b"".join(map(column, values))


def change(kind: bytes, *parts: bytes, oid: int = TABLE) -> bytes:
    return kind + struct.pack(">I", oid) + b"".join(parts)


@pytest.fixture
def decoder() -> Decoder:
    one = Decoder({TABLE: ["b", "a"]})
    assert one.decode(relation(TABLE, "a", "body", "b")) is None
    return one


def test_the_frame_of_a_transaction(decoder: Decoder) -> None:
    assert decoder.decode(b"B" + struct.pack(">qqI", 5, 1_500_000, 7)) == Begin(7, 946684801.5)
    assert decoder.decode(b"C" + struct.pack(">bQQq", 0, 5, 1 << 40, 0)) == Commit(1 << 40)
    assert decoder.decode(b"O" + bytes(9)) is None


@pytest.mark.parametrize(
    ("message", "keys"),
    [
        (change(b"I", b"N", row("1", "text", "x/ü")), (("x/ü", "1"),)),
        (change(b"U", b"N", row("1", ..., "x")), (("x", "1"),)),
        (change(b"U", b"K", row("1", None, "x"), b"N", row("2", ..., "x")), (("x", "1"), ("x", "2"))),
        (change(b"U", b"O", row("1", "old", "x"), b"N", row("1", "new", "x")), (("x", "1"),)),
        (change(b"D", b"K", row("1", None, "x")), (("x", "1"),)),
        # A long key that did not change is not sent with the new row, only with the old one.
        (change(b"U", b"K", row("1", None, "x"), b"N", row("1", "t", ...)), (("x", "1"),)),
        (change(b"U", b"N", row("1", "t", ...)), ()),
    ],
)
def test_the_keys_of_a_change(decoder: Decoder, message: bytes, keys: tuple[tuple[str, ...], ...]) -> None:
    assert decoder.decode(message) == Changed(TABLE, keys)


def test_columns_that_move_are_found_again(decoder: Decoder) -> None:
    decoder.decode(relation(TABLE, "new", "b", "a"))
    assert decoder.decode(change(b"I", b"N", row("0", "x", "1"))) == Changed(TABLE, (("x", "1"),))


def test_tables_of_others_say_nothing(decoder: Decoder) -> None:
    assert decoder.decode(relation(9, "id")) is None
    assert decoder.decode(change(b"I", b"N", row("1"), oid=9)) is None
    assert decoder.decode(b"T" + struct.pack(">Ib", 3, 0) + struct.pack(">3I", 8, TABLE, 9)) == Truncated((TABLE,))


def test_bytes_that_are_no_message_are_refused_and_nothing_else_is_raised(decoder: Decoder) -> None:
    """Every message cut anywhere, and noise."""
    whole = [
        relation(TABLE, "a", "body", "b"),
        change(b"U", b"K", row("1", None, "x"), b"N", row("2", ..., "ü")),
        b"B" + struct.pack(">qqI", 5, 1_500_000, 7),
        b"T" + struct.pack(">Ib", 1, 0) + struct.pack(">I", TABLE),
    ]
    chance = random.Random(7)
    noise = [bytes(chance.randrange(256) for _ in range(chance.randrange(40))) for _ in range(3000)]
    refused = 0
    for data in [one[:end] for one in whole for end in range(len(one))] + noise:
        try:
            decoder.decode(data)
        except Malformed:
            refused += 1
    assert refused > 2000


# ---------------------------------------------------------------------------------------- keys


@given(st.text(min_size=1), st.lists(st.text(), min_size=1, max_size=4))
def test_a_key_survives_its_path(table: str, key: list[str]) -> None:
    path = path_of(table, key)
    assert key_of(path) == (table, tuple(key))
    assert path.count("/") == len(key)
    assert "//" not in path
    assert not any(part in ("", ".", "..") for part in path.split("/"))


@given(st.text(max_size=20))
def test_a_path_that_is_no_row_s_is_none(path: str) -> None:
    found = key_of(path)
    assert found is None or path_of(*found) == path


def test_what_is_below_a_table_is_its_rows() -> None:
    """The hint of a truncation is the table: no other table's rows begin so."""
    assert escaped("a/b") == "a%2Fb"
    assert path_of("a", ["b"]) == "a/b"


# ----------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize(
    ("limit", "running", "xid", "seen"),
    [
        (100, (), 99, True),
        (100, (), 100, False),
        (100, (97,), 97, False),
        (100, (97,), 98, True),
        ((3 << 32) + 5, (), 4, True),
        ((3 << 32) + 5, (), 6, False),
        ((3 << 32) + 5, (), (1 << 32) - 3, True),  # before the numbers wrapped
        ((3 << 32) + 5, ((3 << 32) - 3,), (1 << 32) - 3, False),
        ((3 << 32) - 2, (), 1, False),  # after they will
    ],
)
def test_a_snapshot_sees_what_has_ended(limit: int, running: tuple[int, ...], xid: int, seen: bool) -> None:
    assert Snapshot(0, limit, frozenset(running)).sees(xid) is seen


@pytest.mark.parametrize("text", ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"])
def test_a_place_in_the_wal_is_a_number(text: str) -> None:
    assert lsn_text(lsn_of(text)) == text


# ------------------------------------------------------------------------------------ settings

URL = "postgres://u:hunter2@h/d"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "sources.s.url: Field required"),
        ({"url": URL}, "sources.s.tables: Field required"),
        ({"url": URL, "tables": {}}, "sources.s.tables"),
        ({"url": URL, "tables": {"t": {"txt": "x"}}}, "unknown key 'sources.s.tables.t.txt'"),
        ({"url": URL, "tables": {"t": {"text": "no column"}}}, "names no column"),
        ({"url": URL, "tables": {"t": {"text": "{a.b!r}"}}}, "sources.s.tables.t.text"),
        ({"url": URL, "tables": {"t": {"text": "{"}}}, "sources.s.tables.t.text"),
        ({"url": URL, "tables": {"t": {}}, "slot": "Not-a-slot"}, "lower-case letters"),
        ({"url": "postgres://u:hunter2@[", "tables": {"t": {}}}, "sources.s.url is no address"),
    ],
)
def test_wrong_settings_are_named_and_no_password_is_shown(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        connector("s", settings, 1000)
    assert said in str(error.value)
    assert "hunter2" not in str(error.value)


def test_short_forms() -> None:
    found = parse(PostgresSettings, "s", {"url": URL, "tables": {"t": {"key": "id", "metadata": ["a", "b"]}}})
    assert found.tables["t"].key == ("id",)
    assert found.tables["t"].metadata == {"a": "a", "b": "b"}
    assert "hunter2" not in repr(found)


def test_names_are_made_of_the_source_s() -> None:
    found = parse(PostgresSettings, "s", {"url": URL, "tables": {"t": {}}})
    assert found.slot_of("Shop-1") == "vectide_shop_1"
    assert len(found.slot_of("x" * 99)) == 63
    assert found.publication_of("s") == "vectide_s"


def test_settings_of_a_uri() -> None:
    uri = (
        "postgres://u:p%40ss@h:5433/d?sslmode=require&table=articles&text=%23%20{title}&metadata=a,%20b"
        "&table=shop.items&key=x,y&where=n%20>%203&slot=mine"
    )
    found = settings_of(uri)
    assert found.pop("connector") == "postgres"
    assert found == {
        "url": "postgresql://u:p%40ss@h:5433/d?sslmode=require",
        "slot": "mine",
        "tables": {
            "articles": {"text": "# {title}", "metadata": ["a", "b"]},
            "shop.items": {"key": ["x", "y"], "where": "n > 3"},
        },
    }
    connector("s", found, 1000).close()


def test_a_uri_that_cannot_be_read_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        settings_of("postgres://u:hunter2@[h/d?table=t")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("uri", ["postgres://h/d", "postgres://h/d?text={a}&table=t"])
def test_a_uri_without_a_table_says_so(uri: str) -> None:
    with pytest.raises(ConfigError, match="table="):
        settings_of(uri)


# ---------------------------------------------------------------------------------- the server


class Saying:
    """A server that says what it is."""

    name = "db/shop"

    def __init__(self, version: int, level: str = "logical", *, standby: bool = False) -> None:
        self._answers = [[(standby, version, level)], [("7", "00000001")]]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._answers.pop(0)


@pytest.mark.parametrize("version", [140000, 150018, 160010, 170006, 180001])
def test_a_server_is_named_by_its_system_and_timeline(version: int) -> None:
    assert identity(Saying(version)) == "7-00000001"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "error", "why"),
    [
        (Saying(139999), Fatal, "PostgreSQL 13 is too old"),
        (Saying(90600), Fatal, "PostgreSQL 9 is too old"),
        (Saying(150000, "replica"), Fatal, "wal_level is replica"),
        (Saying(150000, standby=True), SourceUnavailable, "is a standby"),
    ],
)
def test_a_server_that_cannot_be_followed_is_refused(server: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        identity(server)
