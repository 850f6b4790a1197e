"""The runner over a source in memory: what it publishes, and what it must not."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from connectors.state import State
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.errors import Fenced, Poison, SourceUnavailable, Transient
from pipeline.identity import DocumentKey
from pipeline.ports import Fetched, Hint, NewRecord
from pipeline.records import DocumentChanged, DocumentDeleted
from tests.support.sources import Documents, running, scanned, wait_until
from tests.unit.connectors.faults import Spy, reopened


def test_the_first_scan_is_published_as_backfill_and_what_follows_is_live(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("old", "x", at=1000.0)
    with running(source, documents) as one:
        one.wait_scanned()
        assert documents.texts() == {"old": "x"}
        (event,) = documents.events()
        assert event.provenance.backfill
        assert event.provenance.event_time == 1000.0
        source.put("new", "y")
        documents.wait_for({"old": "x", "new": "y"})
    live = documents.now()["new"]
    assert not live.provenance.backfill
    assert abs(live.provenance.event_time - time.time()) < 60
    assert one.published("changed") == 2


def test_every_event_begins_a_trace_of_its_own(documents: Documents) -> None:
    source = MemorySource("m")
    for number in range(5):
        source.put(str(number), "x")
    scanned(source, documents)
    traces = {event.provenance.traceparent for event in documents.events()}
    assert len(traces) == 5
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace) for trace in traces)


def test_a_document_moved_here_with_an_old_time_counts_from_the_move(documents: Documents) -> None:
    """Freshness is measured from what happened, and an hour ago nothing happened here."""
    source = MemorySource("m")
    with running(source, documents) as one:
        one.wait_scanned()
        before = time.time()
        source.put("moved", "x", at=before - 3600)
        source.put("from the future", "x", at=before + 3600)
        wait_until(lambda: len(documents.now()) == 2)
    for event in documents.events():
        assert before <= event.provenance.event_time <= time.time()


def test_a_restart_publishes_nothing_for_what_did_not_change_and_reads_none_of_it(
    documents: Documents, tmp_path: Path
) -> None:
    source = MemorySource("m")
    for number in range(50):
        source.put(str(number), f"text {number}")
    scanned(source, documents, tmp_path)
    events, states = len(documents.events()), documents.states()
    spy = Spy(reopened(source))
    scanned(spy, documents, tmp_path)
    assert (len(documents.events()), documents.states()) == (events, states)
    assert spy.fetched == []


def test_edits_creates_and_deletes_of_while_it_was_down_are_published_at_the_next_start(
    documents: Documents, tmp_path: Path
) -> None:
    source = MemorySource("m")
    for name in ("kept", "edited", "deleted"):
        source.put(name, name)
    scanned(source, documents, tmp_path)
    source = reopened(source)
    source.put("edited", "edited again")
    source.remove("deleted")
    source.put("created", "new")
    scanned(source, documents, tmp_path)
    assert documents.texts() == {"kept": "kept", "edited": "edited again", "created": "new"}


def test_a_touched_document_is_read_and_not_published(documents: Documents, tmp_path: Path) -> None:
    """Given the same content under a new revision, then nothing is written to the log, and the next
    start does not read it again.
    """
    source = MemorySource("m")
    source.put("touched", "same")
    scanned(source, documents, tmp_path)
    source = reopened(source)
    source.put("touched", "same")
    spy = Spy(source)
    scanned(spy, documents, tmp_path)
    assert spy.fetched.count("touched") >= 1
    assert (len(documents.events()), documents.states()) == (1, 1)
    spy = Spy(reopened(source))
    scanned(spy, documents, tmp_path)
    assert spy.fetched == []


def test_a_change_of_metadata_alone_is_published_with_the_same_digest(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("doc", "text", {"acl": ["staff"]})
    with running(source, documents) as one:
        one.wait_scanned()
        source.put("doc", "text", {"acl": ["everyone"]})
        wait_until(lambda: documents.now()["doc"].metadata == {"acl": ["everyone"]})
    first, second = documents.events()
    assert isinstance(first, DocumentChanged)
    assert isinstance(second, DocumentChanged)
    assert first.digest == second.digest


def test_a_rename_is_published_as_create_then_delete(broker: EmbeddedBroker) -> None:
    """In this order the new name finds the vectors of the old one."""
    documents = Documents(broker, partitions=1)
    source = MemorySource("m")
    source.put("a", "text")
    with running(source, documents) as one:
        one.wait_scanned()
        source.rename("a", "b")
        documents.wait_for({"b": "text"})
    kinds = [(type(event), event.key.path) for event in documents.events()]
    assert kinds == [(DocumentChanged, "a"), (DocumentChanged, "b"), (DocumentDeleted, "a")]
    first, second = documents.events()[:2]
    assert isinstance(first, DocumentChanged)
    assert isinstance(second, DocumentChanged)
    assert first.digest == second.digest


def test_a_rename_of_while_it_was_down_comes_in_the_same_order(broker: EmbeddedBroker, tmp_path: Path) -> None:
    documents = Documents(broker, partitions=1)
    source = MemorySource("m")
    source.put("a", "text")
    scanned(source, documents, tmp_path)
    source = reopened(source)
    source.rename("a", "z")
    scanned(source, documents, tmp_path)
    kinds = [(type(event), event.key.path) for event in documents.events()]
    assert kinds[1:] == [(DocumentChanged, "z"), (DocumentDeleted, "a")]


def test_a_document_that_is_gone_only_for_a_moment_is_not_deleted(documents: Documents) -> None:
    """Readers never see a gap: editors save by moving the file away first."""
    source = MemorySource("m")
    source.put("saved", "1")
    with running(source, documents) as one:
        one.wait_scanned()
        for number in range(2, 7):
            source.remove("saved")
            time.sleep(0.01)
            source.put("saved", str(number))
            documents.wait_for({"saved": str(number)})
    assert one.published("deleted") == 0


def test_a_document_that_is_emptied_before_it_is_written_is_not_published_empty(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("saved", "before")
    with running(source, documents) as one:
        one.wait_scanned()
        source.put("saved", "")
        time.sleep(0.05)
        source.put("saved", "after")
        documents.wait_for({"saved": "after"})
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
        spy.fetch_errors["locked"] = [Transient("locked: Permission denied") for _ in range(2)]
        source.put("locked", "2")
        source.put("free", "2")
        documents.wait_for({"locked": "1", "free": "2"})
        documents.wait_for({"locked": "2", "free": "2"})
    assert one.skipped("unreadable") == 1
    assert one.published("deleted") == 0


def test_one_that_cannot_be_extracted_is_published_without_its_text(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("broken", "x")
    spy = Spy(source)
    spy.fetch_errors["broken"] = [Poison("extraction_failed", "no such table") for _ in range(100)]
    scanned(spy, documents)
    event = documents.now()["broken"]
    assert event.text is None
    assert "no such table" in event.omitted


@pytest.mark.parametrize("where", ["text", "metadata"])
def test_what_is_not_unicode_is_left_out_and_says_so(documents: Documents, tmp_path: Path, where: str) -> None:
    bad = "lone \ud800 surrogate"
    source = MemorySource("m")
    if where == "text":
        source.put("doc", bad, {"tenant": "a"})
    else:
        source.put("doc", "good text", {"tenant": "a", "title": bad})
    scanned(source, documents, tmp_path)
    event = documents.now()["doc"]
    assert event.metadata == {"tenant": "a"}
    assert event.text == (None if where == "text" else "good text")
    assert bool(event.omitted) is (where == "text")
    source = reopened(source)
    source.put(
        "doc", bad if where == "text" else "good text", {"tenant": "a"} | ({"title": bad} if where != "text" else {})
    )
    scanned(source, documents, tmp_path)
    assert len(documents.events()) == 1


def test_a_record_too_large_for_the_log_goes_without_its_text_and_alone(broker: EmbeddedBroker) -> None:
    """Given a limit of 1 kB, records may take 6 kB + 1 MB around; a text that takes more is refused."""
    documents = Documents(broker, limit_bytes=1024)
    source = MemorySource("m")
    source.put("small", "x")
    source.put("large", "\x01" * 300_000)
    source.put("small too", "y")
    scanned(source, documents)
    found = documents.now()
    assert {path: event.text for path, event in found.items()} == {"small": "x", "small too": "y", "large": None}
    assert "over the limit" in found["large"].omitted


def test_batches_are_bounded_by_documents_and_by_bytes(documents: Documents) -> None:
    sizes: list[int] = []
    take_over = documents.broker.transactional_publisher

    def counting(transactional_id: str) -> object:
        publisher = take_over(transactional_id)
        publish = publisher.publish

        def counted(records: list[NewRecord], deadline: object) -> object:
            sizes.append(len(records))
            return publish(records, deadline)  # type: ignore[arg-type]

        publisher.publish = counted  # type: ignore[method-assign, assignment]
        return publisher

    documents.broker.transactional_publisher = counting  # type: ignore[method-assign, assignment]
    source = MemorySource("m")
    for number in range(25):
        source.put(f"{number:02}", "x")
    for number in range(3):
        source.put(f"big {number}", "x" * 20_000)
    limits = RunnerLimits(batch_documents=10, batch_bytes=15_000)
    with running(source, documents, limits=limits) as one:
        one.wait_scanned()
    assert len(documents.now()) == 28
    assert max(sizes) <= 2 * 10
    assert len(sizes) >= 5


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


def test_a_second_runner_of_the_same_source_fences_the_first(documents: Documents) -> None:
    first, second = MemorySource("m"), MemorySource("m")
    with running(first, documents) as one:
        one.wait_scanned()
        with running(second, documents) as other:
            other.wait_scanned()
            first.put("of the first", "x")
            assert isinstance(one.wait_ended(), Fenced)
            second.put("of the second", "x")
            documents.wait_for({"of the second": "x"})


def test_two_sources_on_the_same_topics_do_not_meet(documents: Documents, tmp_path: Path) -> None:
    one, other = MemorySource("one"), MemorySource("one/two")
    one.put("doc", "1")
    other.put("doc", "2")
    scanned(one, documents, tmp_path)
    scanned(other, documents, tmp_path)
    keys = {(event.key.source, event.key.path, getattr(event, "text", None)) for event in documents.events()}
    assert keys == {("one", "doc", "1"), ("one/two", "doc", "2")}
    empty = MemorySource("one")
    scanned(empty, documents, tmp_path)
    state = State(documents.broker, documents.names.connector_state, "one/two", None)
    state.refresh()
    assert state.get("doc") is not None


def test_the_loop_beats_and_ends(documents: Documents) -> None:
    source = MemorySource("m")
    with running(source, documents) as one:
        one.wait_scanned()
        assert "connect.m" in one.health._beats
    assert one.health._beats == {}


def test_a_skipped_document_that_was_one_before_is_deleted(documents: Documents, tmp_path: Path) -> None:
    """Given a text that becomes binary, then it is no document any more; and a text again, one again."""
    from pipeline.ports import Skipped

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
