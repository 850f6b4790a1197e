"""The postgres connector on a real server: least rights, and a word on what is wrong and what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from connectors.postgres.source import PostgresSource
from connectors.runner import RunnerLimits
from pipeline.cli.main import cli
from pipeline.errors import ConfigError, Fatal, NotAllowed, SourceUnavailable
from pipeline.ports import Expired, Fetched, Hint, Skipped, without_pauses
from tests.support.postgres import PostgresServer
from tests.support.sources import Documents, running
from tests.support.tables import Tables, tables

LIMITS = RunnerLimits(position_seconds=0.0, hints_seconds=0.05)


@pytest.fixture(scope="module")
def shop(postgres: PostgresServer) -> Iterator[Tables]:
    """Tables with something wrong about each, and one without."""
    statements = (
        "CREATE TABLE good (id int PRIMARY KEY, body text, at timestamptz, n int)",
        "INSERT INTO good VALUES (1, 'text', now(), 1)",
        "CREATE TABLE keyless (id int, other int, body text)",
        "CREATE UNIQUE INDEX ON keyless (other)",
        "CREATE TABLE textless (id int PRIMARY KEY)",
        "CREATE TABLE slugs (id int PRIMARY KEY, slug text NOT NULL UNIQUE, body text)",
        "CREATE VIEW seen AS SELECT * FROM good",
        "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, body text)",
        "CREATE TABLE made (id int, code text GENERATED ALWAYS AS ('c' || id::text) STORED PRIMARY KEY, body text)",
        'CREATE TABLE "Odd name" ("The Key" text PRIMARY KEY, "The ""Body""" text)',
    )
    with tables(postgres, "shop", *statements) as one:
        yield one


@pytest.mark.parametrize(
    ("table", "settings", "said"),
    [
        ("absent", {}, "there is no such table"),
        ("not a name", {}, "write it as in SQL"),
        ("seen", {}, "is no table whose changes"),
        ("unlogged", {}, "is no table whose changes"),
        ("keyless", {}, "keyless has no primary key"),
        ("keyless", {"key": ["other"]}, "no unique index has exactly the columns other, all of them NOT NULL"),
        ("good", {"key": ["body"]}, "no unique index has exactly"),
        ("slugs", {"key": "slug"}, "ALTER TABLE slugs REPLICA IDENTITY USING INDEX"),
        ("made", {}, "tables.made.key: column code is generated"),
        ("textless", {}, "no column of a text type"),
        ("good", {"text": "{boddy}"}, "tables.good.text: table good has no column 'boddy'; did you mean 'body'?"),
        ("good", {"metadata": ["x"]}, "no column 'x'; there are id, body, at, n"),
        ("good", {"event_time": "when"}, "tables.good.event_time"),
        ("good", {"event_time": "body"}, "event_time"),
        ("good", {"deleted": "gone"}, "tables.good.deleted"),
        ("good", {"where": "bdy = 1"}, 'column "bdy" does not exist'),
        ("good", {"where": "body ="}, "syntax error"),
    ],
)
def test_a_wrong_table_is_named_with_what_to_do(shop: Tables, table: str, settings: dict[str, Any], said: str) -> None:
    source = shop.source(tables={table: settings})
    with pytest.raises(ConfigError) as error:
        list(source.scan())
    assert said in str(error.value)
    assert f"sources.m.tables.{table}" in str(error.value)
    source.close()


def test_a_name_in_quotes_is_a_name(shop: Tables) -> None:
    shop.execute("INSERT INTO \"Odd name\" VALUES ('a \"key\" with ''quotes''', 'x')")
    source = shop.source(tables={'"Odd name"': {"text": '{The "Body"}'}}, slot="odd")
    assert source.resume(None) is False
    (listed,) = without_pauses(source.scan())
    assert source.fetch(listed.path) is not None
    source.close()


def test_a_column_that_is_dropped_while_it_is_followed_ends_the_connector_and_deletes_nothing(
    postgres: PostgresServer, fresh: str, documents: Documents, tmp_path: Path
) -> None:
    table = "CREATE TABLE pages (id int PRIMARY KEY, body text, more text)"
    row = "INSERT INTO pages VALUES (1, 'x', 'y')"
    with tables(postgres, fresh, table, row, tables={"pages": {"text": "{body}"}}) as one:
        with running(one.source(), documents, tmp_path, LIMITS) as at_work:
            at_work.wait_scanned()
            one.execute("ALTER TABLE pages ADD another text", "ALTER TABLE pages DROP more")
            one.execute("UPDATE pages SET body = 'new'")
            documents.wait_for({"pages/1": "new"})
            one.execute("ALTER TABLE pages RENAME body TO text", "UPDATE pages SET text = 'newer'")
            failure = at_work.wait_ended()
        assert isinstance(failure, ConfigError)
        assert "table pages has no column 'body'" in str(failure)
        assert documents.texts() == {"pages/1": "new"}
        one.execute("ALTER TABLE pages RENAME text TO body")
        with running(one.source(), documents, tmp_path, LIMITS):
            documents.wait_for({"pages/1": "newer"})


def test_a_changed_type_is_scanned_for(postgres: PostgresServer, fresh: str, documents: Documents) -> None:
    """A column that becomes another one writes every row anew, and tells the stream nothing."""
    table = "CREATE TABLE pages (id int PRIMARY KEY, body int)"
    settings = {"pages": {"text": "{body}"}}
    with tables(postgres, fresh, table, "INSERT INTO pages VALUES (1, 15)", tables=settings) as one:
        with running(one.source(), documents, None, LIMITS) as at_work:
            at_work.wait_scanned()
            one.execute("ALTER TABLE pages ALTER body TYPE text USING to_hex(body)")
            at_work.runner._scan_wanted = True
            documents.wait_for({"pages/1": "f"})


# ------------------------------------------------------------------------------------- rights


@pytest.fixture
def guarded(postgres: PostgresServer, fresh: str) -> Iterator[tuple[Tables, str]]:
    """A table, and a role that may nothing yet."""
    table = "CREATE TABLE pages (id int PRIMARY KEY, body text, secret text)"
    with tables(
        postgres, fresh, table, "INSERT INTO pages VALUES (1, 'x', 's')", tables={"pages": {"text": "{body}"}}
    ) as one:
        role = f"r{fresh}"
        one.execute(f"CREATE ROLE {role} LOGIN")
        yield one, role
        one.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def refused(source: PostgresSource, call: str = "resume") -> str:
    with pytest.raises(NotAllowed) as error:
        source.resume(None) if call == "resume" else source.hints(0.0)
    return str(error.value)


def test_the_documented_rights_are_enough_and_no_fewer(guarded: tuple[Tables, str]) -> None:
    """SELECT on the columns that are read, REPLICATION, and a publication that an admin has made."""
    one, role = guarded
    source = one.source(user=role)
    assert "permission denied for table pages" in refused(source)
    one.execute(f"GRANT SELECT (id, body) ON pages TO {role}")
    assert "permission denied for table pages" in refused(source)
    one.execute(f"GRANT SELECT (xmin) ON pages TO {role}")
    said = refused(source)
    assert f"have an admin run: CREATE PUBLICATION {one.slot} FOR TABLE public.pages" in said
    one.execute(said.split("have an admin run: ")[1])
    assert "replication" in refused(source)
    one.execute(f"ALTER ROLE {role} REPLICATION")
    assert source.resume(None) is False
    assert source.hints(0.0) == []
    assert [listed.path for listed in without_pauses(source.scan())] == ["pages/1"]
    one.execute("UPDATE pages SET secret = 't'")
    found = []
    while not found:
        found = source.hints(1.0)
    assert found[0].path == "pages/1"
    source.close()
    other = one.source(user=role, tables={"pages": {"text": "{body}", "metadata": ["secret"]}})
    with pytest.raises(NotAllowed, match="permission denied"):
        list(other.scan())
    other.close()


def test_where_an_admin_makes_slot_and_publication_nothing_is_made(guarded: tuple[Tables, str]) -> None:
    one, role = guarded
    one.execute(f"GRANT SELECT ON pages TO {role}", f"ALTER ROLE {role} REPLICATION")
    source = one.source(user=role, create=False)
    one.execute(refused(source).split("have an admin run: ")[1])
    one.execute(refused(source).split("have an admin run: ")[1])
    assert source.resume(None) is False
    assert source.hints(0.0) == []
    source.close()


@pytest.mark.parametrize(
    ("publication", "said"),
    [
        ("FOR TABLE pages WITH (publish = 'insert, update')", "leaves out kinds of changes"),
        ("FOR TABLE pages WHERE (id > 3)", "put the condition into `where`"),
        ("FOR TABLE parts", "publish_via_partition_root = true"),
    ],
)
def test_a_publication_that_leaves_something_out_is_refused(
    guarded: tuple[Tables, str], publication: str, said: str
) -> None:
    one, _ = guarded
    one.execute(
        "CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)",
        f"CREATE PUBLICATION {one.slot} {publication}",
    )
    source = one.source(tables={"pages": {"text": "{body}"}, "parts": {}})
    with pytest.raises(Fatal, match=said):
        source.resume(None)
    source.close()


def test_a_slot_of_another_plugin_is_left_alone(guarded: tuple[Tables, str]) -> None:
    one, _ = guarded
    one.execute(f"SELECT pg_create_logical_replication_slot('{one.slot}', 'test_decoding')")
    source = one.source()
    with pytest.raises(Fatal, match="is of another database or plugin"):
        source.resume(None)
    source.close()


def test_a_publication_that_lacks_a_table_gets_it(guarded: tuple[Tables, str]) -> None:
    one, _ = guarded
    source = one.source()
    source.resume(None)
    source.close()
    one.execute("CREATE TABLE more (id int PRIMARY KEY, body text)")
    source = one.source(tables={"pages": {"text": "{body}"}, "more": {}})
    source.resume(None)
    source.hints(0.0)
    one.execute("INSERT INTO more VALUES (1, 'x')")
    found = []
    while not found:
        found = source.hints(1.0)
    assert found[-1].path == "more/1"
    source.close()


@pytest.fixture
def passworded(guarded: tuple[Tables, str]) -> tuple[Tables, str, str]:
    """A table, and a role that may read it with its password; the role, and the URL up to the password."""
    one, role = guarded
    one.execute(
        f"ALTER ROLE {role} PASSWORD 'right-secret' REPLICATION",
        f"GRANT passworded TO {role}",
        f"GRANT SELECT ON pages TO {role}",
    )
    return one, role, f"postgres://{role}{{}}@127.0.0.1:{one.server.port}/{one.database}"


def test_a_wrong_password_is_waited_out_and_not_shown(
    passworded: tuple[Tables, str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For the queries and for the stream, each connection reads the file again."""
    one, role, url = passworded
    one.execute(f"CREATE PUBLICATION {one.slot} FOR TABLE pages")
    with pytest.raises(ConfigError, match="password_file"):
        one.source(password_file=tmp_path / "absent")
    secret = tmp_path / "secret"
    secret.write_text("wrong-secret\n")
    source = one.source(url=url.format(":older-secret"), password_file=secret)
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceUnavailable) as error:
        list(source.scan())
    assert "sources.m: PostgreSQL lets nobody in" in str(error.value)
    assert "password authentication failed" in str(error.value)
    assert "see url, password_file and pg_hba.conf" in str(error.value)
    assert "-secret" not in str(error.value) + caplog.text + repr(source._settings)
    secret.unlink()
    with pytest.raises(SourceUnavailable, match=r"sources\.m\.password_file: .*No such file"):
        source.hints(0.0)
    secret.write_text("right-secret\n")
    assert source.hints(0.0) == [Hint(None)]
    one.execute(f"ALTER ROLE {role} PASSWORD 'newer-secret'")
    secret.write_text("newer-secret\n")
    source.hints(0.0)
    assert source._stream is not None, "the stream did not get in"
    source.close()


def test_a_dry_run_does_not_wait_for_another_password(passworded: tuple[Tables, str, str], tmp_path: Path) -> None:
    _, _, url = passworded
    (tmp_path / "secret").write_text("wrong-secret")
    config = tmp_path / "vectide.toml"
    config.write_text(
        f"""state = "{tmp_path / "state"}"
[sources.shop]
connector = "postgres"
url = "{url.format("")}"
password_file = "{tmp_path / "secret"}"
[sources.shop.tables.pages]
text = "{{body}}"
"""
    )
    ran = CliRunner().invoke(cli, ["connect", "postgres", "--dry-run", "--config", str(config)])
    assert isinstance(ran.exception, SourceUnavailable)
    assert "sources.shop: PostgreSQL lets nobody in" in str(ran.exception)
    (tmp_path / "secret").unlink()
    ran = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])
    assert ran.exit_code != 0
    assert "sources.shop.password_file" in ran.output + str(ran.exception)


@pytest.mark.parametrize(
    ("change", "back", "said"),
    [
        ("ROLE {role} NOLOGIN", "ROLE {role} LOGIN", "is not permitted to log in"),
        ("ROLE {role} RENAME TO {role}_away", "ROLE {role}_away RENAME TO {role}", "does not exist"),
        ("DATABASE {name} RENAME TO {name}_away", "DATABASE {name}_away RENAME TO {name}", "does not exist"),
    ],
)
def test_a_role_or_database_that_is_away_is_waited_for(
    guarded: tuple[Tables, str], change: str, back: str, said: str
) -> None:
    """Locked, or being restored: it may be there in a moment."""
    one, role = guarded
    one.execute(f"GRANT SELECT ON pages TO {role}")
    source = one.source(user=role)
    one.server.execute("postgres", f"ALTER {change.format(role=role, name=one.database)}")
    try:
        with pytest.raises(SourceUnavailable, match=f"PostgreSQL lets nobody in: .*{said}"):
            list(source.scan())
    finally:
        one.server.execute("postgres", f"ALTER {back.format(role=role, name=one.database)}")
    assert [listed.path for listed in without_pauses(source.scan())] == ["pages/1"]
    source.close()


def test_a_role_without_replication_is_refused_by_the_stream_too(guarded: tuple[Tables, str]) -> None:
    """An admin has made slot and publication, and left the role without REPLICATION: nothing to wait for."""
    one, role = guarded
    one.execute(
        f"GRANT SELECT ON pages TO {role}",
        f"CREATE PUBLICATION {one.slot} FOR TABLE pages",
        f"SELECT pg_create_logical_replication_slot('{one.slot}', 'pgoutput')",
    )
    source = one.source(user=role, create=False)
    source.resume(None)
    with pytest.raises(NotAllowed, match=r"PostgreSQL refuses: .*start"):
        source.hints(0.0)
    source.close()


def test_a_server_that_is_not_there_is_unavailable(guarded: tuple[Tables, str]) -> None:
    one, _ = guarded
    source = one.source(url="postgres://admin@127.0.0.1:1/x")
    for call in (lambda: list(source.scan()), lambda: source.fetch("pages/1"), lambda: source.hints(0.0)):
        with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1/x"):
            call()
    source.close()


def test_a_statement_that_takes_too_long_is_given_up(guarded: tuple[Tables, str]) -> None:
    one, _ = guarded
    source = one.source(timeout_seconds=0.3)

    def fetched() -> Fetched | Skipped | Expired | None:
        for _ in range(20):
            with suppress(SourceUnavailable):  # that is little for any statement on a busy machine
                return source.fetch("pages/1")
        return source.fetch("pages/1")

    assert fetched() is not None
    with one.server.connected(one.database) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute("LOCK TABLE pages")
        with pytest.raises(SourceUnavailable, match=r"within 0\.3 s|lock timeout"):
            source.fetch("pages/1")
        connection.rollback()
    assert fetched() is not None
    source.close()
