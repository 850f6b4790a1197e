"""A dry run says exactly what a run then publishes, and leaves no trace."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from connectors.certification.rig import Documents, scanned
from connectors.memory import MemorySource
from connectors.rehearsal import KINDS, Rehearsal, rehearse
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.errors import Poison, SourceUnavailable, Transient
from pipeline.ports import Skipped
from pipeline.records import DocumentDeleted, Request
from tests.unit.connectors.faults import Spy, reopened


def rehearsed(source: object, documents: Documents) -> Rehearsal:
    return rehearse(source, documents.broker, documents.names.connector_state)  # type: ignore[arg-type]


def test_a_first_run_would_create_everything(documents: Documents) -> None:
    source = MemorySource("m")
    for number in range(15):
        source.put(f"{number:02}", "text")
    found = rehearsed(source, documents)
    assert found.first
    assert dict(found.counts) == {"created": 15}
    assert found.sample["created"] == [f"m:{number:02}" for number in range(10)]
    assert found.text_bytes == 15 * 4
    assert documents.count() == documents.states() == 0
    scanned(source, documents)
    written = sum(len(record.key or b"") + len(record.value or b"") for record in documents.records())
    assert found.record_bytes == written


def test_there_need_be_no_topics_yet() -> None:
    source = MemorySource("m")
    source.put("a", "x")
    broker = EmbeddedBroker(None)
    assert rehearse(source, broker, "nothing").counts == {"created": 1}
    assert broker.topics("") == {}
    broker.close()


def test_what_differs_is_what_the_next_run_publishes(documents: Documents, tmp_path: Path) -> None:
    source = MemorySource("m")
    for name in ("kept", "touched", "edited", "described", "deleted", "forgotten"):
        source.put(name, name, {"acl": ["staff"]})
    forget = Request("f", "forget", "m", 1.0, 1, paths=("forgotten",))
    scanned(source, documents, tmp_path, requests=lambda: [forget])
    before = documents.count(), documents.states()
    source = reopened(source)
    source.put("touched", "touched", {"acl": ["staff"]})
    source.put("edited", "other", {"acl": ["staff"]})
    source.put("described", "described", {"acl": ["all"]})
    source.put("created", "new")
    source.remove("deleted")
    spy = Spy(source)
    found = rehearsed(spy, documents)
    assert {kind: found.sample[kind] for kind in KINDS} == {
        "created": ["m:created"], "changed": ["m:edited"], "metadata": ["m:described"], "deleted": ["m:deleted"],
    }  # fmt: skip
    assert (found.unchanged, found.kept_out, found.first) == (2, 1, False)
    assert "kept" not in spy.fetched
    assert "forgotten" not in spy.fetched
    assert (documents.count(), documents.states()) == before
    scanned(source, documents, tmp_path, requests=lambda: [forget])
    kinds = Counter("deleted" if isinstance(event, DocumentDeleted) else "other" for event in documents.events())
    assert documents.count() == before[0] + sum(found.counts.values())
    assert kinds["deleted"] == 2


def test_what_cannot_be_read_is_named_and_counts_as_nothing(documents: Documents, tmp_path: Path) -> None:
    source = MemorySource("m")
    for name in ("away", "broken", "picture", "gone"):
        source.put(name, name)
    scanned(source, documents, tmp_path)
    source = reopened(source)
    for name in ("away", "broken", "picture"):
        source.put(name, "other")

    class Spoilt(Spy):
        def fetch(self, path: str) -> object:  # type: ignore[override]
            match path:
                case "away":
                    raise Transient("not now")
                case "broken":
                    raise Poison("extraction_failed", "no such table")
                case "picture":
                    return Skipped(path, "1", "binary")
            return super().fetch(path)

    found = rehearsed(Spoilt(source), documents)
    assert (found.unreadable_count, found.unreadable) == (1, ["m:away"])
    assert found.without_text == ["m:broken: no such table"]
    assert (dict(found.skipped), found.sample["deleted"]) == ({"binary": 1}, ["m:picture"])
    assert found.as_json()["without_text"] == {"count": 1, "examples": ["m:broken: no such table"]}


def test_a_source_that_is_away_is_no_empty_one(documents: Documents) -> None:
    source = MemorySource("m")
    source.put("a", "x")
    source.put("b", "x")
    spy = Spy(source)
    spy.scan_errors = [SourceUnavailable("away")]
    with pytest.raises(SourceUnavailable):
        rehearsed(spy, documents)


def test_a_source_that_was_forgotten_as_a_whole_would_publish_nothing(documents: Documents, tmp_path: Path) -> None:
    source = MemorySource("m")
    source.put("a", "x")
    scanned(source, documents, tmp_path, requests=lambda: [Request("f", "forget", "m", 1.0, 1)])
    found = rehearsed(source, documents)
    assert (dict(found.counts), found.kept_out) == ({}, 1)
