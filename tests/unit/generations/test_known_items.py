"""Known items: every query has one answer, and is drawn whatever the order of the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.generations import known_items as drawing
from pipeline.generations.known_items import MAX_ITEMS, KnownItem, _Sample, known_items
from pipeline.identity import DocumentKey, content_hash
from pipeline.points import Head, StoredChunk
from pipeline.ports import CollectionSpec
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.store.memory import MemoryCollection, MemoryStore
from pipeline.sync import synchronise

SPEC = CollectionSpec("c", "g", 4, "cosine", "m", "c")

Part = tuple[tuple[str, ...], str]
"""Headings and the chunk's own text."""


@pytest.fixture
def collection() -> MemoryCollection:
    return MemoryStore().create(SPEC)


def put(collection: MemoryCollection, path: str, *parts: Part | str, version: int = 1, state: str = "chunked") -> str:
    """A document, its headings embedded before each chunk's own text; its key."""
    spans, start = [], 0
    texts = [("", part) if isinstance(part, str) else part for part in parts]
    for headings, text in texts:
        titles = tuple(headings)
        context = " > ".join(titles) + "\n\n" if titles else ""
        spans.append(ChunkSpan(start, start + len(text), content_hash(context + text), 1, titles, context))
        start += len(text)
    key = DocumentKey("s", path)
    document = ChunkedDocument(
        key, version, "g", state, Provenance(0.0), "".join(text for _, text in texts), tuple(spans), {}, "text/plain"  # type: ignore[arg-type]
    )  # fmt: skip
    synchronise(collection, [document], lambda items: ({item.content_hash: np.ones(4) for item in items}, {}))
    return key.text


def queries(collection: MemoryCollection, count: int = 10, seed: int = 1) -> list[str]:
    return [item.query for item in known_items(collection, count, seed)]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The tide follows the moon. It is late.", "The tide follows the moon."),
        ("Note. The tide follows the moon.", "The tide follows the moon."),
        ('"The tide follows the moon." It is late.', 'The tide follows the moon."'),
        ("the tide\nfollows  the moon", "the tide follows the moon"),
        ("the tide follows the moon\n\nand so on", "the tide follows the moon"),
        ("- the tide follows the moon", "the tide follows the moon"),
        ("月は地球の周りを回る。潮が満ちる。", "月は地球の周りを回る。"),
        ("three words only", None),
        ("- -- --- ----", None),
        ("", None),
    ],
)
def test_a_query_is_the_first_sentence_of_four_words(
    collection: MemoryCollection, text: str, query: str | None
) -> None:
    key = put(collection, "a", text) if text else put(collection, "a")
    assert known_items(collection, 10, 1) == ([KnownItem(query, key)] if query else [])


@pytest.mark.parametrize(
    "line", ["# Moons of a planet", "Moons of a planet\n=====", "\n## Sea\n\n# Moons of a planet\n"]
)
def test_a_heading_s_own_line_and_context_are_no_part_of_the_sentence(collection: MemoryCollection, line: str) -> None:
    put(collection, "a", (("Sea", "Moons of a planet"), f"{line}\nThe tide follows the moon. It is late."))
    assert queries(collection) == ["The tide follows the moon.", "Sea Moons of a planet"]


def test_a_long_query_is_cut_between_words(collection: MemoryCollection) -> None:
    put(collection, "a", "tide " * 1_000)
    put(collection, "b", "one two three " + "x" * 1_000)
    put(collection, "c", "月" * 1_000)
    put(collection, "d", (("Moon" * 50, "one two " * 25), ""))
    fits = "the" + " of" * 99
    put(collection, "e", fits + " of", fits)
    path = "Moon" * 50 + " one two" * 12 + " one"
    assert sorted(queries(collection)) == sorted(
        [" ".join(["tide"] * 60), "one two three", "月" * 300, path, fits],
    )


def test_every_second_query_is_a_heading_path_of_three_words(collection: MemoryCollection) -> None:
    for number in range(6):
        put(collection, f"{number}", (("Guide", f"Install part {number}"), f"Text number {number} says much."))
        put(collection, f"short {number}", ((f"Too short{number}",), f"Another text {number} says less."))
    items = known_items(collection, 12, 1)
    assert [item.query.startswith("Guide Install part") for item in items] == [False, True] * 6
    assert len({item.query for item in items}) == 12


def test_when_one_kind_is_used_up_the_other_goes_on(collection: MemoryCollection) -> None:
    put(
        collection,
        "a",
        (("Guide to tides",), "The tide follows the moon."),
        (("Guide to tides",), "It comes twice a day."),
    )
    put(collection, "b", "Bread is made of flour.")
    assert sorted(queries(collection)) == [
        "Bread is made of flour.", "Guide to tides", "It comes twice a day.", "The tide follows the moon.",
    ]  # fmt: skip
    for path in "ab":
        put(collection, path, (("Guide to", f"nothing {path}"), "none"), version=2)
    assert sorted(queries(collection)) == ["Guide to nothing a", "Guide to nothing b"]


def test_a_text_that_is_sentence_and_heading_is_one_query(collection: MemoryCollection) -> None:
    put(collection, "a", (("The tide follows the moon",), "The tide follows the moon"), "The tide follows the moon")
    assert queries(collection) == ["The tide follows the moon"]


def test_what_several_documents_say_is_left_out(collection: MemoryCollection) -> None:
    """Given equal sentences or headings, whatever their case and white space, then neither is drawn."""
    put(collection, "a", (("Read me first",), "The tide follows the moon. One."), "Only here it is said.")
    put(collection, "b", (("Read Me First",), "The tide  follows\nthe Moon. Two."))
    assert known_items(collection, 10, 1) == [KnownItem("Only here it is said.", "s:a")]


def test_what_one_document_says_twice_is_one_query(collection: MemoryCollection) -> None:
    key = put(collection, "a", "The tide follows the moon. One.", "The Tide follows the moon. Two.")
    assert known_items(collection, 10, 1) == [KnownItem("The Tide follows the moon.", key)]


def test_deleted_documents_and_unlisted_chunks_are_passed_over(collection: MemoryCollection) -> None:
    put(collection, "a", "The tide follows the moon.")
    put(collection, "gone", "This was deleted some time ago.")
    put(collection, "gone", state="deleted", version=2)
    put(collection, "going", "This is deleted just now.")
    doc = DocumentKey("s", "going").doc
    collection._heads[doc] = replace(collection._heads[doc], state="deleted")
    orphan = MemoryStore().create(SPEC)
    put(orphan, "a", "No head lists this any more.")
    collection._chunks.update(orphan._chunks)
    collection._of_doc[DocumentKey("s", "a").doc] |= set(orphan._chunks)
    assert queries(collection) == ["The tide follows the moon."]


def test_each_document_is_asked_for_once_before_any_is_asked_for_twice(collection: MemoryCollection) -> None:
    put(collection, "long", *(f"Sentence number {number} is long." for number in range(12)))
    for number in range(4):
        put(collection, f"{number}", f"Document number {number} is short.")
    for seed in range(20):
        asked = Counter(item.key for item in known_items(collection, 5, seed))
        assert set(asked.values()) == {1}, seed


def test_shared_texts_do_not_use_up_the_sample(collection: MemoryCollection) -> None:
    """Given as many shared texts as others, then there is still an item for each that is wanted."""
    shared = [f"Everybody says this, number {number}." for number in range(20)]
    for number in range(20):
        put(collection, f"{number}", f"Only {number} says this here.", *shared)
    for seed in range(10):
        assert len(queries(collection, 10, seed)) == 10, seed


def test_pages_of_heads_and_chunks_are_all_read(collection: MemoryCollection, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = range(5)
    expected = {put(collection, f"{n}", *(f"Text {n}, part {part}, is here." for part in parts)) for n in range(9)}
    monkeypatch.setattr(drawing, "_HEADS", 2)
    monkeypatch.setattr(drawing, "_CHUNKS", 3)
    items = known_items(collection, 100, 1)
    assert {item.key for item in items} == expected
    assert len(items) == 45


class Backwards:
    """A collection that is read from its other end."""

    def __init__(self, inner: MemoryCollection) -> None:
        self.inner = inner

    def scan_heads(self, after: str | None, limit: int) -> tuple[list[Head], str | None]:
        return self.inner.scan_heads(None, 10_000)[0][::-1], None

    def scan_chunks(self, after: str | None, limit: int, docs: Sequence[str]) -> tuple[list[StoredChunk], str | None]:
        return self.inner.scan_chunks(None, 10_000, docs)[0][::-1], None


def test_the_draw_depends_on_seed_and_content_only(collection: MemoryCollection) -> None:
    for number in range(30):
        put(collection, f"{number}", (("Chapter one", f"part {number}"), f"Text number {number} says much."))
    put(collection, "x", "SAID in two ways here.", "Said in two ways here.")
    drawn = known_items(collection, 8, 1)
    assert known_items(collection, 8, 1) == drawn
    for count in (8, 100):
        backwards = known_items(Backwards(collection), count, 1)  # type: ignore[arg-type]
        assert backwards == known_items(collection, count, 1)
    assert known_items(collection, 8, 2) != drawn


@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijABCDEFGHIJ"), st.sampled_from("xyz")), max_size=60),
    st.integers(1, 12),
)
def test_a_sample_is_the_lowest_hashes_and_knows_what_is_shared(offers: list[tuple[str, str]], most: int) -> None:
    sample = _Sample(most, 1)
    owners: dict[str, set[str]] = {}
    for query, key in offers:
        sample.offer(query, key)
        owners.setdefault(query.casefold(), set()).add(key)
        assert len(sample._kept) <= most
        assert len(sample._highest) == len(sample._kept)
    lowest = sorted(owners, key=sample._hash)[:most]
    assert {(item.query.casefold(), item.key) for item in sample.items()} == {
        (query, *owners[query]) for query in lowest if len(owners[query]) == 1
    }


def test_every_text_is_as_likely_to_be_drawn(collection: MemoryCollection) -> None:
    for number in range(40):
        put(collection, f"{number}", f"Text number {number} says much.")
    drawn = Counter(query for seed in range(400) for query in queries(collection, 4, seed))
    assert len(drawn) == 40
    # 40 each is expected, with a standard deviation of 6.
    assert all(15 <= times <= 65 for times in drawn.values()), drawn


@pytest.mark.parametrize("count", [0, -1, MAX_ITEMS + 1])
def test_a_count_out_of_range_is_refused(collection: MemoryCollection, count: int) -> None:
    with pytest.raises(ConfigError, match=f"draw 1 to {MAX_ITEMS}"):
        known_items(collection, count, 1)


def test_an_empty_collection_has_none(collection: MemoryCollection) -> None:
    assert known_items(collection, 10, 1) == []
