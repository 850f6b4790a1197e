"""The runner where documents and sources are away: for a moment, for good, or nobody knows."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from pipeline.errors import SourceUnavailable, Transient
from pipeline.identity import DocumentKey
from pipeline.ports import Fetched, Hint, Skipped
from pipeline.records import DocumentChanged, DocumentDeleted
from tests.support.sources import Documents, running, scanned, wait_until
from tests.unit.connectors.faults import Spy, reopened


def test_a_document_that_is_gone_only_for_a_moment_is_not_deleted(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers never see a gap: editors save by moving the file away first."""
    monkeypatch.setattr("connectors.runner._GONE_SECONDS", 60.0)  # of that moment: a machine can be slow
    source = MemorySource("m")
    source.put("saved", "1")
    spy = Spy(source)
    with running(spy, documents) as one:
        one.wait_scanned()
        for number in range(2, 7):
            looks = len(spy.fetched)
            source.remove("saved")
            wait_until(lambda looks=looks: len(spy.fetched) > looks)  # type: ignore[misc]
            source.put("saved", str(number))
            documents.wait_for({"saved": str(number)})
    assert one.published("deleted") == 0


def test_a_document_that_is_emptied_before_it_is_written_is_not_published_empty(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.runner._UNSETTLED_SECONDS", (60.0,))  # for the writer: a machine can be slow
    source = MemorySource("m")
    source.put("saved", "before")
    spy = Spy(source)
    with running(spy, documents) as one:
        one.wait_scanned()
        looks = len(spy.fetched)
        source.put("saved", "")
        wait_until(lambda: len(spy.fetched) > looks)
        source.put("saved", "after")
        documents.wait_for({"saved": "after"})
        monkeypatch.setattr("connectors.runner._UNSETTLED_SECONDS", (0.01,))
        source.put("saved", "")
        documents.wait_for({"saved": ""})
    assert [event.text for event in documents.events() if isinstance(event, DocumentChanged)] == [
        "before",
        "after",
        "",
    ]


def test_a_document_that_changes_all_the_time_is_published_now_and_then_and_at_last(documents: Documents) -> None:
    source = MemorySource("m")
    with running(source, documents) as one:
        one.wait_scanned()
        for number in range(400):
            source.put("growing", "x" * (number + 1))
            time.sleep(0.001)
        documents.wait_for({"growing": "x" * 400})
    assert one.published("changed") < 40


def test_one_that_cannot_be_read_keeps_its_old_version_until_it_can(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("locked", "1")
    source.put("free", "1")
    spy = Spy(source)
    with running(spy, documents) as one:
        one.wait_scanned()
        looks = len(spy.fetched)
        spy.fetch_errors["locked"] = [Transient("locked: Permission denied") for _ in range(100)]
        source.put("locked", "2")
        source.put("free", "2")
        documents.wait_for({"locked": "1", "free": "2"})
        wait_until(lambda: "locked" in spy.fetched[looks:])
        spy.fetch_errors["locked"].clear()
        documents.wait_for({"locked": "2", "free": "2"})
    assert one.skipped("unreadable") == 1
    assert one.published("deleted") == 0


def test_what_a_scan_misses_is_fetched_before_it_counts_as_deleted(documents: Documents, tmp_path: Path) -> None:
    """Given a listing that leaves out what is there (a folder that cannot be listed), then it stays."""
    source = MemorySource("m")
    for name in ("seen", "overlooked", "unreadable"):
        source.put(name, "x")
    scanned(source, documents, tmp_path)
    spy = Spy(reopened(source))
    spy.hide = {"overlooked", "unreadable"}
    spy.fetch_errors["unreadable"] = [Transient("Permission denied") for _ in range(100)]
    one = scanned(spy, documents, tmp_path)
    assert set(documents.texts()) == {"seen", "overlooked", "unreadable"}
    assert one.published("deleted") == 0


def test_a_source_that_goes_away_in_the_middle_of_a_scan_deletes_nothing(documents: Documents, tmp_path: Path) -> None:
    """Given an outage after the first document was listed, then the runner is not ready, waits, and
    scans again.
    """
    source = MemorySource("m")
    for number in range(10):
        source.put(str(number), "x")
    scanned(source, documents, tmp_path)
    spy = Spy(reopened(source))
    spy.scan_errors = [SourceUnavailable("the share is not mounted") for _ in range(20)]
    with running(spy, documents, tmp_path) as one:
        wait_until(lambda: "source.m" in one.health.readyz().reasons)
        assert "not mounted" in one.health.readyz().reasons["source.m"]
        one.wait_scanned()
        wait_until(lambda: one.health.readyz().ok)
    assert len(documents.events()) == 10


def test_a_source_that_is_away_while_one_document_is_fetched_is_waited_for(documents: Documents) -> None:
    source = MemorySource("m")
    spy = Spy(source)
    with running(spy, documents) as one:
        one.wait_scanned()
        spy.fetch_errors["doc"] = [SourceUnavailable("away") for _ in range(5)]
        source.put("doc", "x")
        documents.wait_for({"doc": "x"})
    assert one.skipped("unreadable") == 0


def test_stopping_does_not_wait_for_a_source_that_is_away(documents: Documents) -> None:
    spy = Spy(MemorySource("m"))
    spy.scan_errors = [SourceUnavailable("away") for _ in range(10_000)]
    with running(spy, documents) as one:
        wait_until(lambda: "source.m" in one.health.readyz().reasons)
    assert not one.runner.scanned.is_set()


def test_a_missed_change_is_found_by_the_next_scan(documents: Documents) -> None:
    """Given hints that were lost, then a rescan is the net under them, and the event is not backfill."""

    class Deaf(Spy):
        def hints(self, timeout: float) -> list[Hint]:
            self._source.hints(timeout)
            return []

    source = MemorySource("m")
    source.put("doc", "1")
    with running(Deaf(source), documents, limits=RunnerLimits(rescan_seconds=0.2)) as one:
        one.wait_scanned()
        source.put("doc", "2")
        source.put("other", "x")
        documents.wait_for({"doc": "2", "other": "x"})
        source.remove("doc")
        documents.wait_for({"other": "x"})
    assert not documents.now()["other"].provenance.backfill


def test_a_hint_for_a_folder_that_is_gone_deletes_what_was_below_it(documents: Documents) -> None:
    class Coarse(Spy):
        def hints(self, timeout: float) -> list[Hint]:
            found = self._source.hints(timeout)
            return [replace(hint, path=hint.path.partition("/")[0]) for hint in found if hint.path]

    source = MemorySource("m")
    for path in ("dir/a", "dir/b/c", "dir2/a", "dir", "dir!a"):
        source.put(path, "x")
    with running(Coarse(source), documents) as one:
        one.wait_scanned()
        for path in ("dir/a", "dir/b/c", "dir"):
            source.remove(path)
        documents.wait_for({"dir2/a": "x", "dir!a": "x"})


def test_a_skipped_document_that_was_one_before_is_deleted(documents: Documents, tmp_path: Path) -> None:
    """Given a text that becomes binary, then it is no document any more; and a text again, one again."""

    class Sometimes(Spy):
        binary = False

        def fetch(self, path: str) -> Fetched | Skipped | None:
            found = super().fetch(path)
            return Skipped(path, found.revision, "binary") if self.binary and isinstance(found, Fetched) else found

    source = MemorySource("m")
    source.put("doc", "1")
    spy = Sometimes(source)
    with running(spy, documents, tmp_path) as one:
        one.wait_scanned()
        spy.binary = True
        source.put("doc", "2")
        documents.wait_for({})
        assert one.skipped("binary") == 1
    again = Sometimes(reopened(source))
    again.binary = True
    scanned(again, documents, tmp_path)
    assert again.fetched == []  # known to be binary at this revision
    source = reopened(source)
    source.put("doc", "3")
    scanned(Sometimes(source), documents, tmp_path)
    assert documents.texts() == {"doc": "3"}


def test_a_deleted_document_leaves_no_state(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("doc", "x")
    with running(source, documents) as one:
        one.wait_scanned()
        source.remove("doc")
        documents.wait_for({})
    last = documents.records(documents.names.connector_state)[-1]
    assert (last.key, last.value) == (DocumentKey("m", "doc").to_bytes(), None)
    (event,) = [event for event in documents.events() if isinstance(event, DocumentDeleted)]
    assert abs(event.provenance.event_time - time.time()) < 60


def test_a_long_scan_does_not_hold_up_what_happens_meanwhile(documents: Documents) -> None:
    """Given a scan that takes its time, when a document changes, then it is published before the end."""
    release = threading.Event()

    class Slow(Spy):
        def scan(self):  # type: ignore[no-untyped-def]
            for listed in super().scan():
                yield listed
                if listed.path == "50":
                    while not release.is_set():
                        time.sleep(0.03)
                        yield listed

    source = MemorySource("m")
    for number in range(100):
        source.put(str(number), "x")
    with running(Slow(source), documents) as one:
        source.put("live", "x")
        wait_until(lambda: "live" in documents.now())
        assert not one.runner.scanned.is_set()
        release.set()
        one.wait_scanned()
    assert len(documents.now()) == 101
