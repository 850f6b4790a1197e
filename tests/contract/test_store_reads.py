"""The Collection port's reads: search, filters, donors, pages, counts. One suite, every adapter."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.cells import CELLS, chunk_cell, document_cells, head_cells
from pipeline.identity import filter_hash
from pipeline.points import Alignment, Sweep, Where
from pipeline.ports import Collection, CollectionSpec, Store, Tallied
from pipeline.specs import Distance
from tests.contract.store_points import chunk, chunks_of, head, heads_of, key, stamp, vector


def test_search_is_best_first(collection: Collection) -> None:
    collection.upsert_chunks(
        [
            chunk("d", "far", stamp(1), at=(0, 0, 1)),
            chunk("e", "near", stamp(2), at=(1, 0.1, 0)),
            chunk("f", "exact", stamp(3), at=(2, 0, 0)),
        ],
        {},
    )
    hits = collection.search(vector(1, 0, 0), 2)
    assert [hit.text for hit in hits] == ["exact", "near"]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert hits[1].score == pytest.approx(1 / math.sqrt(1.01), abs=1e-5)
    found = chunk("f", "exact", stamp(3))
    assert (hits[0].id, hits[0].doc, hits[0].stamp, hits[0].content_hash) == (
        found.id,
        found.doc,
        found.stamp,
        found.content_hash,
    )


@pytest.mark.parametrize(
    ("distance", "scores"),
    [
        ("cosine", {"long": 1.0, "near": 0.8, "zero": 0.0}),
        ("dot", {"long": 6.0, "near": 0.8, "zero": 0.0}),
        ("euclid", {"near": math.sqrt(0.4), "zero": 1.0, "long": 5.0}),
    ],
)
def test_distances(store: Store, spec: CollectionSpec, distance: Distance, scores: dict[str, float]) -> None:
    """Given each distance, when it is searched, then order and score are its own: euclid's least is best."""
    collection = store.create(replace(spec, distance=distance))
    collection.upsert_chunks(
        [
            chunk("d", "long", stamp(1), at=(6, 0, 0)),
            chunk("d", "near", stamp(1), at=(0.8, 0.6, 0)),
            chunk("d", "zero", stamp(1), at=(0, 1, 0) if distance != "euclid" else (0, 0, 0)),
        ],
        {},
    )
    hits = collection.search(vector(1, 0, 0), 3)
    assert [hit.text for hit in hits] == list(scores)
    assert [hit.score for hit in hits] == pytest.approx(list(scores.values()), abs=1e-5)


def test_search_leaves_documents_out(collection: Collection) -> None:
    collection.upsert_chunks([chunk("d", "a", stamp(1)), chunk("e", "b", stamp(1)), chunk("f", "c", stamp(1))], {})
    hits = collection.search(vector(1, 0, 0), 5, without=[key("d").doc, key("e").doc])
    assert [hit.text for hit in hits] == ["c"]


def test_heads_are_never_found_by_search(collection: Collection) -> None:
    collection.insert_heads([head("d", stamp(1)), head("e", stamp(1))])
    collection.upsert_chunks([chunk("d", "a", stamp(1))], {})
    assert [hit.text for hit in collection.search(vector(1, 0, 0), 10)] == ["a"]


VALUES: dict[str, dict[str, Any]] = {
    "one": {"acl": "x", "team": "red", "year": 1999, "weight": 0.5, "public": True},
    "two": {"acl": ["x", "y"], "team": "blue", "year": -(2**62), "weight": 2.0, "public": False},
    "three": {"acl": [], "team": "true", "year": 1, "weight": -1e300},
    "four": {},
}
FILTERS: list[tuple[Where, set[str]]] = [
    ({}, {"one", "two", "three", "four"}),
    ({"acl": ("x",)}, {"one", "two"}),
    ({"acl": ("y", "z")}, {"two"}),
    ({"acl": ("z",)}, set()),
    ({"acl": ()}, set()),
    ({"team": ("blue", "red")}, {"one", "two"}),
    ({"team": ("true",)}, {"three"}),
    ({"team": (True,)}, set()),
    ({"year": (1999, 1)}, {"one", "three"}),
    ({"year": (1.0,)}, {"three"}),
    ({"year": (1.5,)}, set()),
    ({"year": (True,)}, set()),
    ({"year": (-(2**62),)}, {"two"}),
    ({"year": (10**30,)}, set()),
    ({"weight": (0.5,)}, {"one"}),
    ({"weight": (2, 0.25)}, {"two"}),
    ({"weight": (-1e300,)}, {"three"}),
    ({"weight": (math.nan,)}, set()),
    ({"public": (True,)}, {"one"}),
    ({"public": (False,)}, {"two"}),
    ({"public": (True, False)}, {"one", "two"}),
    ({"public": ("true",)}, set()),
    ({"public": (1,)}, set()),
    ({"acl": ("x",), "public": (False,)}, {"two"}),
    ({"acl": ("x", 7)}, {"one", "two"}),
    ({"undeclared": ("x",)}, set()),
]


@pytest.fixture
def filtered(collection: Collection) -> Collection:
    for name, fields in VALUES.items():
        collection.upsert_chunks([chunk(name, name, stamp(1), filters=fields)], {})
        collection.insert_heads([head(name, stamp(1), filters=fields)])
    return collection


def test_filters_of_all_types(filtered: Collection) -> None:
    """Given fields of every type, when chunks are searched and heads read with a filter, then both agree on
    who passes: any value of a field, every field, and values of another type never.
    """
    docs = [key(name).doc for name in VALUES]
    for where, expected in FILTERS:
        found = {hit.text for hit in filtered.search(vector(1, 0, 0), 10, where)}
        passing = {one.key.path for one in filtered.heads(docs, where).values()}
        assert (where, found, passing) == (where, expected, expected)


def test_filter_values_come_back_as_they_went(filtered: Collection) -> None:
    assert {one.text: dict(one.filters) for one in chunks_of(filtered)} == VALUES
    assert {one.key.path: dict(one.filters) for one in heads_of(filtered)} == VALUES


def test_heads_leaves_absent_ones_out(collection: Collection) -> None:
    collection.insert_heads([head("d", stamp(1))])
    assert set(collection.heads([key("d").doc, key("nothing").doc])) == {key("d").doc}


def test_existing(collection: Collection) -> None:
    there, absent = chunk("d", "a", stamp(1)), chunk("d", "b", stamp(1))
    collection.upsert_chunks([there], {})
    assert collection.existing([there.id, absent.id]) == {there.id}


def test_vectors_by_content_hash(collection: Collection) -> None:
    """Given a text in two documents and another, when vectors are asked for, then each found hash has one."""
    collection.upsert_chunks(
        [
            chunk("d", "shared", stamp(1), at=(0, 1, 0)),
            chunk("e", "shared", stamp(2), at=(0, 1, 0)),
            chunk("e", "own", stamp(2), at=(0, 0, 1)),
        ],
        {},
    )
    shared, own, absent = (chunk("d", text, 0).content_hash for text in ("shared", "own", "absent"))
    found = collection.vectors([shared, own, absent, shared])
    assert {content: one.tolist() for content, one in found.items()} == {shared: [0, 1, 0], own: [0, 0, 1]}
    assert all(one.dtype == "float32" and one.shape == (3,) for one in found.values())


def test_pages_are_stable_and_complete(collection: Collection) -> None:
    """Given more points than a page has, when pages are walked while others are written, then each that was
    there all the time comes once.
    """
    chunks = [chunk(f"d{n}", f"t{n}", stamp(1)) for n in range(20)]
    collection.upsert_chunks(chunks, {})
    collection.insert_heads([head(f"d{n}", stamp(1)) for n in range(20)])
    seen, after = collection.scan_chunks(None, 7)
    assert len(seen) == 7
    collection.upsert_chunks([chunk("late", f"l{n}", stamp(1)) for n in range(5)], {})
    while after is not None:
        page, after = collection.scan_chunks(after, 7)
        seen += page
    ids = [one.id for one in seen]
    assert len(ids) == len(set(ids))
    assert set(ids) >= {one.id for one in chunks}
    heads = [one.doc for one in heads_of(collection)]
    assert sorted(heads) == sorted(key(f"d{n}").doc for n in range(20))
    assert heads == [one.doc for one in heads_of(collection)]


def test_chunks_of_some_documents(collection: Collection) -> None:
    points = [chunk(name, f"{name}{n}", stamp(n), at=(0, 0, 1)) for name in ("d", "e", "f") for n in range(4)]
    collection.upsert_chunks(points, {})
    collection.insert_heads([head("d", stamp(1))])
    found = chunks_of(collection, vectors=True, docs=[key("d").doc, key("f").doc])
    assert {one.text for one in found} == {f"{name}{n}" for name in ("d", "f") for n in range(4)}
    assert all(one.vector is not None and one.vector.tolist() == [0, 0, 1] for one in found)
    assert all(one.vector is None for one in chunks_of(collection, docs=[key("d").doc]))
    (point,) = [one for one in points if one.text == "d2"]
    (same,) = [one for one in found if one.text == "d2"]
    assert (same.id, same.doc, same.stamp, same.content_hash) == (
        point.id,
        point.doc,
        point.stamp,
        point.content_hash,
    )


def test_counts(collection: Collection) -> None:
    """Given heads of several states, when states change, then counts follow and no state is listed with 0."""
    assert (collection.count_heads(), collection.count_chunks()) == ({}, 0)
    collection.insert_heads([head("d", stamp(1)), head("e", stamp(1)), head("f", stamp(1), state="failed")])
    collection.upsert_chunks([chunk("d", "a", stamp(1)), chunk("e", "b", stamp(1))], {})
    assert (collection.count_heads(), collection.count_chunks()) == ({"complete": 2, "failed": 1}, 2)
    collection.replace_heads([head("f", stamp(2), state="deleted")], {key("f").doc: stamp(1)})
    collection.replace_heads([head("e", stamp(2), state="incomplete")], {key("e").doc: stamp(1)})
    assert collection.count_heads() == {"complete": 1, "incomplete": 1, "deleted": 1}


def test_heads_in_some_states(collection: Collection) -> None:
    """Given heads in every state, when some states are scanned over small pages, then just theirs come."""
    states = ("complete", "incomplete", "failed", "omitted", "deleted")
    collection.insert_heads([head(f"{state}{n}", stamp(1), state=state) for state in states for n in range(3)])
    collection.upsert_chunks([chunk("complete0", "a", stamp(1))], {})
    found, after = collection.scan_heads(None, 2, ("failed", "omitted"))
    while after is not None:
        page, after = collection.scan_heads(after, 2, ("failed", "omitted"))
        assert len(page) <= 2
        found += page
    assert sorted(one.key.path for one in found) == [f"{state}{n}" for state in ("failed", "omitted") for n in range(3)]
    assert collection.scan_heads(None, 2, ()) == ([], None)


OF: tuple[Tallied, ...] = ("heads", "tombstones", "documents", "chunks")


def _counted(cells: list[int]) -> dict[int, int]:
    return dict(Counter(cells))


def _tally(collection: Collection, of: Tallied) -> dict[int, int]:
    counts = collection.tally(of)
    assert (counts.shape, counts.dtype) == ((CELLS,), np.int64)
    return {int(cell): int(counts[cell]) for cell in np.flatnonzero(counts)}


def test_tallies_are_of_what_lies_there(collection: Collection) -> None:
    """Given heads in every state and chunks, when they are written over, aligned and swept, then each tally counts
    the cells of the points as they are then, and of no others.
    """
    assert [_tally(collection, of) for of in OF] == [{}, {}, {}, {}]
    fields = {"acl": ["x"], "public": True}
    chunks = [chunk(name, f"{name}{n}", stamp(1)) for name in ("d", "e") for n in range(3)]
    heads = [head(f"s{n}", stamp(1), state=state) for n, state in enumerate(("incomplete", "failed", "omitted"))]
    heads += [head(f"g{n}", stamp(1), state="deleted") for n in range(2)]
    heads += [head("d", stamp(1), *chunks[:3]), head("e", stamp(1), *chunks[3:])]
    collection.insert_heads(heads)
    collection.upsert_chunks(chunks, {})

    def check() -> None:
        there, lying = heads_of(collection), chunks_of(collection)
        for of, state in (("heads", "complete"), ("tombstones", "deleted")):
            cells = [cell for one in there if one.state == state for cell in head_cells(one)]
            assert _tally(collection, of) == _counted(cells)  # type: ignore[arg-type]
        cells = [cell for one in lying for cell in document_cells(one.doc, one.filter_hash)]
        assert _tally(collection, "documents") == _counted(cells)
        assert _tally(collection, "chunks") == _counted([chunk_cell(one.id) for one in lying])

    check()
    collection.upsert_chunks(
        [replace(chunks[0], stamp=stamp(2), filters=fields, filter_hash=filter_hash(fields))], {chunks[0].doc: stamp(2)}
    )
    check()
    collection.align([Alignment(key("e").doc, fields, filter_hash(fields), stamp(1))])
    check()
    collection.replace_heads([head("e", stamp(3), chunks[3])], {key("e").doc: stamp(1)})
    collection.sweep([Sweep(key("e").doc, frozenset({chunks[3].id}), stamp(3))])
    collection.replace_heads([head("d", stamp(4), state="deleted")], {key("d").doc: stamp(1)})
    check()
    assert sum(_tally(collection, "chunks").values()) == 4


def test_documents_by_the_cells_of_their_points(collection: Collection) -> None:
    """Given points, when those in some cells are asked for over small pages, then a document comes for each of its
    points that is in one of the cells, and in one of the others where there are any.
    """
    chunks = [chunk(name, f"{name}{n}", stamp(1)) for name in ("d", "e", "f") for n in range(4)]
    collection.upsert_chunks(chunks, {})
    collection.insert_heads([head(name, stamp(1)) for name in ("d", "e")])
    collection.insert_heads([head("f", stamp(1), state="deleted"), head("g", stamp(1), state="failed")])

    def asked(of: Tallied, cells: list[int], others: list[int] | None = None) -> list[str]:
        found, after = collection.in_cells(of, cells, others, None, 2)
        while after is not None:
            page, after = collection.in_cells(of, cells, others, after, 2)
            found += page
        return sorted(found)

    d, e, f = (key(name).doc for name in ("d", "e", "f"))
    of_d, of_e, of_f = (document_cells(doc, filter_hash({})) for doc in (d, e, f))
    assert asked("documents", [of_d[0]]) == [d] * 4
    assert asked("documents", [of_d[0], of_e[0]], [of_e[1], of_f[1]]) == [e] * 4
    assert asked("documents", [of_d[1], of_f[1]]) == sorted([d, f] * 4)
    assert asked("chunks", [chunk_cell(chunks[1].id), chunk_cell(chunks[9].id)]) == sorted([d, f])
    assert asked("heads", list(head_cells(head("d", stamp(1))))) == [d]
    assert asked("heads", list(head_cells(head("f", stamp(1), state="deleted")))) == []
    assert asked("tombstones", [head_cells(head("f", stamp(1), state="deleted"))[1]]) == [f]
    assert asked("documents", []) == asked("documents", [of_d[0]], []) == []


@pytest.mark.parametrize("text", ["", "\0\x01", "\U0001f600 \u202e\u0301", "a" * 100_000])
def test_texts_come_back_as_they_went(collection: Collection, text: str) -> None:
    collection.upsert_chunks([chunk("d", text, stamp(1))], {})
    (found,) = chunks_of(collection)
    assert found.text == text
