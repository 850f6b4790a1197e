"""The runner over a source in memory: what it publishes, and what it must not."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from connectors.memory import MemorySource
from connectors.runner import RunnerLimits
from connectors.state import State
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.errors import Fenced, Poison
from pipeline.ports import NewRecord
from pipeline.records import DocumentChanged, DocumentDeleted
from tests.support.sources import Documents, runner, running, scanned, wait_until
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
    kept = {"tenant": "acme", "acl": ["anna"], "n": 1}
    source.put("large", "\x01" * 300_000, {"notes": "x" * 600_000, **kept})
    source.put("small too", "y")
    scanned(source, documents)
    found = documents.now()
    assert {path: event.text for path, event in found.items()} == {"small": "x", "small too": "y", "large": None}
    assert "over the limit" in found["large"].omitted
    assert found["large"].metadata == kept, "who may see a document does not depend on its size"
    scanned(reopened(source), documents)
    assert len(documents.events()) == 3, "the next look finds it unchanged"


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


def test_a_complete_scan_says_when_it_began_how_long_it_took_and_what_it_listed(documents: Documents) -> None:
    source = MemorySource("m")
    for number in range(3):
        source.put(str(number), "x")
    one = runner(source, documents, limits=RunnerLimits(rescan_seconds=77))

    def shown(name: str) -> float | None:
        return one.metrics.registry.get_sample_value(f"vectide_source_{name}", {"source": "m"})

    assert shown("last_scan_timestamp_seconds") == shown("documents") == 0, "none yet: an alert must see that"
    assert shown("rescan_seconds") == 77
    before = time.time()
    one = scanned(source, documents)
    assert shown("documents") == 3
    assert before <= (shown("last_scan_timestamp_seconds") or 0) <= time.time()
    assert (shown("scan_duration_seconds") or -1) >= 0
