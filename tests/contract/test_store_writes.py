"""The Collection port's writes: fences, compare-and-set, sweep and align. One suite, every adapter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import BadVector
from pipeline.identity import filter_hash
from pipeline.points import Alignment, Sweep
from pipeline.ports import Collection
from pipeline.store import conditions
from pipeline.store.collection import PointCollection
from pipeline.store.payload import chunk_payload
from tests.contract.store_points import chunk, chunks_of, contents, head, key, stamp

#: Stamps end below this; as floats they must be exact up to here.
TOP = 1 << 50


def _stamps(collection: Collection) -> dict[str, int]:
    return {one.text: one.stamp for one in chunks_of(collection)}


# ------------------------------------------------------------------------------- chunks


def test_absent_chunks_are_inserted_whatever_the_fence(collection: Collection) -> None:
    collection.upsert_chunks([chunk("d", "a", stamp(5)), chunk("e", "b", stamp(5))], {key("d").doc: 0})
    assert _stamps(collection) == {"a": stamp(5), "b": stamp(5)}


@pytest.mark.parametrize(
    ("present", "written"), [(4, True), (5, False), (6, False)], ids=["below", "at the fence", "above"]
)
def test_a_fence_lets_only_what_is_below_be_overwritten(collection: Collection, present: int, written: bool) -> None:
    collection.upsert_chunks([chunk("d", "a", stamp(present), filters={"acl": "old"})], {})
    collection.upsert_chunks([chunk("d", "a", stamp(5, 1), filters={"acl": "new"})], {key("d").doc: stamp(5)})
    (found,) = chunks_of(collection)
    assert (found.stamp, found.filters) == (
        (stamp(5, 1), {"acl": "new"}) if written else (stamp(present), {"acl": "old"})
    )


def test_to_mend_changes_nothing_and_conditions_hold_after_it(collection: Collection) -> None:
    one, other = chunk("d", "a", stamp(1)), chunk("e", "b", stamp(1))
    collection.upsert_chunks([one, other], {})
    collection.insert_heads([head("d", stamp(1), one), head("e", stamp(1), other)])
    before = contents(collection)
    collection.mend([key("d").doc, key("absent").doc])
    assert contents(collection) == before
    assert [round(float(x), 6) for x in collection.vectors([one.content_hash])[one.content_hash]] == [
        round(float(x), 6) for x in one.vector
    ]
    collection.replace_heads([head("d", stamp(2), one)], {key("d").doc: stamp(1)})
    assert collection.heads([key("d").doc])[key("d").doc].stamp == stamp(2)


def test_without_a_fence_of_its_document_a_present_chunk_stays(collection: Collection) -> None:
    """Given chunks of two documents, when only one has a fence, then the other's are only inserted."""
    collection.upsert_chunks([chunk("d", "a", stamp(1)), chunk("e", "b", stamp(1))], {})
    collection.upsert_chunks(
        [chunk("d", "a", stamp(2)), chunk("e", "b", stamp(2)), chunk("e", "c", stamp(2))], {key("d").doc: stamp(2)}
    )
    assert _stamps(collection) == {"a": stamp(2), "b": stamp(1), "c": stamp(2)}
    collection.upsert_chunks([chunk("d", "a", stamp(3))], {})
    assert _stamps(collection)["a"] == stamp(2)


def test_each_document_has_its_own_fence(collection: Collection) -> None:
    collection.upsert_chunks([chunk("d", "a", stamp(5)), chunk("e", "b", stamp(5))], {})
    collection.upsert_chunks(
        [chunk("d", "a", stamp(9)), chunk("e", "b", stamp(9))], {key("d").doc: stamp(9), key("e").doc: stamp(4)}
    )
    assert _stamps(collection) == {"a": stamp(9), "b": stamp(5)}


@pytest.mark.parametrize("offset", [-64, -2, -1])
def test_stamps_are_exact_up_to_the_largest(collection: Collection, offset: int) -> None:
    """Given stamps next to 2**50, when fence, head, sweep and align compare them, then one apart is apart."""
    fence = TOP + offset
    collection.upsert_chunks([chunk("d", "below", fence - 1), chunk("d", "at", fence)], {})
    collection.upsert_chunks([chunk("d", "below", fence), chunk("d", "at", fence + 1)], {key("d").doc: fence})
    assert _stamps(collection) == {"below": fence, "at": fence}
    collection.insert_heads([head("d", fence)])
    collection.replace_heads([head("d", fence + 1, reason="wrong")], {key("d").doc: fence - 1})
    assert collection.heads([key("d").doc])[key("d").doc].reason == ""
    collection.replace_heads([head("d", fence + 1, reason="right")], {key("d").doc: fence})
    assert collection.heads([key("d").doc])[key("d").doc].reason == "right"
    change = Alignment(key("d").doc, {"acl": "x"}, filter_hash({"acl": "x"}), fence - 1)
    assert collection.misaligned([change]) == set()
    collection.sweep([Sweep(key("d").doc, frozenset(), fence - 1)])
    assert len(_stamps(collection)) == 2
    assert collection.misaligned([replace(change, stamp=fence)]) == {key("d").doc}
    collection.sweep([Sweep(key("d").doc, frozenset(), fence)])
    assert _stamps(collection) == {}


def test_of_one_id_twice_the_higher_stamp_counts(collection: Collection) -> None:
    newer, older = chunk("d", "a", stamp(7)), chunk("d", "a", stamp(6))
    collection.upsert_chunks([newer, older], {key("d").doc: stamp(9)})
    assert _stamps(collection) == {"a": stamp(7)}
    collection.insert_heads([head("d", stamp(7)), head("d", stamp(6))])
    assert collection.heads([key("d").doc])[key("d").doc].stamp == stamp(7)
    collection.replace_heads([head("d", stamp(9)), head("d", stamp(8))], {key("d").doc: stamp(7)})
    assert collection.heads([key("d").doc])[key("d").doc].stamp == stamp(9)


@pytest.mark.parametrize(
    "bad", [np.array([1, np.nan, 0]), np.array([1, np.inf, 0]), np.array([1, 0]), np.array([[1, 0, 0]])]
)
def test_one_bad_vector_writes_nothing(collection: Collection, bad: np.ndarray) -> None:
    good = [chunk("d", str(n), stamp(1)) for n in range(300)]
    with pytest.raises(BadVector):
        collection.upsert_chunks([*good, replace(good[0], id=good[0].doc, vector=bad.astype(np.float32))], {})
    assert collection.count_chunks() == 0


def test_more_than_one_request_holds(collection: Collection) -> None:
    """Given more documents than one request may have clauses for, when they are written, fenced, swept and
    aligned, then all of them are.
    """
    names = [f"d{n}" for n in range(600)]
    chunks = [chunk(name, name, stamp(1)) for name in names]
    collection.upsert_chunks(chunks, {})
    collection.upsert_chunks([replace(one, stamp=stamp(2)) for one in chunks], {one.doc: stamp(2) for one in chunks})
    collection.insert_heads([head(name, stamp(1)) for name in names])
    collection.replace_heads([head(name, stamp(2)) for name in names], {key(name).doc: stamp(1) for name in names})
    assert {one.stamp for one in collection.heads([key(name).doc for name in names]).values()} == {stamp(2)}
    assert collection.existing([one.id for one in chunks]) == {one.id for one in chunks}
    assert len(collection.vectors([one.content_hash for one in chunks])) == 600
    fields = {"acl": "x"}
    alignments = [Alignment(one.doc, fields, filter_hash(fields), stamp(2)) for one in chunks]
    assert collection.misaligned(alignments) == {one.doc for one in chunks}
    collection.align(alignments)
    assert collection.misaligned(alignments) == set()
    assert collection.count_chunks() == 600
    collection.sweep([Sweep(one.doc, frozenset(), stamp(2)) for one in chunks])
    assert collection.count_chunks() == 0
    assert collection.count_heads() == {"complete": 600}


# -------------------------------------------------------------------------------- heads


def test_a_head_comes_back_as_it_went(collection: Collection) -> None:
    listed = [chunk("Ünïcode/ä:%\u4e2d.md", text, stamp(1)) for text in ("a", "b")]
    fields = {"acl": ["x", "y"], "team": "t", "year": -3, "weight": 0.25, "public": True}
    one = head(
        "Ünïcode/ä:%\u4e2d.md", stamp(3, 2), *listed, filters=fields, state="incomplete", reason="r\0", missing=(1, 4)
    )
    collection.insert_heads([one])
    assert collection.heads([one.doc]) == {one.doc: one}


def test_present_heads_are_not_inserted_over(collection: Collection) -> None:
    collection.insert_heads([head("d", stamp(5))])
    collection.insert_heads([head("d", stamp(9)), head("e", stamp(1))])
    assert {one.key.path: one.stamp for one in collection.heads([key("d").doc, key("e").doc]).values()} == {
        "d": stamp(5),
        "e": stamp(1),
    }


@pytest.mark.parametrize("read", [stamp(4), stamp(5, 1), stamp(6)])
def test_compare_and_set_is_over_exactly_what_was_read(collection: Collection, read: int) -> None:
    """Given a head, when it is replaced over a stamp that it does not have (lower or higher), then it stays."""
    collection.insert_heads([head("d", stamp(5))])
    collection.replace_heads([head("d", stamp(7))], {key("d").doc: read})
    assert collection.heads([key("d").doc])[key("d").doc].stamp == stamp(5)
    collection.replace_heads([head("d", stamp(7))], {key("d").doc: stamp(5)})
    assert collection.heads([key("d").doc])[key("d").doc].stamp == stamp(7)


def test_replacing_never_inserts(collection: Collection) -> None:
    collection.insert_heads([head("d", stamp(5))])
    collection.replace_heads(
        [head("d", stamp(6)), head("absent", stamp(6))], {key("d").doc: stamp(5), key("absent").doc: stamp(5)}
    )
    assert collection.count_heads() == {"complete": 1}


def test_a_head_is_replaced_only_over_its_own_stamp(collection: Collection) -> None:
    """Given two heads, when both are replaced in one call and one has moved, then only the other is."""
    collection.insert_heads([head("d", stamp(5)), head("e", stamp(6))])
    collection.replace_heads(
        [head("d", stamp(9)), head("e", stamp(9))], {key("d").doc: stamp(6), key("e").doc: stamp(6)}
    )
    found = collection.heads([key("d").doc, key("e").doc])
    assert (found[key("d").doc].stamp, found[key("e").doc].stamp) == (stamp(5), stamp(9))


# -------------------------------------------------------------------------------- sweep


def test_sweep_deletes_what_is_neither_kept_nor_above(collection: Collection) -> None:
    keep, gone, above = chunk("d", "keep", stamp(1)), chunk("d", "gone", stamp(5)), chunk("d", "above", stamp(5, 1))
    other = chunk("e", "other", stamp(1))
    collection.upsert_chunks([keep, gone, above, other], {})
    collection.sweep([Sweep(keep.doc, frozenset({keep.id}), stamp(5))])
    assert set(_stamps(collection)) == {"keep", "above", "other"}


def test_sweep_that_keeps_nothing_takes_only_its_document(collection: Collection) -> None:
    collection.upsert_chunks([chunk("d", "a", stamp(1)), chunk("d", "b", stamp(1)), chunk("e", "c", stamp(1))], {})
    collection.insert_heads([head("d", stamp(1)), head("e", stamp(1))])
    collection.sweep([Sweep(key("d").doc, frozenset(), stamp(1))])
    assert set(_stamps(collection)) == {"c"}
    assert collection.count_heads() == {"complete": 2}


def test_heads_are_never_swept(collection: Collection) -> None:
    collection.insert_heads([head("d", stamp(1))])
    collection.sweep([Sweep(key("d").doc, frozenset(), TOP)])
    assert set(collection.heads([key("d").doc])) == {key("d").doc}


# -------------------------------------------------------------------------------- align


def test_align_gives_fields_hash_and_stamp_to_what_differs(collection: Collection) -> None:
    old, new = {"acl": ["x"], "year": 1}, {"acl": ["y", "z"], "public": False}
    differs = chunk("d", "differs", stamp(1), filters=old)
    same = chunk("d", "same", stamp(1), filters=new)
    above = chunk("d", "above", stamp(9), filters=old)
    other = chunk("e", "other", stamp(1), filters=old)
    collection.upsert_chunks([differs, same, above, other], {})
    alignment = Alignment(differs.doc, new, filter_hash(new), stamp(5))
    assert collection.misaligned([alignment]) == {differs.doc}
    collection.align([alignment])
    assert collection.misaligned([alignment]) == set()
    assert {one.text: (one.stamp, one.filters, one.filter_hash) for one in chunks_of(collection)} == {
        "differs": (stamp(5), new, filter_hash(new)),
        "same": (stamp(1), new, filter_hash(new)),
        "above": (stamp(9), old, filter_hash(old)),
        "other": (stamp(1), old, filter_hash(old)),
    }


def test_align_takes_fields_away(collection: Collection) -> None:
    """Given a chunk with a field, when its document lost the field, then no filter on it finds the chunk."""
    point = chunk("d", "a", stamp(1), filters={"acl": "x", "year": 1})
    collection.upsert_chunks([point], {})
    fields = {"year": 1}
    collection.align([Alignment(point.doc, fields, filter_hash(fields), stamp(2))])
    assert collection.search(point.vector, 5, {"acl": ("x",)}) == []
    assert len(collection.search(point.vector, 5, {"year": (1,)})) == 1


def test_aligned_chunks_keep_text_and_vector(collection: Collection) -> None:
    point = chunk("d", "text", stamp(1), at=(0, 1, 0))
    collection.upsert_chunks([point], {})
    collection.align([Alignment(point.doc, {"acl": "x"}, filter_hash({"acl": "x"}), stamp(2))])
    (found,) = chunks_of(collection, vectors=True)
    assert (found.text, found.content_hash) == ("text", point.content_hash)
    assert found.vector is not None
    assert found.vector.tolist() == [0, 1, 0]


def test_heads_are_never_aligned(collection: Collection) -> None:
    one = head("d", stamp(1), filters={"acl": "x"})
    collection.insert_heads([one])
    collection.align([Alignment(one.doc, {"acl": "y"}, filter_hash({"acl": "y"}), stamp(2))])
    assert collection.heads([one.doc]) == {one.doc: one}


# ------------------------------------------------------------------------ sharp edges


def test_empty_arguments_do_nothing(collection: Collection) -> None:
    """Given points, when every method gets nothing to do, then nothing happens: least of all to all points."""
    point = chunk("d", "a", stamp(1))
    collection.upsert_chunks([point], {})
    collection.insert_heads([head("d", stamp(1), point)])
    before = contents(collection)
    collection.upsert_chunks([], {})
    collection.upsert_chunks([], {key("d").doc: stamp(9)})
    collection.insert_heads([])
    collection.replace_heads([], {})
    collection.sweep([])
    collection.align([])
    collection.flush()
    assert contents(collection) == before
    assert collection.heads([]) == {}
    assert collection.existing([]) == set()
    assert collection.vectors([]) == {}
    assert collection.misaligned([]) == set()
    assert collection.scan_chunks(docs=[]) == ([], None)
    assert collection.search(point.vector, 0) == []


def test_a_filter_without_clauses_is_refused() -> None:
    with pytest.raises(ValueError, match="every point"):
        conditions.any_of([])


def test_a_point_without_a_stamp_is_below_every_fence(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a point without a stamp, when it is fenced, swept and aligned, then it counts as the oldest; and
    with the fence written as ``must: stamp < s`` it would stay for ever.
    """
    if not isinstance(collection, PointCollection):
        pytest.skip("a store in memory has no points without a stamp")
    point = chunk("d", "a", stamp(1))
    payload = {name: value for name, value in chunk_payload(point).items() if name != "stamp"}
    collection._engine.upsert([(point.id, point.vector, payload)], None, "upsert")
    alignment = Alignment(point.doc, {"acl": "x"}, filter_hash({"acl": "x"}), stamp(1))
    assert collection.misaligned([alignment]) == {point.doc}

    def must_be_below(doc: str, stamp: int) -> conditions.Filter:
        return {"must": [conditions.equals("doc", doc), {"key": "stamp", "range": {"lt": stamp}}]}

    with monkeypatch.context() as weaker:
        weaker.setattr(conditions, "fence", must_be_below)
        collection.upsert_chunks([point], {point.doc: stamp(1)})
        assert collection.misaligned([alignment]) == {point.doc}
        (raw,) = collection._engine.retrieve([point.id], payload=True, vector=False)
        assert "stamp" not in raw.payload
    collection.upsert_chunks([point], {point.doc: stamp(1)})
    assert _stamps(collection) == {"a": stamp(1)}
    collection._engine.delete({"must": [{"has_id": [point.id]}]})
    collection._engine.upsert([(point.id, point.vector, payload)], None, "upsert")
    collection.sweep([Sweep(point.doc, frozenset(), stamp(1))])
    assert collection.count_chunks() == 0


# ------------------------------------------------------------------------------ tombstones


def test_only_a_tombstone_of_exactly_that_stamp_is_dropped(collection: Collection) -> None:
    collection.insert_heads(
        [head("gone", stamp(5), state="deleted"), head("back", stamp(6), state="deleted"), head("live", stamp(5))]
    )
    collection.upsert_chunks([chunk("gone", "a", stamp(5))], {})
    collection.drop_tombstones({key(name).doc: stamp(5) for name in ("gone", "back", "live", "never")})
    found = collection.heads([key(name).doc for name in ("gone", "back", "live")])
    assert sorted(one.key.path for one in found.values()) == ["back", "live"]
    assert len(chunks_of(collection)) == 1, "chunks are for a sweep"
    collection.drop_tombstones({})
    assert len(collection.scan_heads()[0]) == 2
