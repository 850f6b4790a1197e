"""The log against its sources: what differs is named, what changes meanwhile is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.batches import encoded, unreadable
from connectors.memory import MemorySource
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.codec import SCHEMA
from pipeline.deadline import Deadline
from pipeline.errors import NewerSchema, Poison, SourceUnavailable, Transient
from pipeline.identity import DocumentKey
from pipeline.ports import Fetched, NewRecord, Skipped
from pipeline.records import DocumentChanged, Provenance
from pipeline.verification.findings import EXAMPLES
from pipeline.verification.sources import LOOKS, SourceReport, compare_sources
from tests.support.sources import Documents, scanned
from tests.unit.connectors.faults import Spy, reopened


def publish(key: DocumentKey, fetched: Fetched | Poison) -> DocumentChanged:
    """As the runner does."""
    found = fetched if isinstance(fetched, Fetched) else unreadable(key.path, "", fetched)
    return encoded(key, found, Provenance(0.0))[0]


@pytest.fixture
def documents() -> Iterator[Documents]:
    broker = EmbeddedBroker(None)
    yield Documents(broker)
    broker.close()


@pytest.fixture
def source(documents: Documents) -> MemorySource:
    """Five documents, published."""
    made = MemorySource("notes")
    for number in range(5):
        made.put(f"d{number}", f"text {number}", {"title": f"T{number}", "tags": ["a", "b"], "n": number})
    scanned(made, documents)
    return reopened(made)


def compare(
    documents: Documents, *sources: object, wait: Callable[[float], object] = lambda _: None
) -> list[SourceReport]:
    return compare_sources(documents.broker, documents.names.documents(0), sources, publish, wait=wait)  # type: ignore[arg-type]


def found(report: SourceReport) -> dict[str, tuple[str, ...]]:
    assert all(len(one.examples) == min(one.count, EXAMPLES) for one in report.findings.values())
    assert report.ok == (not report.unreached and not any(one.count for one in report.findings.values()))
    return {kind: one.examples for kind, one in report.findings.items() if one.count}


def test_a_log_that_equals_its_source_is_said_to(documents: Documents, source: MemorySource) -> None:
    other = MemorySource("other")
    other.put("d0", "of another source")
    scanned(other, documents)
    waits: list[float] = []
    reports = compare(documents, source, reopened(other), wait=waits.append)
    assert [(one.source, one.documents, found(one)) for one in reports] == [("notes", 5, {}), ("other", 1, {})]
    assert waits == [], "nothing was in doubt"
    assert reports[0].as_json()["ok"] is True


def test_what_was_forgotten_is_no_difference_unless_the_log_has_it(documents: Documents, source: MemorySource) -> None:
    source.put("forgotten", "and not in the log")
    source.put("meanwhile", "forgotten after the first look")
    kept_out = [{"forgotten", "d2"}, {"forgotten", "d2", "meanwhile"}]

    def asked() -> Callable[[DocumentKey], object]:
        now = kept_out.pop(0) if len(kept_out) > 1 else kept_out[0]
        return lambda key: key.path in now

    topic = documents.names.documents(0)
    (report,) = compare_sources(documents.broker, topic, [source], publish, wait=lambda _: None, kept_out=asked)
    assert found(report) == {"forgotten, and in the log": ("notes:d2",)}


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (lambda source: source.put("d1", "another text"), "stale in the log"),
        (lambda source: source.put("d1", "text 1", {"title": "T1", "tags": ["a"], "n": 1}), "stale in the log"),
        (
            lambda source: source.put("d1", "text 1", {"title": "T1", "tags": ["a", "b"], "n": 1}, "text/markdown"),
            "stale in the log",
        ),
        (lambda source: source.remove("d1"), "deleted at the source"),
    ],
    ids=["text", "metadata", "media type", "deleted"],
)
def test_a_planted_difference_is_found_and_named(
    documents: Documents, source: MemorySource, plant: Callable[[MemorySource], None], kind: str
) -> None:
    plant(source)
    (report,) = compare(documents, source)
    assert found(report) == {kind: ("notes:d1",)}
    assert not report.ok
    scanned(source, documents)
    assert found(compare(documents, reopened(source))[0]) == {}, "the connector's next scan mends it"


def test_a_document_that_was_never_published_is_missing_and_more_than_the_examples_are_counted(
    documents: Documents, source: MemorySource
) -> None:
    for number in range(EXAMPLES + 3):
        source.put(f"new{number:02}", "text")
    (report,) = compare(documents, source)
    assert found(report) == {"missing from the log": tuple(f"notes:new{number:02}" for number in range(EXAMPLES))}
    assert report.findings["missing from the log"].count == EXAMPLES + 3


def test_what_the_connector_publishes_meanwhile_is_no_finding(documents: Documents, source: MemorySource) -> None:
    source.put("d1", "edited")
    source.put("new", "text")
    source.remove("d2")
    waits: list[float] = []

    def connector(seconds: float) -> None:
        if not waits:
            scanned(reopened(source), documents)
        waits.append(seconds)

    assert found(compare(documents, source, wait=connector)[0]) == {}
    assert len(waits) == 1


def test_a_connector_that_is_at_work_is_waited_for_as_long_as_differences_go(
    documents: Documents, source: MemorySource
) -> None:
    """Given five changes of which one is published at each look, then only what stays is found."""
    for number in range(5):
        source.put(f"d{number}", "edited")
    published = MemorySource("notes", {**reopened(source)._documents})
    for number in range(5):
        published.put(f"d{number}", f"text {number}", {"title": f"T{number}", "tags": ["a", "b"], "n": number})
    waits: list[float] = []

    def connector(seconds: float) -> None:
        number = len(waits)
        waits.append(seconds)
        if number < 4:
            published.put(f"d{number}", "edited")
            scanned(reopened(published), documents)

    assert found(compare(documents, source, wait=connector)[0]) == {"stale in the log": ("notes:d4",)}
    assert len(waits) == 5


def test_a_document_that_says_something_else_at_every_look_is_counted_apart(
    documents: Documents, source: MemorySource
) -> None:
    waits: list[float] = []

    def edit(seconds: float) -> None:
        waits.append(seconds)
        source.put("d1", f"edit {len(waits)}")

    source.put("d1", "edit 0")
    (report,) = compare(documents, source, wait=edit)
    assert found(report) == {}
    assert report.changing == 1
    assert len(waits) == LOOKS


def test_what_was_published_without_its_text_equals_what_it_was_published_from(tmp_path: Path) -> None:
    """Too large for the log, not Unicode, not readable, over the source's limit: as the runner published them."""
    broker = EmbeddedBroker(None)
    documents = Documents(broker, limit_bytes=1000)
    source = MemorySource("notes")
    source.put("large", "x" * (10 << 20), {"title": "T"})
    source.put("surrogate", "a \ud800 b", {"good": "yes", "bad": "\ud800"})
    spy = Spy(source)
    poison = Poison("bad_markup", "no end")
    source.put("poison", "unreadable")
    spy.fetch_errors["poison"] = [poison] * 10
    scanned(spy, documents)  # type: ignore[arg-type]
    assert documents.texts() == {"large": None, "surrogate": None, "poison": None}
    again = Spy(reopened(source))
    again.fetch_errors["poison"] = [poison] * 10
    assert found(compare(documents, again)[0]) == {}
    again.fetch_errors["poison"] = [Poison("bad_markup", "no beginning")] * 10
    source.put("large", "y" * (10 << 20), {"title": "T"})
    assert found(compare(documents, again)[0]) == {"stale in the log": ("notes:large", "notes:poison")}
    broker.close()


class Turned(MemorySource):
    """One of its documents has become binary."""

    def fetch(self, path: str) -> Fetched | Skipped | None:
        return Skipped(path, "r", "binary") if path == "d3" else super().fetch(path)


def test_a_document_that_became_binary_is_deleted_at_the_source(documents: Documents, source: MemorySource) -> None:
    turned = Turned("notes", source._documents)
    (report,) = compare(documents, turned)
    assert found(report) == {"deleted at the source": ("notes:d3",)}
    assert report.documents == 4


def test_what_cannot_be_read_now_is_counted_apart(documents: Documents, source: MemorySource) -> None:
    spy = Spy(source)
    spy.fetch_errors["d1"] = [Transient("permission denied")] * 20
    (report,) = compare(documents, spy)
    assert report.ok
    assert (report.unreadable.count, report.unreadable.examples, report.documents) == (1, ("notes:d1",), 4)


def test_what_differed_and_cannot_be_read_any_more_is_counted_apart_too(
    documents: Documents, source: MemorySource
) -> None:
    """Given a difference whose document cannot be read at the second look, then it is not taken for mended."""
    source.put("d1", "another text")
    spy = Spy(source)

    def broken(seconds: float) -> None:
        spy.fetch_errors["d1"] = [Transient("permission denied")] * 20

    (report,) = compare(documents, spy, wait=broken)
    assert (found(report), report.changing) == ({}, 0)
    assert (report.unreadable.count, report.unreadable.examples, report.documents) == (1, ("notes:d1",), 5)


def test_what_a_scan_did_not_list_is_fetched_before_it_counts(documents: Documents, source: MemorySource) -> None:
    spy = Spy(source)
    spy.hide = {"d1"}
    (report,) = compare(documents, spy)
    assert (found(report), report.documents) == ({}, 5)


def test_a_source_that_does_not_answer_is_named_and_says_nothing_of_the_others(
    documents: Documents, source: MemorySource
) -> None:
    away = Spy(MemorySource("away"))
    away.scan_errors = [SourceUnavailable("not mounted")]
    source.remove("d1")
    reports = compare(documents, away, source)
    assert reports[0].as_json() == {"source": "away", "ok": False, "unreached": "not mounted"}
    assert found(reports[1]) == {"deleted at the source": ("notes:d1",)}


def test_a_record_that_nobody_can_read_equals_no_document(documents: Documents, source: MemorySource) -> None:
    key = DocumentKey("notes", "d2").to_bytes()
    topic, publisher = documents.names.documents(0), documents.broker.publisher("t")
    publisher.publish([NewRecord(topic, key, b"\xff"), NewRecord(topic, b"no key", b"x")], Deadline.after(5))
    assert found(compare(documents, source)[0]) == {"stale in the log": ("notes:d2",)}
    publisher.publish(
        [NewRecord(topic, key, b"{}", ((SCHEMA, b"99"), ("vectide-kind", b"changed")))], Deadline.after(5)
    )
    with pytest.raises(NewerSchema):
        compare(documents, source)


def test_one_that_was_too_large_for_the_log_equals_it_by_what_was_kept() -> None:
    """Given a record that went without its text and its longest field, then that is no difference, and another access
    list is one.
    """
    broker = EmbeddedBroker(None)
    documents = Documents(broker, limit_bytes=1024)
    source = MemorySource("notes")
    source.put("large", "\x01" * 300_000, {"acl": ["anna"], "notes": "x" * 600_000})
    scanned(source, documents)
    (report,) = compare(documents, reopened(source))
    assert report.ok
    source.put("large", "\x01" * 300_000, {"acl": ["bob"], "notes": "x" * 600_000})
    (report,) = compare(documents, reopened(source))
    assert found(report) == {"stale in the log": ("notes:large",)}
    broker.close()
