"""The quality gate: what is worse is refused, by measures that were worked out by hand."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ModelConfig
from pipeline.embedding.batches import embed_all
from pipeline.embedding.loading import load
from pipeline.errors import ConfigError
from pipeline.generations.known_items import KnownItem, known_items
from pipeline.generations.quality import (
    PERMUTATIONS,
    Ask,
    Comparison,
    labelled,
    matching,
    p_value,
    read_qrels,
    read_queries,
    unlabelled,
)
from pipeline.identity import DocumentKey, content_hash
from pipeline.ports import CollectionSpec
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.search.searcher import Searcher
from pipeline.store.memory import MemoryStore
from pipeline.sync import synchronise


def answers(by_text: Mapping[str, Sequence[str]]) -> Ask:
    """A search that knows its answers."""
    return lambda text, top: list(by_text.get(text, ()))[:top]


def values(comparison: Comparison, side: str = "new") -> dict[str, float]:
    return {one.name: round(getattr(one, side), 6) for one in comparison.measures}


def ranked(place: int | None, key: str = "s:a") -> list[str]:
    """Ten documents, the relevant one at a place from 1."""
    found = [f"s:other {number}" for number in range(10)]
    if place is not None:
        found[place - 1] = key
    return found


# ------------------------------------------------------------------------------ the measures


@pytest.mark.parametrize(
    ("relevant", "found", "expected"),
    [
        # Gains 1 at place 1 and 2 at place 3, of 2 and 1 at best: (1 + 2/2) / (2 + 1/log2(3)).
        ({"s:a": 2, "s:b": 1}, ["s:b", "s:x", "s:a"], (2 / (2 + 1 / math.log2(3)), 1.0, 1.0)),
        ({"s:a": 1}, ranked(4), (1 / math.log2(5), 1.0, 1 / 4)),
        ({"s:a": 1}, ranked(10), (1 / math.log2(11), 1.0, 1 / 10)),
        ({"s:a": 1}, [*ranked(None), "s:a"], (0.0, 0.0, 0.0)),
        ({"s:a": 1, "s:b": 1}, ["s:x", "s:b"], (1 / math.log2(3) / (1 + 1 / math.log2(3)), 0.5, 0.5)),
        ({f"s:{n}": 1 for n in range(20)}, [f"s:{n}" for n in range(10)], (1.0, 0.5, 1.0)),
        ({"s:a": 1, "s:b": 0, "s:c": -1}, ["s:b", "s:c", "s:a"], (1 / 2, 1.0, 1 / 3)),
        # What is said twice counts once, and takes one place.
        ({"s:a": 1}, [*["s:x"] * 10, "s:a"], (1 / math.log2(3), 1.0, 1 / 2)),
        ({"s:a": 1}, [], (0.0, 0.0, 0.0)),
        ({"s:Ünï codé\0 \udc80": 1}, ["s:x", "s:Ünï codé\0 \udc80"], (1 / math.log2(3), 1.0, 0.5)),
    ],
)
def test_measures_of_one_query(
    relevant: dict[str, int], found: list[str], expected: tuple[float, float, float]
) -> None:
    comparison = labelled({"q": "text"}, {"q": relevant}, answers({}), lambda text, top: found)
    assert values(comparison) == dict(zip(("nDCG@10", "R@10", "RR@10"), (round(one, 6) for one in expected)))


def test_means_are_over_all_queries_also_those_without_an_answer() -> None:
    queries = {"1": "one", "2": "two", "3": "three", "4": "four"}
    qrels = {id: {"s:a": 1} for id in queries}
    old = answers({"one": ranked(1), "two": ranked(1), "three": ranked(1), "four": ranked(1)})
    new = answers({"one": ranked(1), "two": ranked(2), "three": ranked(None)})
    comparison = labelled(queries, qrels, old, new)
    assert values(comparison, "old") == {"nDCG@10": 1.0, "R@10": 1.0, "RR@10": 1.0}
    assert values(comparison) == {"nDCG@10": round((1 + 1 / math.log2(3)) / 4, 6), "R@10": 0.5, "RR@10": 0.375}
    assert [round(one.difference, 6) for one in comparison.measures][1:] == [-0.5, -0.625]
    assert {one.queries for one in comparison.measures} == {4}


def test_known_items_have_no_ndcg_and_one_answer() -> None:
    items = [KnownItem("one", "s:a"), KnownItem("two", "s:a"), KnownItem("one", "s:b")]
    new = answers({"one": ranked(2), "two": ranked(1)})
    comparison = unlabelled(items, new, new)
    assert values(comparison) == {"R@10": round(2 / 3, 6), "RR@10": 0.5}
    assert not comparison.labelled
    assert comparison.queries == 3


def test_overlap_is_told_and_refuses_nothing() -> None:
    items = [KnownItem("one", "s:a"), KnownItem("two", "s:a"), KnownItem("three", "s:a")]
    old = answers({"one": ranked(1), "two": ["s:a", "s:b", "s:c", "s:d"]})
    new = answers({"one": ["s:a", *(f"s:{n}" for n in range(9))], "two": ["s:a", "s:c"]})
    comparison = unlabelled(items, old, new)
    # 1 of 10, 2 of 4, and two empty answers are the same.
    assert comparison.overlap == pytest.approx((0.1 + 0.5 + 1) / 3)
    assert comparison.ok


def test_only_the_first_ten_count_whatever_a_search_returns() -> None:
    items = [KnownItem("one", "s:a")]
    comparison = unlabelled(items, answers({"one": ranked(1)}), lambda text, top: [*ranked(1), "s:x", "s:y"])
    assert comparison.overlap == 1.0


# ------------------------------------------------------------------------------- what refuses


def hundred(lost: int) -> tuple[dict[str, str], dict[str, dict[str, int]], Ask, Ask]:
    """A hundred queries, of which the new side finds nothing for some."""
    queries = {str(number): f"text {number}" for number in range(100)}
    qrels = {id: {"s:a": 1} for id in queries}
    old = answers({text: ranked(1) for text in queries.values()})
    new = answers({text: ranked(1 if place >= lost else None) for place, text in enumerate(queries.values())})
    return queries, qrels, old, new


@pytest.mark.parametrize(("lost", "ok"), [(0, True), (1, True), (2, False)])
def test_a_measure_may_fall_by_the_tolerance_and_no_more(lost: int, ok: bool) -> None:
    queries, qrels, old, new = hundred(lost)
    comparison = labelled(queries, qrels, old, new, 0.01)
    assert comparison.ok is ok
    assert [name for name in ("nDCG@10", "R@10", "RR@10") if re.search(rf"(^|; ){name} ", comparison.why)] == (
        [] if ok else ["nDCG@10", "R@10", "RR@10"]
    )
    items = [KnownItem(text, "s:a") for text in queries.values()]
    assert unlabelled(items, old, new, 0.01).ok is ok
    assert labelled(queries, qrels, new, old, 0.0).ok, "a gain is no reason to refuse"


def test_known_items_may_fall_by_more_than_labels() -> None:
    for lost, ok in ((5, True), (6, False)):
        queries, qrels, old, new = hundred(lost)
        assert unlabelled([KnownItem(text, "s:a") for text in queries.values()], old, new).ok is ok
        assert not labelled(queries, qrels, old, new).ok


@pytest.mark.parametrize(
    ("measure", "relevant", "old", "new"),
    [
        ("nDCG@10", {"s:a": 3, "s:b": 1}, ["s:a", "s:b"], ["s:b", "s:a"]),
        ("R@10", {"s:a": 100, "s:b": 1}, ["s:a", "s:b"], ["s:a", "s:x"]),
        ("RR@10", {"s:a": 1, "s:b": 100}, ["s:a", "s:b"], ["s:x", "s:b", "s:a"]),
    ],
)
def test_each_measure_refuses_alone_and_is_named(
    measure: str, relevant: dict[str, int], old: list[str], new: list[str]
) -> None:
    comparison = labelled({"q": "t"}, {"q": relevant}, answers({"t": old}), answers({"t": new}), 0.05)
    assert not comparison.ok
    assert re.fullmatch(
        rf"{measure} falls from \d\.\d+ to \d\.\d+, by \d\.\d+, over the tolerance of 0\.05 \(1 queries, p = 1\.0000\)",
        comparison.why,
    )


@pytest.mark.parametrize("measure", ["R@10", "RR@10"])
def test_each_measure_of_known_items_refuses_alone(measure: str) -> None:
    """R falls alone where a last place is lost, RR alone where a first becomes a second."""
    if measure == "R@10":
        old, new, tolerance = ranked(10), ranked(None), 0.2
    else:
        old, new, tolerance = ranked(1), ranked(2), 0.2
    comparison = unlabelled([KnownItem("t", "s:a")], answers({"t": old}), answers({"t": new}), tolerance)
    assert not comparison.ok
    assert comparison.why.startswith(f"{measure} falls")
    assert ";" not in comparison.why


@pytest.mark.parametrize("seed", range(5))
def test_a_random_ranking_is_refused_with_labels_and_without(seed: int) -> None:
    rng = random.Random(seed)
    keys = [f"s:{number}" for number in range(200)]
    queries = {str(number): f"text {number}" for number in range(50)}
    qrels = {id: {key: rng.randint(1, 3) for key in rng.sample(keys, 4)} for id in queries}
    # The old side is no oracle: it has the relevant documents somewhere among the first fifteen.
    good = {
        text: rng.sample([*qrels[id], *rng.sample([key for key in keys if key not in qrels[id]], 11)], 15)
        for id, text in queries.items()
    }
    old = answers(good)

    def scrambled(text: str, top: int) -> list[str]:
        return rng.sample(keys, top)

    comparison = labelled(queries, qrels, old, scrambled)
    assert not comparison.ok
    assert all(one.p_value < 0.001 for one in comparison.measures)
    items = [KnownItem(text, rng.choice(list(qrels[id]))) for id, text in queries.items()]
    comparison = unlabelled(items, old, scrambled)
    assert not comparison.ok
    assert all(one.p_value < 0.001 for one in comparison.measures)
    assert comparison.overlap < 0.2
    assert labelled(queries, qrels, old, old).ok
    assert unlabelled(items, old, old).ok


def test_two_searches_that_find_nothing_are_no_proof() -> None:
    """Given answers that are all of other documents, then there is no difference, and no pass."""
    lost = answers({"t": ranked(None)})
    for comparison in (
        labelled({"q": "t"}, {"q": {"s:a": 1}}, lost, lost),
        unlabelled([KnownItem("t", "s:a")], lost, answers({})),
    ):
        assert not comparison.ok
        assert comparison.why.startswith("neither search has any relevant document")
    assert unlabelled([KnownItem("t", "s:a")], lost, answers({"t": ranked(1)})).ok


def test_without_any_known_item_nothing_passes() -> None:
    comparison = unlabelled([], answers({}), answers({}))
    assert not comparison.ok
    assert "nothing was compared" in comparison.why
    assert comparison.as_json()["measures"] == []


@pytest.mark.parametrize("tolerance", [float("nan"), -0.01, 1.01, float("inf")])
def test_a_tolerance_that_would_refuse_nothing_or_all_is_a_mistake(tolerance: float) -> None:
    def unasked(text: str, top: int) -> list[str]:
        pytest.fail("asked before the tolerance was checked")

    with pytest.raises(ConfigError, match="from 0 to 1"):
        labelled({"q": "t"}, {"q": {"s:a": 1}}, unasked, unasked, tolerance)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        unlabelled([], unasked, unasked, tolerance)


# ------------------------------------------------------------------------- what is compared


def test_queries_without_a_relevant_document_are_left_out_and_counted() -> None:
    queries = {"1": "one", "2": "two", "3": "three", "4": "four"}
    qrels = {"1": {"s:a": 1}, "2": {"s:a": 0}, "3": {}, "5": {"s:a": 1}, "6": {"s:a": 1}}
    asked: list[str] = []

    def ask(text: str, top: int) -> list[str]:
        asked.append(text)
        assert top == 10
        return ["s:a"]

    comparison = labelled(queries, qrels, ask, ask)
    assert set(asked) == {"one"}
    assert (comparison.queries, comparison.left_out, comparison.unasked) == (1, 3, 2)
    assert values(comparison)["R@10"] == 1.0


def test_labels_of_another_set_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(
        ConfigError, match=r"none of the 1 queries of the qrels \(for example 'q1'\).*\(for example '1'"
    ):
        labelled({"1": "one"}, {"q1": {"s:a": 1}}, answers({}), answers({}))
    with pytest.raises(ConfigError, match="none of the 1 queries has a relevant document"):
        labelled({"1": "one"}, {"1": {"s:a": 0}}, answers({}), answers({}))


def test_the_worst_are_those_that_lose_most_and_only_those() -> None:
    places = {"same": (1, 1), "won": (5, 1), "tenth": (1, 10), "gone": (1, None), "second": (1, 2), "third": (1, 3)}
    queries = {id: f"text of {id}" for id in places}
    qrels = {id: {"s:a": 1} for id in places}
    old = answers({queries[id]: ranked(before) for id, (before, _) in places.items()})
    new = answers({queries[id]: ranked(after) for id, (_, after) in places.items()})
    comparison = labelled(queries, qrels, old, new)
    assert [lost.query for lost in comparison.worst] == ["gone", "tenth", "third", "second"]
    tenth = comparison.worst[1]
    assert (tenth.text, tenth.measure, tenth.old) == ("text of tenth", "nDCG@10", 1.0)
    assert tenth.new == pytest.approx(1 / math.log2(11))
    assert tenth.old_top == tuple(ranked(1)[:5])
    assert tenth.new_top == tuple(ranked(10)[:5])
    assert tenth.relevant == ("s:a",)

    items = [KnownItem(queries[id], "s:a") for id in places]
    comparison = unlabelled(items, old, new)
    assert [lost.query for lost in comparison.worst] == ["4", "3", "6", "5"]
    assert [(lost.measure, lost.old, lost.new) for lost in comparison.worst[:2]] == [("RR@10", 1, 0), ("RR@10", 1, 0.1)]


def test_of_many_equal_losses_the_first_five_are_shown() -> None:
    queries, qrels, old, new = hundred(20)
    assert [lost.query for lost in labelled(queries, qrels, old, new).worst] == ["0", "1", "2", "3", "4"]


def test_most_relevant_documents_are_shown_first() -> None:
    relevant = {f"s:{number}": number for number in range(1, 8)}
    comparison = labelled({"q": "t"}, {"q": relevant}, answers({"t": ["s:7"]}), answers({}))
    assert comparison.worst[0].relevant == ("s:7", "s:6", "s:5", "s:4", "s:3")


def test_progress_is_told_after_every_query() -> None:
    queries, qrels, old, new = hundred(0)
    for compare in (
        lambda on: labelled(queries, qrels, old, new, on_query=on),
        lambda on: unlabelled([KnownItem(text, "s:a") for text in queries.values()], old, new, on_query=on),
    ):
        told: list[tuple[int, int]] = []
        compare(lambda done, every: told.append((done, every)))
        assert told == [(done, 100) for done in range(1, 101)]


def test_json_has_plain_types_only() -> None:
    queries, qrels, old, new = hundred(3)
    comparison = labelled(queries, qrels, old, new)
    shown = comparison.as_json()

    def plain(value: object) -> bool:
        if type(value) is dict:
            return all(type(name) is str and plain(one) for name, one in value.items())
        return all(map(plain, value)) if type(value) is list else type(value) in {str, int, float, bool}

    assert plain(shown)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["labelled"] is True
    assert shown["ok"] is False
    assert shown["measures"][1]["difference"] == pytest.approx(-0.03)
    assert shown["worst"][0]["old_top"] == ranked(1)[:5]


# --------------------------------------------------------------------------- the paired test


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.5], 1.0),  # both ways are as far from 0
        ([0.5, 0.5], 2 / 4),
        ([0.1, 0.1, 0.1], 2 / 8),
        ([-0.1, -0.1, -0.1, -0.1], 2 / 16),
        ([0.3, -0.1], 4 / 4),
        ([0.4, 0.3, 0.2, -0.1], 4 / 16),  # 0.8 is reached by +++-, 1.0 by ++++, and both negated
        ([0.1] * 13, 2 / 8192),
        ([0.1] * 3 + [0.0] * 500, 2 / 8),  # equal queries say nothing
    ],
)
def test_p_values_of_few_queries_are_exact(differences: list[float], expected: float) -> None:
    assert p_value(differences) == pytest.approx(expected, abs=1e-12)


def test_p_values_of_many_queries_are_near_the_exact_ones() -> None:
    rng = random.Random(1)
    for shift in (0.0, 0.03, 0.06):
        differences = np.array([rng.gauss(shift, 0.1) for _ in range(16)])
        signs = np.array(list(itertools.product((-1, 1), repeat=16)))
        exact = float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9))
        assert p_value(differences) == pytest.approx(exact, abs=0.02)
        assert p_value(differences) == p_value(differences), "the seed is fixed"


def test_a_clear_difference_is_beyond_chance_and_never_impossible() -> None:
    assert p_value([0.1] * 100) == 1 / (PERMUTATIONS + 1)
    assert p_value([0.1, -0.1] * 50) == 1.0
    assert p_value([0.2] * 30 + [-0.1] * 10) < 0.001


@pytest.mark.parametrize("cells", [1_000, 10_000])  # less than a row, and three
def test_flips_are_drawn_in_blocks_of_bounded_memory(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(0.003, 0.1, 3_000)
    whole = p_value(differences)
    monkeypatch.setattr("pipeline.generations.quality._CELLS", cells)
    monkeypatch.setattr("pipeline.generations.quality.PERMUTATIONS", 1_000)
    tracemalloc.start()
    try:
        assert p_value(differences) == pytest.approx(whole, abs=0.05)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.floats(-1, 1).map(lambda one: round(one, 2)), max_size=12))
def test_a_p_value_is_a_probability_and_knows_no_direction(differences: list[float]) -> None:
    assert 0 < p_value(differences) <= 1
    assert p_value([-one for one in differences]) == pytest.approx(p_value(differences))


def test_equal_sides_have_p_1() -> None:
    queries, qrels, old, _ = hundred(0)
    assert {one.p_value for one in labelled(queries, qrels, old, old).measures} == {1.0}


def test_a_comparison_tells_how_likely_chance_is() -> None:
    queries, qrels, old, new = hundred(4)
    assert {one.p_value for one in labelled(queries, qrels, old, new).measures} == {2 / 16}


# ----------------------------------------------------------------------------- ids and keys


def test_an_id_is_a_key_a_path_or_a_path_without_suffix() -> None:
    keys = ["docs:a/1.txt", "docs:2.md", "docs:3", "docs:50%25.txt", "docs:v1.2.md"]
    qrels = {"q": {"docs:a/1.txt": 1, "2.md": 2, "3": 3, "50%": 4, "v1.2": 5, "1": 6}}
    matched = matching(qrels, iter(keys))
    assert matched.qrels == {"q": dict(zip(keys, range(1, 6)))}
    assert matched.absent == 1, "a file's name without its folder is no id"


@pytest.mark.parametrize("order", list(itertools.permutations(["x:docs:1", "docs:1", "b:1.txt", "c:1"])))
def test_the_nearest_meaning_of_an_id_counts(order: list[str]) -> None:
    """Given several documents that an id could mean, then the whole key comes before the path, it before the rest."""
    # The path of "x:docs:1" is "docs:1"; the path of "c:1" is "1", and so is that of "docs:1".
    assert matching({"q": {"docs:1": 1}}, order).qrels == {"q": {"docs:1": 1}}
    without = [key for key in order if key != "docs:1"]
    assert matching({"q": {"1": 1}}, without).qrels == {"q": {"c:1": 1}}


@pytest.mark.parametrize("order", list(itertools.permutations(["a:1.txt", "b:1.md", "c:1"])))
def test_two_that_fit_less_well_are_no_rivals_of_one_that_fits(order: list[str]) -> None:
    assert matching({"q": {"1": 1}}, order).qrels == {"q": {"c:1": 1}}


@pytest.mark.parametrize(
    ("id", "keys"),
    [
        ("1", ["a:1", "b:1"]),
        ("1.txt", ["a:1.txt", "b:1.txt"]),
        ("1", ["a:1.txt", "b:1.md"]),
        ("1", ["a:1.txt", "a:1.md"]),
    ],
)
def test_an_id_of_two_documents_is_refused(id: str, keys: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"'{re.escape(id)}'.*{keys[0]} and {keys[1]}"):
        matching({"q": {id: 1}}, keys)
    assert matching({"q": {keys[0]: 1}}, [*keys, keys[0]]).absent == 0


def test_documents_that_are_not_in_the_index_are_left_out_and_their_queries_stay() -> None:
    qrels = {"1": {"a": 1, "gone": 1}, "2": {"gone": 1, "lost": 1}}
    matched = matching(qrels, ["s:a.txt", "s:b.txt"])
    assert matched.qrels == {"1": {"s:a.txt": 1}, "2": {}}
    assert matched.absent == 2
    ask = answers({"one": ["s:a.txt"]})
    comparison = labelled({"1": "one", "2": "two"}, matched.qrels, ask, ask)
    assert (comparison.queries, comparison.left_out) == (1, 1)
    assert values(comparison)["R@10"] == 1.0, "a document that nobody can find does not lower the recall"


def test_two_ids_of_one_document_count_by_the_higher_score() -> None:
    assert matching({"q": {"a": 1, "s:a.txt": 3, "a.txt": 2}}, ["s:a.txt"]).qrels == {"q": {"s:a.txt": 3}}


@pytest.mark.parametrize(("keys", "told"), [(["s:a"], "for example s:a"), ([], "for example no document")])
def test_labels_of_another_corpus_are_refused(keys: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"none of the 2 documents .*'1'.*{told}"):
        matching({"q": {"1": 1, "2": 1}}, keys)


# -------------------------------------------------------------------------------- the files


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ('{"id": "1", "text": "one"}\n{"_id": "2", "query": "two"}\n', {"1": "one", "2": "two"}),
        ('\ufeff{"id": 1, "text": " one "}\r\n\r\n', {"1": "one"}),
        ('{"_id": "x", "id": "y", "text": "one", "query": "two", "metadata": {}}', {"x": "one"}),
        ("1\tone\n2 b\ttwo\tand more\u2028here\n", {"1": "one", "2 b": "two\tand more\u2028here"}),
        ('{"id": "1", "text": "\\u00fcber"}', {"1": "über"}),
    ],
)
def test_queries_are_read(tmp_path: Path, text: str, queries: dict[str, str]) -> None:
    file = tmp_path / "queries"
    file.write_bytes(text.encode())
    assert read_queries(file) == queries


@pytest.mark.parametrize(
    ("data", "line", "told"),
    [
        (b'{"id": "1", "text": "one"}\n{"id": "2"', 2, "is no JSON"),
        (b'{"a":' * 100_000, 1, "is no JSON"),
        (b"1\tone\n\nthree\n", 3, "neither JSON nor"),
        (b'{"id": "1"}', 1, "has no text"),
        (b'{"text": "one"}', 1, "has no id"),
        (b'{"id": "1", "text": " "}', 1, "has no text"),
        (b"\tone", 1, "has no id"),
        (b'{"id": true, "text": "one"}', 1, "is no string"),
        (b'{"id": 1.5, "text": "one"}', 1, "is no string"),
        (b'{"id": "1", "text": ["one"]}', 1, "is no string"),
        (b'{"id": "1", "text": "\\ud800"}', 1, "no Unicode"),
        (b'{"id": "1", "text": "one"}\n1\tother\n', 2, "'1' is there twice"),
        (b"1\tone\n2\t\xff\n", 2, "is not UTF-8"),
    ],
)
def test_a_malformed_query_is_named(tmp_path: Path, data: bytes, line: int, told: str) -> None:
    refused(read_queries, tmp_path / "queries", data, f"queries, line {line}", told)


@pytest.mark.parametrize(
    ("text", "qrels"),
    [
        ("query-id\tcorpus-id\tscore\n1\t184\t1\n1\t29\t2\n2\t12\t0\n", {"1": {"184": 1, "29": 2}, "2": {"12": 0}}),
        ("1\t184\t1\n", {"1": {"184": 1}}),
        ("1 0 184 1\r\n1 0 29 -1\r\n", {"1": {"184": 1, "29": -1}}),
        ("1\t0\ta b.txt\t+1\n", {"1": {"a b.txt": 1}}),
        ("\ufeffqid iter docid rel\n1 Q0 184 1\n\n", {"1": {"184": 1}}),
        ("1\tdocs:a b.txt\t1\n1\tdocs:a b.txt\t1\n", {"1": {"docs:a b.txt": 1}}),
        ("1 a 1000\n", {"1": {"a": 1000}}),
    ],
)
def test_labels_are_read(tmp_path: Path, text: str, qrels: dict[str, dict[str, int]]) -> None:
    file = tmp_path / "qrels"
    file.write_bytes(text.encode())
    assert read_qrels(file) == qrels


@pytest.mark.parametrize(
    ("data", "line", "told"),
    [
        (b"1\t184\tx\n", 1, "'x' is no whole number"),
        (b"1\t184\t1\nquery-id\tcorpus-id\tscore\n", 2, "'score' is no whole number"),
        (b"1\t184\t0.5\n", 1, "'0.5'"),
        (b"1\t184\t1_0\n", 1, "'1_0'"),
        (b"1\t184\t1001\n", 1, "up to 1000"),
        (b"1\t184\t-1001\n", 1, "up to 1000"),
        (b"1\t184\t99999999999999999999\n", 1, "up to 1000"),
        (b"1 184\n", 1, "has not the 3 columns"),
        (b"1 0 a b.txt 1\n", 1, "a tab between"),
        (b"1\t\t1\n", 1, "has not the 3 columns"),
        (b"\t184\t1\n", 1, "has not the 3 columns"),
        (b"1\t184\t1\n\n1\t184\t2\n", 3, "had score 1"),
        (b"1\t184\t1\n1\t\xff\t1\n", 2, "is not UTF-8"),
    ],
)
def test_a_malformed_label_is_named(tmp_path: Path, data: bytes, line: int, told: str) -> None:
    refused(read_qrels, tmp_path / "qrels", data, f"qrels, line {line}", told)


@pytest.mark.parametrize("read", [read_queries, read_qrels])
def test_a_file_that_is_empty_or_none_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    refused(read, tmp_path / "empty", b"\n \n", "empty", "has no ")
    with pytest.raises(ConfigError, match=r"missing: No such file[^\n]*\n  \w"):
        read(tmp_path / "missing")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        read(tmp_path)


def test_a_header_alone_is_no_label(tmp_path: Path) -> None:
    refused(read_qrels, tmp_path / "qrels", b"query-id\tcorpus-id\tscore\n", "qrels", "has no label")


def refused(read: Callable[[Path], object], file: Path, data: bytes, where: str, told: str) -> None:
    """Then the error says where, what, and on its own line what to do."""
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert where in caught.value.what
    assert told in str(caught.value)
    assert caught.value.remedy


# ------------------------------------------------------------------------------- with parts


def test_real_searches_are_compared_and_a_scrambled_one_is_refused() -> None:
    """Given two generations of one corpus, then the same search passes, and one of wrong vectors does not."""
    model = load(ModelConfig(provider="hashing", name="hashing"))
    spec = CollectionSpec("c", "g", model.spec.dimension, "cosine", model.spec.fingerprint, "c")
    collection = MemoryStore().create(spec)
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(400)]
    for number in range(60):
        text = " ".join(rng.choices(words, k=12)) + "."
        span = ChunkSpan(0, len(text), content_hash(text), 12)
        document = ChunkedDocument(DocumentKey("s", f"{number}.txt"), 1, "g", "chunked", Provenance(0.0), text, (span,))
        synchronise(collection, [document], lambda items: embed_all(model, items, None, 64))
    searcher = Searcher(collection, model)

    def good(text: str, top: int) -> list[str]:
        return [hit.key for hit in searcher.search(text, top, by_document=True).hits]

    def wrong(text: str, top: int) -> list[str]:
        return good(text[::-1], top)

    items = known_items(collection, 40, 1)
    assert len(items) == 40
    same = unlabelled(items, good, good)
    assert same.ok
    assert values(same)["R@10"] > 0.9
    assert same.overlap == 1.0
    assert not unlabelled(items, good, wrong).ok

    queries = {str(number): item.query for number, item in enumerate(items)}
    labels = {id: {item.key.removeprefix("s:").removesuffix(".txt"): 1} for id, item in zip(queries, items)}
    heads, _ = collection.scan_heads()
    qrels = matching(labels, (head.key.text for head in heads)).qrels
    assert labelled(queries, qrels, good, good).ok
    assert not labelled(queries, qrels, good, wrong).ok


def test_importing_the_gate_loads_no_library_of_measures() -> None:
    """`vectide --help` imports it."""
    code = (
        "import sys, pipeline.generations.quality, pipeline.generations.known_items; "
        "print([name for name in ('ir_measures', 'pytrec_eval', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
