"""The repair walk: what dead writers left goes, what somebody still holds stays."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.identity import DocumentKey, content_hash
from pipeline.ports import CollectionSpec
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.stages import repair as walking
from pipeline.stages.repair import RepairWalk
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.sync import synchronise

GENERATION = "g"


def document(path: str, version: int, *texts: str, event_time: float = 0.0, state: str = "chunked") -> ChunkedDocument:
    spans, start = [], 0
    for text in texts:
        spans.append(ChunkSpan(start, start + len(text), content_hash(text), 1))
        start += len(text)
    provenance = Provenance(event_time)
    return ChunkedDocument(
        DocumentKey("s", path), version, GENERATION, state, provenance, "".join(texts), tuple(spans), {}, "text/plain"  # type: ignore[arg-type]
    )  # fmt: skip


def put(collection: MemoryCollection, *documents: ChunkedDocument) -> None:
    for one in documents:
        synchronise(collection, [one], lambda items: ({item.content_hash: np.eye(1, 8)[0] for item in items}, {}))


@pytest.fixture
def collection() -> MemoryCollection:
    return MemoryStore().create(CollectionSpec("c", GENERATION, 8, "cosine", "m", "c"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walking, "_CALM_SECONDS", 0.0)
    monkeypatch.setattr(walking, "_HURRY_SECONDS", 0.0)


def test_a_deleted_document_s_chunks_go_in_one_walk(collection: MemoryCollection) -> None:
    put(collection, document("a", 1, "one", "two"), document("a", 2, state="deleted"), document("b", 1, "three"))
    assert collection.count_chunks() == 3
    RepairWalk(collection, grace_seconds=1.0).step()
    assert collection.count_chunks() == 1


def test_what_is_held_for_a_rename_or_may_be_stays(collection: MemoryCollection) -> None:
    gone = DocumentKey("s", "a").doc
    put(collection, document("a", 1, "one"), document("a", 2, state="deleted"))
    put(collection, document("b", 1, "two"), document("b", 2, state="deleted", event_time=time.time()))
    walk = RepairWalk(collection, grace_seconds=60.0)
    walk.step({gone})
    assert collection.count_chunks() == 2, "one is held by us, one is young enough to be held by another"
    walk.step()
    assert collection.count_chunks() == 1


def test_more_heads_than_a_page_are_all_looked_at(collection: MemoryCollection) -> None:
    for number in range(200):
        put(collection, document(f"d{number}", 1, f"text {number}"), document(f"d{number}", 2, state="deleted"))
    walk = RepairWalk(collection, grace_seconds=1.0)
    steps = 0
    while collection.count_chunks():
        walk.step()
        steps += 1
        assert steps <= 4
    assert steps == 4


def test_a_rebalance_begins_the_walk_anew(collection: MemoryCollection) -> None:
    for number in range(100):
        put(collection, document(f"d{number}", 1, f"text {number}"))
    walk = RepairWalk(collection, grace_seconds=1.0)
    walk.step()  # the first page is behind us
    first = collection.scan_heads(None, 1)[0][0]
    put(collection, document(first.key.path, 2, state="deleted"))
    walk.hurry()
    walk.step()
    assert collection.count_chunks() == 99
