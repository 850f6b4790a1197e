"""The postgres connector on a real server: its replication slot, read, lost, held back and gone on with."""

from __future__ import annotations

import logging
import pkgutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import SourceUnavailable
from pipeline.ports import Fetched, Hint, without_pauses
from tests.support.postgres import PostgresServer
from tests.support.replication import LIMITS, Counted, confirmed_all, hints_until, synced
from tests.support.sources import Documents, running, wait_until
from tests.support.tables import PAGES, Tables, tables


def test_a_change_is_hinted_only_once_it_can_be_seen(pages: Tables) -> None:
    """Given a commit that waits for its standby, which the stream tells of at once, then its row is looked at
    only when others can see it: before, it still says what it said.
    """
    source = pages.source()
    source.resume(None)
    source.hints(0.0)
    pages.server.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
    try:
        writer = threading.Thread(target=lambda: pages.execute("UPDATE pages SET body = 'later' WHERE id = 1"))
        wait_until(lambda: pages.rows("SHOW synchronous_standby_names") == [("nobody",)])
        writer.start()
        wait_until(lambda: pages.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        wait_until(lambda: source.hints(0.05) or source._held)
        assert source._held == 1, "the stream has told of it"
        assert source.hints(0.3) == []
        before = source.position()
    finally:
        pages.server.execute("postgres", "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    assert [hint.path for hint in hints_until(source, "pages/1")] == ["pages/1"]
    assert source.position() != before
    found = source.fetch("pages/1")
    assert isinstance(found, Fetched)
    assert found.text == "later"
    writer.join()
    source.close()


def test_a_restart_reads_only_what_changed(pages: Tables, documents: Documents, tmp_path: Path) -> None:
    texts = {f"pages/{n}": f"body {n}" for n in (1, 2, 3)}
    assert synced(pages, documents, tmp_path, texts).scans == 1
    pages.execute("UPDATE pages SET body = 'new' WHERE id = 2", "DELETE FROM pages WHERE id = 3")
    again = synced(pages, documents, tmp_path, {"pages/1": "body 1", "pages/2": "new"})
    assert again.scans == 0
    assert set(again.fetched) == {"pages/2", "pages/3"}


def drop_slot(one: Tables) -> None:
    one.drop_slot()


def read_by_another(one: Tables) -> None:
    one.execute(f"SELECT pg_replication_slot_advance('{one.slot}', pg_current_wal_lsn())")


def outgrown(one: Tables) -> None:
    """The server throws the slot's WAL away."""
    one.server.execute("postgres", "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
    lost = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{one.slot}' AND wal_status = 'lost'"
    try:
        for _ in range(50):
            one.execute("SELECT pg_switch_wal()", "INSERT INTO pages VALUES (99)", "DELETE FROM pages WHERE id = 99")
            one.execute("CHECKPOINT")
            if one.rows(lost):
                return
        raise AssertionError("the slot was not lost")
    finally:
        one.server.execute("postgres", "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


def publication_made_anew(one: Tables) -> None:
    one.execute(f"DROP PUBLICATION {one.slot}", "UPDATE pages SET body = 'unheard' WHERE id = 1")
    one.execute(f"CREATE PUBLICATION {one.slot} FOR TABLE pages WITH (publish_via_partition_root = true)")


def table_left_out_for_a_while(one: Tables) -> None:
    one.execute(f"ALTER PUBLICATION {one.slot} SET TABLE other", "UPDATE pages SET body = 'unheard' WHERE id = 1")
    one.execute(f"ALTER PUBLICATION {one.slot} ADD TABLE pages")


@pytest.mark.parametrize(
    "lose", [drop_slot, read_by_another, outgrown, publication_made_anew, table_left_out_for_a_while]
)
def test_a_slot_that_is_lost_while_it_is_down_leads_to_a_scan_and_says_so(
    pages: Tables,
    documents: Documents,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[Tables], None],
) -> None:
    synced(pages, documents, tmp_path, {f"pages/{n}": f"body {n}" for n in (1, 2, 3)})
    pages.execute("UPDATE pages SET body = 'unheard' WHERE id = 1", "DELETE FROM pages WHERE id = 2")
    pages.execute("CREATE TABLE other (id int PRIMARY KEY)")
    lose(pages)
    with caplog.at_level(logging.WARNING):
        again = synced(pages, documents, tmp_path, {"pages/1": "unheard", "pages/3": "body 3"})
    assert again.scans
    assert [one.message for one in caplog.records if "everything is scanned" in one.message]
    pages.execute("UPDATE pages SET body = 'heard' WHERE id = 1")
    assert synced(pages, documents, tmp_path, {"pages/1": "heard", "pages/3": "body 3"}).scans == 0


def test_a_slot_that_is_dropped_while_it_is_read(pages: Tables, documents: Documents, tmp_path: Path) -> None:
    source = Counted(pages.source())
    with running(source, documents, tmp_path, LIMITS) as at_work:  # type: ignore[arg-type]
        at_work.wait_scanned()
        pages.drop_slot()
        pages.execute("UPDATE pages SET body = 'new' WHERE id = 1", "DELETE FROM pages WHERE id IN (2, 3)")
        documents.wait_for({"pages/1": "new"})
        pages.execute("UPDATE pages SET body = 'newer' WHERE id = 1")
        documents.wait_for({"pages/1": "newer"})


def read_twice(one: Tables) -> None:
    """Another process reads the slot further than the one that follows it."""
    one.execute(
        f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{one.slot}' AND active"
    )
    wait_until(lambda: not one.rows("SELECT 1 FROM pg_replication_slots WHERE active"))
    one.execute("UPDATE pages SET body = 'unheard' WHERE id = 1")
    read_by_another(one)


@pytest.mark.parametrize(
    ("lose", "failing"),
    [
        (drop_slot, "source.Stream"),
        (read_twice, "source.Stream"),
        (table_left_out_for_a_while, "source.Stream"),
        (table_left_out_for_a_while, "slot.Slot.state"),
    ],
)
def test_a_scan_that_is_due_is_not_forgotten_for_what_fails_after_it(
    pages: Tables, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Tables], None], failing: str
) -> None:
    """Given changes that the stream does not tell of, and a server that fails once right after that was noticed,
    then the scan is asked for all the same.
    """
    source = pages.source()
    source.resume(None)
    assert source.hints(0.0) == []
    pages.execute("CREATE TABLE other (id int PRIMARY KEY)")
    lose(pages)
    source._tables = {}
    list(source.scan())  # looks at the publication again
    name = f"connectors.postgres.{failing}"
    real = pkgutil.resolve_name(name.replace(".source.", ".source:").replace(".slot.", ".slot:"))
    calls = []

    def fails(*arguments: object) -> object:
        calls.append(failing)
        if len(calls) == 1:
            raise SourceUnavailable("replication slot is active for PID 1")
        return real(*arguments)

    source._next_slot = time.monotonic() + 60.0
    monkeypatch.setattr(name, fails)
    found: list[Hint] = []
    end = time.monotonic() + 30
    while not found:
        assert time.monotonic() < end, "nobody asks for the scan"
        with suppress(SourceUnavailable):
            found = source.hints(0.2)
    assert [hint.path for hint in found] == [None]
    source.close()


def test_settings_that_make_other_documents_are_scanned_for(
    pages: Tables, documents: Documents, tmp_path: Path
) -> None:
    synced(pages, documents, tmp_path, {f"pages/{n}": f"body {n}" for n in (1, 2, 3)})
    pages.settings["tables"] = {"pages": {"text": "{title}"}}
    assert synced(pages, documents, tmp_path, {f"pages/{n}": f"T{n}" for n in (1, 2, 3)}).scans == 1


def test_a_second_reader_waits(pages: Tables) -> None:
    first, second = pages.source(), pages.source()
    first.resume(None)
    first.hints(0.0)
    second.resume(None)
    with pytest.raises(SourceUnavailable, match="is active for PID"):
        second.hints(0.0)
    list(second.scan())  # a verification may look all the same
    first.close()
    wait_until(lambda: not pages.rows("SELECT 1 FROM pg_replication_slots WHERE active"))
    pages.execute("UPDATE pages SET body = 'x' WHERE id = 1")
    hints_until(second, "pages/1")
    second.close()


def test_a_scan_alone_makes_no_slot(pages: Tables) -> None:
    """A verification reads the tables while nobody follows: a slot that nobody reads would fill the disk."""
    source = pages.source()
    assert len(list(without_pauses(source.scan()))) == 3
    assert source.fetch("pages/1") is not None
    assert pages.rows(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{pages.slot}'") == []
    assert pages.rows("SELECT 1 FROM pg_publication") == []
    source.close()


def test_transactions_that_are_as_old_as_the_slot_are_scanned_for_once_they_end(pages: Tables) -> None:
    source = pages.source()
    source.resume(None)
    with pages.server.connected(pages.database) as connection:
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO pages VALUES (9)")
            cursor.execute("SELECT pg_current_xact_id()::text::bigint")
            source._older = cursor.fetchone()[0]
            assert source.hints(0.1) == []
            connection.rollback()
    hints_until(source, None)
    source._next_older = 0.0
    assert source.hints(0.1) == []
    source.close()


def test_a_transaction_of_any_size_is_given_in_portions_and_is_behind_a_position_until_all_of_it_was(
    pages: Tables,
) -> None:
    """Given a restart after the first portion, then the whole transaction is hinted again."""
    source = pages.source()
    source.resume(None)
    pages.execute("INSERT INTO pages SELECT g FROM generate_series(1000, 6999) g")
    hints_until(source, "pages/1000")
    middle = source.position()
    source.close()
    source = pages.source()
    assert source.resume(middle)
    found: set[str | None] = set()
    end = time.monotonic() + 60
    while len(found) < 6000:
        assert time.monotonic() < end
        given = source.hints(5.0)
        assert len(given) <= 1000
        found |= {hint.path for hint in given}
    wait_until(lambda: source.hints(0.05) or source.position() != middle)
    source.close()


def test_wal_that_is_kept_is_told_and_warned_of_once(
    pages: Tables, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.postgres.source._SLOT_SECONDS", 0.0)
    source = pages.source(lag_warning_bytes=100_000)
    source.resume(None)
    source.hints(0.0)
    assert source.backlog() is not None
    pages.execute("INSERT INTO pages SELECT g, repeat('x', 500) FROM generate_series(1000, 2000) g")
    with caplog.at_level(logging.WARNING):
        source.hints(0.1)
        source.hints(0.1)
    kept = source.backlog()
    assert kept is not None
    assert kept.amount > 100_000
    assert len([one for one in caplog.records if "keeps much WAL" in one.message]) == 1
    while source.hints(0.5):
        pass
    source.acknowledge(source.position())
    pages.execute("CHECKPOINT")

    def caught_up() -> bool:
        source.hints(0.1)
        source.acknowledge(source.position())
        now = source.backlog()
        return now is not None and now.amount < 100_000

    wait_until(caught_up)
    assert not source._warned
    source.close()


def test_what_other_tables_write_does_not_hold_the_slot_back(pages: Tables, documents: Documents) -> None:
    """Given a quiet table in a busy database, then the server need not keep the WAL of the others."""
    with running(pages.source(), documents, None, LIMITS) as at_work:
        at_work.wait_scanned()
        pages.execute("CREATE TABLE busy AS SELECT g FROM generate_series(1, 10000) g")
        confirmed_all(pages)


def test_a_server_that_crashes_is_waited_for_and_nothing_counts_as_deleted(
    postgres: PostgresServer, documents: Documents, tmp_path: Path
) -> None:
    server = PostgresServer()
    try:
        server.start()
        with tables(
            server, "away", PAGES, "INSERT INTO pages VALUES (1, 'x', 'one')", tables={"pages": {"text": "{body}"}}
        ) as one:
            with running(one.source(), documents, tmp_path, LIMITS) as at_work:
                at_work.wait_scanned()
                server.kill()
                wait_until(lambda: not at_work.health.readyz().ok)
                assert documents.texts() == {"pages/1": "one"}
                server.start()
                one.execute("INSERT INTO pages VALUES (2, 'x', 'two')")
                documents.wait_for({"pages/1": "one", "pages/2": "two"})
                wait_until(lambda: at_work.health.readyz().ok)
    finally:
        server.stop()
