"""The postgres connector on a real server: what becomes of rows, as documents and as changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from connectors.extraction import Extracted
from connectors.extraction.formats import FORMATS
from pipeline.errors import Poison, SourceUnavailable, Transient
from pipeline.ports import Fetched, without_pauses
from tests.support.postgres import PostgresServer
from tests.support.replication import LIMITS, Counted, hints_until, synced
from tests.support.sources import Documents, running, wait_until
from tests.support.tables import PAGES, Tables, tables


def test_every_kind_of_change_reaches_the_log(pages: Tables, documents: Documents, tmp_path: Path) -> None:
    """Inserts, updates, a new key, deletes, rollbacks, a truncation: by the stream, without another scan."""
    source = Counted(pages.source())
    with running(source, documents, tmp_path, LIMITS) as at_work:  # type: ignore[arg-type]
        at_work.wait_scanned()
        pages.execute(
            "INSERT INTO pages VALUES (4, 'x', 'four')",
            "UPDATE pages SET body = 'one' WHERE id = 1",
            "UPDATE pages SET id = 20 WHERE id = 2",
            "DELETE FROM pages WHERE id = 3",
            "BEGIN; UPDATE pages SET body = 'never'; ROLLBACK",
        )
        documents.wait_for({"pages/1": "one", "pages/20": "body 2", "pages/4": "four"})
        pages.execute("BEGIN; TRUNCATE pages; INSERT INTO pages VALUES (1, 'x', 'anew'); COMMIT")
        documents.wait_for({"pages/1": "anew"})
        pages.execute("TRUNCATE pages")
        documents.wait_for({})
        assert source.scans == 1


def test_html_in_a_row_is_read_and_a_better_extractor_reads_it_again(
    postgres: PostgresServer, fresh: str, documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own metadata, but for a column that is called alike; published again once it is read otherwise."""
    row = "INSERT INTO pages VALUES (1, 'T', '<h2>H</h2><p>x &amp; <b>böđy</b></p>')"
    settings = {"text": "<title>{title}</title>{body}", "media_type": "text/html"}
    with tables(postgres, fresh, PAGES, row, tables={"pages": settings}) as one:
        source = one.source()
        (listed,) = without_pauses(source.scan())
        found = source.fetch("pages/1")
        assert isinstance(found, Fetched)
        assert (found.text, found.media_type) == ("## H\n\nx & böđy\n", "text/markdown")
        assert found.size == len("## H\n\nx & böđy\n".encode())
        extractor = f"html/{FORMATS['.html'].version}"
        assert found.metadata == {"title": "T", "source_media_type": "text/html", "extractor": extractor}
        assert found.revision == listed.revision
        source.close()
        source = one.source(tables={"pages": {**settings, "metadata": {"body": "title"}}})
        found = source.fetch("pages/1")
        assert isinstance(found, Fetched)
        assert found.metadata["title"] == "<h2>H</h2><p>x &amp; <b>böđy</b></p>"
        source.close()
        with running(one.source(), documents, tmp_path, LIMITS):
            documents.wait_for({"pages/1": "## H\n\nx & böđy\n"})
        better = replace(
            FORMATS[".html"],
            version=FORMATS[".html"].version + 1,
            extract=lambda text, path: Extracted("better", "text/markdown"),
        )
        monkeypatch.setitem(FORMATS, ".html", better)
        with running(one.source(), documents, tmp_path, LIMITS):
            documents.wait_for({"pages/1": "better"})


def test_html_that_is_too_much_or_nests_too_deeply_is_not_published_as_text(
    postgres: PostgresServer, fresh: str
) -> None:
    """As its bytes, or as the longer Markdown that they would be; of tags that never end, the row is poison."""
    rows = (
        "INSERT INTO pages VALUES (1, 'T', repeat('<ul><li>x', 20)), (2, 'T', repeat('<p></p>', 60)), "
        "(3, 'T', repeat('<div>', 100000))"
    )
    settings = {"text": "{body}", "media_type": "text/html"}
    with tables(postgres, fresh, PAGES, rows, tables={"pages": settings}) as one:
        source = one.source(limit_bytes=300)
        for number, size in ((1, 460), (2, 420)):
            found = source.fetch(f"pages/{number}")
            assert isinstance(found, Fetched)
            assert (found.text, found.omitted) == (None, f"{size} bytes, over the limit of 300")
        source.close()
        source = one.source()
        with pytest.raises(Poison):
            source.fetch("pages/3")
        source.close()


def test_a_row_as_a_document(postgres: PostgresServer, fresh: str) -> None:
    """Template, types of metadata, event time; a NULL is nothing."""
    table = (
        "CREATE TABLE items (shop text, no bigint, title text, body varchar(90), price numeric, tags text[], ok bool, "
        "data jsonb, big bigint, nothing text, at timestamptz, PRIMARY KEY (shop, no))"
    )
    row = (
        "INSERT INTO items VALUES ('a/b%', 7, 'T', 'böđy 🌊', 1.50, '{x,\"y z\",NULL}', true, "
        "'{\"k\": [1]}', 9007199254740993, NULL, '2026-01-02 03:04:05+00')"
    )
    settings = {
        "text": "# {title}\n\n{body} {{}} {price} {tags} {ok} {data}{nothing}",
        "media_type": "text/markdown",
        "metadata": {
            "shop": "tenant",
            **{name: name for name in ("price", "tags", "ok", "data", "big", "nothing", "at")},
        },
        "event_time": "at",
    }
    with tables(postgres, fresh, table, row, tables={"items": settings}) as one:
        source = one.source()
        (listed,) = without_pauses(source.scan())
        assert listed.path == "items/a%2Fb%25/7"
        found = source.fetch(listed.path)
        assert isinstance(found, Fetched)
        assert found.text == '# T\n\nböđy 🌊 {} 1.50 x, y z true {"k": [1]}'
        assert found.media_type == "text/markdown"
        assert found.metadata == {
            "tenant": "a/b%",
            "price": 1.5,
            "tags": ["x", "y z"],
            "ok": True,
            "data": '{"k": [1]}',
            "big": 9007199254740993,
            "at": "2026-01-02T03:04:05+00:00",
        }
        assert found.event_time == 1767323045.0
        assert found.revision == listed.revision
        assert source.fetch("items/a%2Fb%25/07") is None, "another way to write the same key"
        assert source.fetch("items/a%2Fb%25") is None
        assert source.fetch("items/a%2Fb%25/x") is None
        assert source.fetch("other/1") is None
        source.close()


def test_without_a_template_the_text_is_all_texts_but_the_key(postgres: PostgresServer, fresh: str) -> None:
    table = "CREATE TABLE notes (name text PRIMARY KEY, n int, a text, b varchar(9), c text)"
    with tables(
        postgres, fresh, table, "INSERT INTO notes VALUES ('k', 1, 'A', 'B', NULL)", tables={"notes": {}}
    ) as one:
        found = one.source().fetch("notes/k")
        assert isinstance(found, Fetched)
        assert found.text == "A\n\nB"


@pytest.mark.parametrize("type_", ["timestamptz", "double precision", "uuid", "bytea", "char(4)", "bool", "interval"])
def test_a_key_of_any_type_is_the_same_in_scan_and_stream(postgres: PostgresServer, fresh: str, type_: str) -> None:
    values = {
        "timestamptz": "2026-01-02 03:04:05.6+07",
        "double precision": "0.1",
        "uuid": "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "bytea": "\\x00ff",
        "char(4)": "a",
        "bool": "t",
        "interval": "1 day 2 hours",
    }
    table = f"CREATE TABLE odd (k {type_} PRIMARY KEY, body text)"
    with tables(postgres, fresh, table, tables={"odd": {}}) as one:
        source = one.source()
        source.resume(None)
        one.execute(
            "ALTER ROLE admin SET datestyle = 'German'",  # whatever the server's own formats are
            f"INSERT INTO odd VALUES ('{values[type_]}', 'x')",
        )
        try:
            (listed,) = without_pauses(source.scan())
            assert [hint.path for hint in hints_until(source, listed.path)] == [listed.path]
            assert source.fetch(listed.path) is not None
        finally:
            one.execute("ALTER ROLE admin RESET datestyle")
            source.close()


def test_a_long_text_is_not_read_and_a_value_that_is_stored_apart_may_stay_unchanged(
    pages: Tables, documents: Documents, tmp_path: Path
) -> None:
    """Given a text over the limit, then its document says so; given an update of another column, the text
    that the message leaves out is still there.
    """
    pages.settings["tables"] = {"pages": {"text": "{title} {body}"}}
    noise = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, {}) g)"
    pages.execute(
        "ALTER TABLE pages ALTER body SET STORAGE EXTERNAL",
        f"UPDATE pages SET body = {noise.format(1000)} WHERE id = 1",
        f"UPDATE pages SET body = {noise.format(3000)} WHERE id = 2",
    )
    ((text,),) = pages.rows("SELECT body FROM pages WHERE id = 1")
    source = pages.source(limit_bytes=64_000)
    with running(source, documents, tmp_path, LIMITS) as at_work:
        at_work.wait_scanned()
        pages.execute("UPDATE pages SET title = 'new' WHERE id IN (1, 2)")
        documents.wait_for({"pages/1": f"new {text}", "pages/2": None, "pages/3": "T3 body 3"})
        wait_until(lambda: documents.now()["pages/2"].size == 96_003)  # of 96,002 before its new title
        assert "over the limit of 64000" in documents.now()["pages/2"].omitted


def test_metadata_over_the_limit_are_poison(pages: Tables) -> None:
    pages.execute("UPDATE pages SET title = repeat('x', 2000) WHERE id = 1")
    source = pages.source(limit_bytes=1000, tables={"pages": {"text": "{body}", "metadata": ["title"]}})
    with pytest.raises(Poison, match="2000 bytes of metadata"):
        source.fetch("pages/1")
    source.close()


def test_rows_that_are_no_documents_come_and_go(pages: Tables, documents: Documents, tmp_path: Path) -> None:
    """A soft delete, and a condition with a percent sign in it."""
    pages.execute("ALTER TABLE pages ADD gone timestamptz, ADD hidden bool")
    pages.settings["tables"] = {
        "pages": {"text": "{body}", "deleted": "gone", "where": "body LIKE 'body%' AND id % 1 = 0"}
    }
    with running(pages.source(), documents, tmp_path, LIMITS) as at_work:
        at_work.wait_scanned()
        pages.execute("UPDATE pages SET gone = now() WHERE id = 1", "UPDATE pages SET body = 'draft' WHERE id = 2")
        documents.wait_for({"pages/3": "body 3"})
        pages.execute("UPDATE pages SET gone = NULL, body = 'body' || id")
        documents.wait_for({f"pages/{n}": f"body{n}" for n in (1, 2, 3)})
    pages.settings["tables"] = {"pages": {"text": "{body}", "deleted": "hidden"}}
    pages.execute("UPDATE pages SET hidden = id = 1")
    with running(pages.source(), documents, tmp_path, LIMITS) as at_work:
        at_work.wait_scanned()
        documents.wait_for({"pages/2": "body2", "pages/3": "body3"})


def test_a_condition_that_cannot_be_computed_deletes_nothing(pages: Tables) -> None:
    """Given one row of which it cannot be said whether it is a document, then that one is listed and not read,
    and the others are what they are.
    """
    pages.execute("ANALYZE pages")  # so small that it is sorted, and not read by its index
    source = pages.source(tables={"pages": {"text": "{body}", "where": "1 / (id - 2) > 0"}})
    with pytest.raises(Transient, match="row pages/2: division by zero"):
        source.fetch("pages/2")
    assert source.fetch("pages/x") is None
    assert [one.path for one in without_pauses(source.scan())] == ["pages/2", "pages/3"]
    source.close()


#: Of a row whose body begins with it.
TROUBLES = {
    "raise": "RAISE EXCEPTION 'no such shop'",
    "limit": "PERFORM repeat('x', 2000000000)",
    "slow": "PERFORM pg_sleep(30)",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_one_row_holds_no_other_up(pages: Tables, documents: Documents, tmp_path: Path, trouble: str) -> None:
    """Given a row in the middle whose condition fails in some way, then the others are scanned and followed,
    and it stays what it was published as.
    """
    pages.execute(
        "CREATE FUNCTION good(body text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN IF body LIKE 'bad%' THEN "
        f"{TROUBLES[trouble]}; END IF; RETURN body NOT LIKE 'draft%'; END $$",
        "INSERT INTO pages SELECT g, 'T', 'draft ' || g FROM generate_series(4, 40) g",
    )
    settings = {"pages": {"text": "{body}", "where": "good(body)"}}
    texts = {"pages/1": "body 1", "pages/2": "body 2", "pages/3": "body 3"}
    if trouble == "slow":
        pages.settings.update(timeout_seconds=0.5)
    pages.settings.update(tables=settings)
    synced(pages, documents, tmp_path, texts)
    pages.execute("UPDATE pages SET body = 'bad' WHERE id IN (2, 20)", "UPDATE pages SET body = 'x' WHERE id = 30")
    source = pages.source()
    assert [one.path for one in without_pauses(source.scan())] == [f"pages/{n}" for n in (1, 2, 3, 20, 30)]
    with pytest.raises(Transient, match="row pages/20: ") as error:
        source.fetch("pages/20")
    assert not isinstance(error.value, SourceUnavailable)
    source.close()
    with running(pages.source(), documents, tmp_path, LIMITS) as at_work:
        documents.wait_for({**texts, "pages/30": "x"})
        at_work.runner._scan_wanted = True
        pages.execute("UPDATE pages SET body = 'new' WHERE id = 3")
        documents.wait_for({**texts, "pages/3": "new", "pages/30": "x"})


def test_a_condition_that_holds_for_few_rows_reads_a_page_at_a_time(
    pages: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a table of many pages and a condition for its last row, then no statement computes it for more rows than a
    page has: one over the whole table could be over its time. The scan pauses after each of them.
    """
    monkeypatch.setattr("connectors.postgres.tables._PAGE", 20)
    pages.execute(
        "CREATE FUNCTION last(id int) RETURNS bool LANGUAGE plpgsql AS $$ DECLARE rows int := 1; BEGIN "
        "IF current_setting('test.statement', true) = statement_timestamp()::text THEN "
        "rows := current_setting('test.rows')::int + 1; END IF; "
        "IF rows > 20 THEN RAISE EXCEPTION 'a statement over more than a page'; END IF; "
        "PERFORM set_config('test.statement', statement_timestamp()::text, false), "
        "set_config('test.rows', rows::text, false); RETURN id = 200; END $$",
        "INSERT INTO pages SELECT g, 'T', 'body' FROM generate_series(4, 200) g",
        "ANALYZE pages",
    )
    source = pages.source(tables={"pages": {"text": "{body}", "where": "last(id)"}})
    found = list(source.scan())
    assert [one.path for one in without_pauses(found)] == ["pages/200"]
    assert found.count(None) >= 10
    source.close()


def test_rows_of_a_table_that_inherits_are_no_documents_of_its_parent(pages: Tables) -> None:
    """PostgreSQL has their changes as those of another table."""
    pages.execute("CREATE TABLE more () INHERITS (pages)", "INSERT INTO more VALUES (9, 'x', 'y')")
    source = pages.source()
    assert len(list(without_pauses(source.scan()))) == 3
    assert source.fetch("pages/9") is None
    source.close()


def test_partitions_are_one_table(postgres: PostgresServer, fresh: str, documents: Documents) -> None:
    """A row that moves to another partition stays one document."""
    statements = (
        "CREATE TABLE events (id int, day int, body text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20)",
        "INSERT INTO events VALUES (1, 1, 'a'), (2, 11, 'b')",
    )
    with tables(postgres, fresh, *statements, tables={"events": {}}) as one:
        with running(one.source(), documents, None, LIMITS) as at_work:
            at_work.wait_scanned()
            one.execute("UPDATE events SET day = 12 WHERE id = 1", "INSERT INTO events_2 VALUES (3, 13, 'c')")
            documents.wait_for({"events/1/12": "a", "events/2/11": "b", "events/3/13": "c"})
            one.execute("CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (20) TO (30)")
            one.execute("INSERT INTO events VALUES (4, 21, 'd')", "DELETE FROM events_2")
            documents.wait_for({"events/4/21": "d"})
            one.execute("TRUNCATE events_3")  # PostgreSQL does not publish it: only a scan finds it
            at_work.runner._scan_wanted = True
            documents.wait_for({})


def test_a_key_that_is_not_the_primary_one(postgres: PostgresServer, fresh: str, documents: Documents) -> None:
    statements = (
        "CREATE TABLE docs (id serial PRIMARY KEY, slug text NOT NULL UNIQUE, body text)",
        "ALTER TABLE docs REPLICA IDENTITY USING INDEX docs_slug_key",
        "INSERT INTO docs (slug, body) VALUES ('a', '1'), ('b', '2')",
    )
    with tables(postgres, fresh, *statements, tables={"docs": {"key": "slug"}}) as one:
        with running(one.source(), documents, None, LIMITS) as at_work:
            at_work.wait_scanned()
            one.execute("UPDATE docs SET slug = 'c' WHERE slug = 'a'", "DELETE FROM docs WHERE slug = 'b'")
            documents.wait_for({"docs/c": "1"})
            one.execute("ALTER TABLE docs REPLICA IDENTITY FULL", "UPDATE docs SET slug = 'd'")
            documents.wait_for({"docs/d": "1"})
