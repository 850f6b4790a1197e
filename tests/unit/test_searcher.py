"""Searches while the store changes under them: what is shown is what the heads list now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pipeline.anchors import ANCHORS
from pipeline.cli.search import described
from pipeline.config import ModelConfig
from pipeline.embedding.batches import embed_all
from pipeline.embedding.loading import load
from pipeline.errors import ConfigError, FingerprintMismatch
from pipeline.identity import DocumentKey, content_hash
from pipeline.points import ScoredChunk, Vectors, Where
from pipeline.ports import CollectionSpec
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.search.searcher import Searcher
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.sync import synchronise

MODEL = load(ModelConfig(provider="hashing", name="hashing"))
SPEC = CollectionSpec(
    "c", "g", MODEL.spec.dimension, "cosine", MODEL.spec.fingerprint, "c", filter_fields={"tenant": "keyword"}
)


class Between:
    """A collection in which something happens after the nth search and before the heads are read."""

    def __init__(self, inner: MemoryCollection) -> None:
        self.inner = inner
        self.searches = 0
        self.after: dict[int, Callable[[], None]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def search(self, vector: Vectors, limit: int, where: Where | None, without: Sequence[str]) -> list[ScoredChunk]:
        found = self.inner.search(vector, limit, where, without)
        self.searches += 1
        self.after.pop(self.searches, lambda: None)()
        return found


@pytest.fixture
def collection() -> Between:
    return Between(MemoryStore().create(SPEC))


def put(collection: Between, path: str, version: int, *texts: str, tenant: str = "a", state: str = "chunked") -> None:
    spans, start = [], 0
    for text in texts:
        spans.append(ChunkSpan(start, start + len(text), content_hash(text), len(text.split())))
        start += len(text)
    document = ChunkedDocument(
        DocumentKey("s", path), version, "g", state, Provenance(0.0), "".join(texts), tuple(spans),  # type: ignore[arg-type]
        {"tenant": tenant}, "text/plain",
    )  # fmt: skip
    synchronise(collection.inner, [document], lambda items: embed_all(MODEL, items, None, 64))


def texts(collection: Between, query: str = "tide and moon", top: int = 5, **options: object) -> list[str]:
    answer = Searcher(collection, MODEL).search(query, top, **options)  # type: ignore[arg-type]
    assert answer.complete
    return [hit.text for hit in answer.hits]


def test_a_document_that_is_edited_during_the_search_is_found_as_it_is_now(collection: Between) -> None:
    """Given a head that is replaced after the search, then the answer has the new chunk: no gap."""
    put(collection, "a", 1, "the tide and the moon")
    put(collection, "b", 1, "bread and butter")
    collection.after[1] = lambda: put(collection, "a", 2, "the tide and the moon, revised")
    assert texts(collection)[0] == "the tide and the moon, revised"
    assert collection.searches == 2


def test_a_document_with_one_more_chunk_shows_no_chunk_twice(collection: Between) -> None:
    put(collection, "a", 1, "the tide and the moon", "second tide")
    collection.after[1] = lambda: put(collection, "a", 2, "the tide and the moon", "third tide")
    assert sorted(texts(collection)) == ["the tide and the moon", "third tide"]


def test_a_document_deleted_during_the_search_is_gone(collection: Between) -> None:
    put(collection, "a", 1, "the tide and the moon")
    put(collection, "b", 1, "another tide")
    collection.after[1] = lambda: put(collection, "a", 2, state="deleted")
    assert texts(collection) == ["another tide"]


def test_a_document_deleted_between_two_rounds_is_gone_from_the_first(collection: Between) -> None:
    put(collection, "a", 1, "the tide and the moon")
    put(collection, "b", 1, "another tide")
    collection.after[1] = lambda: put(collection, "b", 2, "another tide indeed")
    collection.after[2] = lambda: put(collection, "a", 2, state="deleted")
    assert texts(collection) == ["another tide indeed"]


def test_a_document_that_loses_its_tenant_is_not_shown_to_it(collection: Between) -> None:
    put(collection, "a", 1, "the tide and the moon", tenant="a")
    collection.after[1] = lambda: put(collection, "a", 2, "the tide and the moon", tenant="b")
    assert texts(collection, where={"tenant": ("a",)}) == []
    assert texts(collection, where={"tenant": ("b",)}) == ["the tide and the moon"]


def test_what_a_dead_writer_left_costs_one_more_look_and_no_more(collection: Between) -> None:
    """Given a chunk that no head lists, then the answer is complete without it."""
    put(collection, "a", 1, "the tide and the moon")
    orphan = MemoryStore().create(SPEC)
    put(Between(orphan), "a", 2, "the tide and the moon, never finished")
    collection.inner._chunks.update(orphan._chunks)
    assert texts(collection) == ["the tide and the moon"]
    assert collection.searches == 2


def test_by_document_each_is_shown_once_by_its_best(collection: Between) -> None:
    put(collection, "a", 1, "the tide and the moon", "tide", "moon over water")
    put(collection, "b", 1, "a tide")
    found = texts(collection, by_document=True)
    assert sorted(found) == ["a tide", "the tide and the moon"]
    assert len(texts(collection)) == 4


@pytest.mark.parametrize(
    ("top", "where", "told"),
    [
        (0, None, "top = 0"),
        (1001, None, "top = 1001"),
        (5, {"x": ("y",)}, "declared: tenant"),
        (5, {"tenant": ()}, "no value"),
    ],
)
def test_a_question_that_makes_no_sense_is_the_asker_s_mistake(
    collection: Between, top: int, where: Where | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Searcher(collection, MODEL).search("x", top, where)  # type: ignore[arg-type]


def test_another_model_s_collection_is_refused() -> None:
    other = MemoryStore().create(CollectionSpec("c", "g", MODEL.spec.dimension, "cosine", "another", "c"))
    with pytest.raises(FingerprintMismatch, match="another"):
        Searcher(other, MODEL)


def test_a_hit_says_its_page_as_long_as_text_and_anchors_are_of_one_version(collection: Between) -> None:
    key, texts = DocumentKey("s", "a.pdf"), ("alpha words", "beta words")

    def put_pages(version: int, state: str, anchors: str) -> None:
        spans = (
            ChunkSpan(0, 11, content_hash(texts[0]), 2),
            ChunkSpan(11, 21, content_hash(texts[1]), 2),
        ) if state == "chunked" else ()  # fmt: skip
        document = ChunkedDocument(
            key, version, "g", state, Provenance(0.0), "".join(texts) if spans else "", spans,  # type: ignore[arg-type]
            {"title": "T", ANCHORS: anchors}, "text/plain",
        )  # fmt: skip
        synchronise(collection.inner, [document], lambda items: embed_all(MODEL, items, None, 64))

    put_pages(1, "chunked", "page 3 8 10")
    searcher = Searcher(collection, MODEL)
    places = {hit.text: hit.as_json() for hit in searcher.search("alpha").hits}
    assert places["alpha words"]["place"] == {"kind": "page", "first": 1, "last": 2}
    assert places["beta words"]["place"] == {"kind": "page", "first": 3, "last": 3}
    assert places["beta words"]["metadata"] == {"title": "T"}
    assert "[0:11] page 1-2" in described(places["alpha words"])
    assert "[11:21] page 3" in described(places["beta words"])
    put_pages(2, "omitted", "page 21")
    assert [hit.place for hit in searcher.search("alpha").hits] == [None, None], "the text is older than the anchors"
