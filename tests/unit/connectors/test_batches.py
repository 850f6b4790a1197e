"""What goes into one transaction, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.batches import Batch, Pending, changed, deleted, known_of, smaller
from connectors.state import State
from pipeline.codec import decode_event
from pipeline.identity import DocumentKey
from pipeline.ports import Fetched, Record
from pipeline.records import DocumentChanged, Provenance
from tests.support.sources import Documents

AT = Provenance(1.0)


@pytest.fixture
def state(documents: Documents) -> Iterator[State]:
    one = State(documents.broker, documents.names.connector_state, "s", None)
    yield one
    one.close()


def fetched(path: str, text: str = "text", revision: str = "r") -> Fetched:
    return Fetched(path, revision, text, "digest", "text/plain", {}, 1.0, 4)


def test_creates_and_changes_come_before_deletes_and_events_before_what_they_make_known(state: State) -> None:
    batch = Batch()
    batch.add(deleted("docs", state, DocumentKey("s", "old"), AT))
    batch.add(changed("docs", state, DocumentKey("s", "new"), fetched("new"), AT))
    batch.add(deleted("docs", state, DocumentKey("s", "older"), AT))
    batch.add(changed("docs", state, DocumentKey("s", "newer"), fetched("newer"), AT))
    keys = [DocumentKey.from_bytes(one.key or b"").path for one in batch.records()]
    assert keys == ["new", "newer", "old", "older"] * 2
    assert [one.topic == "docs" for one in batch.records()] == [True] * 4 + [False] * 4


def test_a_later_event_of_a_document_replaces_the_earlier_one(state: State) -> None:
    batch = Batch()
    batch.add(changed("docs", state, DocumentKey("s", "a"), fetched("a", "x" * 1000), AT))
    large = batch.size
    batch.add(changed("docs", state, DocumentKey("s", "a"), fetched("a", "y"), AT))
    assert len(batch) == 1
    assert batch.size < large - 900
    record = batch.records()[0]
    event = decode_event(Record("docs", 0, 0, record.key, record.value, record.headers))
    assert getattr(event, "text", None) == "y"
    batch.add(deleted("docs", state, DocumentKey("s", "a"), AT))
    assert batch.known() == {"a": None}


def test_all_that_is_published_is_part_of_what_is_known() -> None:
    """Given documents that differ in one thing only, then what is known of them differs too."""
    one = Fetched("a", "r", "t", "d", "text/plain", {"n": 1}, 1.0)
    others = [
        Fetched("a", "r", "t", "other", "text/plain", {"n": 1}, 1.0),
        Fetched("a", "r", "t", "d", "text/markdown", {"n": 1}, 1.0),
        Fetched("a", "r", "t", "d", "text/plain", {"n": 2}, 1.0),
        Fetched("a", "r", None, "d", "text/plain", {"n": 1}, 1.0),
        Fetched("a", "r", "t", "d", "text/plain", {"n": 1}, 1.0, omitted="why"),
    ]
    assert len({known_of(each) for each in [one, *others]}) == 6
    assert known_of(Fetched("b", "r", "t", "d", "text/plain", {"n": 1}, 2.0, 9)) == known_of(one)


def test_what_a_log_refuses_shrinks_until_there_is_nothing_left_to_leave_out(state: State) -> None:
    """Metadata go last, and the short ones, by which documents are filtered, after the long ones."""
    metadata = {"long": "x" * 600_000, "some": "x" * 20_000, "acl": ["a", "b"], "tenant": "acme"}
    whole = Fetched("a", "r", "text", "digest", "text/plain", metadata, 1.0, 4)
    one: Pending | None = changed("docs", state, DocumentKey("s", "a"), whole, AT)
    seen, known = [], known_of(whole)
    while (one := smaller("docs", one, "1 MB")) is not None:  # type: ignore[arg-type]
        record = one.records[0]
        event = decode_event(Record("docs", 0, 0, record.key, record.value, record.headers))
        assert isinstance(event, DocumentChanged)
        assert (event.text, event.omitted, one.known) == (None, "too large for the log: 1 MB", known)
        seen.append(sorted(event.metadata))
    assert seen == [["acl", "some", "tenant"], ["acl", "tenant"], []]
    assert smaller("docs", deleted("docs", state, DocumentKey("s", "a"), AT), "1 MB") is None
