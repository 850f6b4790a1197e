"""Who is looked at: what the counts lead to, what of it can be left out, and when everything is read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from pipeline.cells import chunk_cell, head_cells
from pipeline.identity import DocumentKey, chunk_id, content_hash, filter_hash, stamp_of, version_of
from pipeline.points import Head, ListedChunk
from pipeline.sync import foretelling
from pipeline.verification import Verdict, comparison, judging
from pipeline.verification.comparison import _Comparison
from pipeline.verification.expectations import Expectations
from tests.support.faults import (
    Fault,
    chunk_gone,
    chunk_of_nobody,
    chunk_swapped,
    chunk_too_many,
    chunk_twice,
    deleted_and_not_swept,
    document,
    head_gone,
    older_tombstone,
    other_fields_of_a_chunk,
    other_metadata,
    populate,
    shorter_list,
    tombstone_in_its_place,
)
from tests.support.indexes import EPOCH, Index


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    populate(made)
    yield made
    made.broker.close()


def found(verdict: Verdict) -> set[tuple[str, str]]:
    with verdict:
        return {(one.name, one.kind) for one in verdict.findings}


# ------------------------------------------------------------------- cells in common


def stranger_beside(index: Index, key: DocumentKey) -> Head:
    """A head that nobody knows, in the first cell of a document's head and not in the second."""
    first, second = head_cells(index.head(key))
    for number in count():
        head = Head(
            DocumentKey("unknown", str(number)),
            stamp_of(version_of(EPOCH, 0)),
            "complete",
            version_of(EPOCH, 0),
            1.0,
            filter_hash=filter_hash({}),
        )
        cells = head_cells(head)
        if cells[0] == first and cells[1] != second:
            return head
    raise AssertionError


def test_two_faults_with_a_cell_in_common_do_not_hide_each_other(index: Index) -> None:
    """Given a head that is gone, and one too many in one of its cells, then that cell's count is right, and both are
    found by the other.
    """
    stranger = stranger_beside(index, document(3))
    index.collection.insert_heads([stranger])
    index.drop_head(document(3))
    verdict = index.verify()
    assert verdict.unexplained == 0
    assert found(verdict) == {(document(3).text, "missing"), (stranger.key.text, "orphan")}


def test_a_chunk_in_place_of_another_in_the_same_cell_cannot_be_counted(index: Index) -> None:
    """What stays hidden: a chunk lost and one too many, of one document, that fall into one cell of the ids. Chance
    1 in 65,536, for each such pair.
    """
    head = index.head(document(3))
    lost = head.chunks[0]
    for number in count():
        text = f"left over {number}"
        if chunk_cell(chunk_id(document(3), content_hash(text), 0)) == chunk_cell(lost.id):
            break
    index.drop_chunk(document(3))
    index.add_chunk(document(3), text, head.stamp, filters=head.filters, filter_hash=head.filter_hash)
    assert found(index.verify()) == set()
    index.set_head(document(3), metadata={"now": "it is looked at"})
    index.set_head(document(3), metadata=head.metadata)
    index.drop_chunk(document(3), 1)
    assert found(index.verify()) == {(document(3).text, "unfinished"), (document(3).text, "orphan")}


# ---------------------------------------------------------------- when much is wrong


def test_what_is_half_built_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a collection with a third of its documents, when a tenth of the cells is wrong, then all is read, and what
    is there besides is found as well.
    """
    monkeypatch.setattr(comparison, "_MOST_WRONG", 60)
    index = Index()
    keys = [DocumentKey("s", f"d{number}") for number in range(90)]
    for key in keys[:30]:
        index.put(key)
    index.follow()
    for key in keys[30:]:
        index.put(key)
    index.committed = index.ends()
    index.drop_chunk(keys[0])
    index.add_chunk(DocumentKey("s", "stranger"), "text", stamp_of(version_of(EPOCH, 0)))
    index.add_head(DocumentKey("s", "unknown"), version_of(EPOCH, 0))
    verdict = index.verify()
    assert (verdict.unexplained, verdict.points_read >= verdict.points) == (0, True)
    named = {kind: one.count for kind, one in verdict.named.items() if one.count}
    assert named == {"missing": 60, "unfinished": 1, "orphan": 2}
    verdict.close()
    index.broker.close()


def test_tombstones_that_the_log_has_forgotten_hide_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more tombstones of forgotten documents than counts can tell apart, when one of a deleted document is too
    old, then all tombstones are read, once, and it is found.
    """
    monkeypatch.setattr(comparison, "_MOST_WRONG", 60)
    for number in range(80):
        key = DocumentKey("forgotten", str(number))
        index.add_head(key, version_of(EPOCH, 0), state="deleted", content_version=version_of(EPOCH, 0))
    assert found(index.verify()) == set()
    index.set_head(document(69), stamp=index.head(document(69)).stamp - 64)
    verdict = index.verify()
    assert found(verdict) == {(document(69).text, "stale")}
    assert verdict.points_read < 100


# -------------------------------------------------------------------------- mutants


def _deviation_without(*kinds: str) -> Any:
    def weaker(head: Any, told: Any) -> Any:
        differs = _deviation(head, told)
        return None if differs in kinds else differs

    return weaker


def _chunks_without(*kinds: str) -> Any:
    return lambda head, chunks, covered, replayed: _wrong_chunks(head, chunks, covered, replayed) - set(kinds)


def _only_both(self: Any, of: Any, first: Any, second: Any, *, both: bool) -> None:
    if both:
        _suspect_short(self, of, first, second, both=True)


_deviation = judging.deviation
_wrong_chunks = judging.wrong_chunks
_suspect_short = Expectations.suspect_short
_points = _Comparison._points


def _no_points(self: Any, of: Any, cells: Any, others: Any) -> Iterator[list[str]]:
    return iter(())


def _no_points_by_id(self: Any, of: Any, cells: Any, others: Any) -> Iterator[list[str]]:
    return iter(()) if of == "chunks" else _points(self, of, cells, others)


def _no_look(self: Any) -> int:
    return 0


#: What verification would lack, and a fault that is not found then as what it is.
WEAKER: list[tuple[str, Any, str, Any, Fault]] = [
    ("state", judging, "deviation", _deviation_without("state"), tombstone_in_its_place),
    ("list", judging, "deviation", _deviation_without("list"), shorter_list),
    ("metadata", judging, "deviation", _deviation_without("metadata"), other_metadata),
    ("losses", judging, "wrong_chunks", _chunks_without("unfinished"), chunk_gone),
    ("orphans", judging, "wrong_chunks", _chunks_without("orphan"), chunk_too_many),
    ("duplicates", judging, "wrong_chunks", _chunks_without("duplicate"), chunk_twice),
    ("fields of chunks", judging, "wrong_chunks", _chunks_without("wrong metadata"), other_fields_of_a_chunk),
    ("what is short", Expectations, "suspect_short", lambda *_, **__: None, head_gone),
    ("what is too much", _Comparison, "_points", _no_points, chunk_of_nobody),
    ("what is too much", _Comparison, "_points", _no_points, deleted_and_not_swept),
    ("any difference", _Comparison, "explain", _no_look, older_tombstone),
]


@pytest.mark.parametrize(
    ("what", "where", "name", "weaker", "fault"), WEAKER, ids=lambda one: getattr(one, "__name__", str(one))
)
def test_without_it_a_fault_is_not_found(
    index: Index, monkeypatch: pytest.MonkeyPatch, what: str, where: Any, name: str, weaker: Any, fault: Fault
) -> None:
    random_ = random.Random(1)
    expected = fault(index, document(5), random_)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, weaker)
        assert found(index.verify()) != expected, f"without {what}"
    assert found(index.verify()) == expected


def test_without_the_ids_of_chunks_one_in_place_of_another_is_not_found(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its document has as many chunks as it must have, of the right fields."""
    expected = chunk_swapped(index, document(5), random.Random(1))
    with monkeypatch.context() as patch:
        patch.setattr(Expectations, "suspect_short_chunks", lambda *_: None)
        patch.setattr(_Comparison, "_points", _no_points_by_id)
        with index.verify() as verdict:
            assert (verdict.ok, verdict.unexplained) == (True, 2)
    assert found(index.verify()) == expected


def test_without_either_cell_faults_hide_each_other(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = stranger_beside(index, document(3))
    index.collection.insert_heads([stranger])
    index.drop_head(document(3))
    with monkeypatch.context() as patch:
        patch.setattr(Expectations, "suspect_short", _only_both)
        patch.setattr(_Comparison, "_suspect_points", lambda self, of, cells, others: None)
        assert found(index.verify()) == set()


# --------------------------------------------------------------------- what is foretold


def told(state: str, **changes: Any) -> foretelling.Foretold:
    ids = [chunk_id(document(1), content_hash(text), 0) for text in "ab"]
    chunks = tuple(ListedChunk(id, 0, 1, 1) for id in ids)
    made = foretelling.Foretold(
        document(1).doc,
        7,
        state,  # type: ignore[arg-type]
        filter_hash({}),
        foretelling.list_digest(chunks if state == "complete" else ()),
        foretelling.metadata_digest({}),
        tuple(chunk_cell(id) for id in ids) if state == "complete" else (),
    )
    return replace(made, **changes)


def head(state: str, *letters: str, **changes: Any) -> Head:
    chunks = tuple(ListedChunk(chunk_id(document(1), content_hash(text), 0), 0, 1, 1) for text in letters)
    made = Head(document(1), stamp_of(7), state, 7, 1.0, chunks, filter_hash=filter_hash({}))  # type: ignore[arg-type]
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("made", "foretold", "deviation"),
    [
        (head("complete", "a", "b"), told("complete"), None),
        (head("complete", "a"), told("complete"), "list"),
        (head("complete", "a", "b", missing=(1,)), told("complete"), "list"),
        (head("complete", "a", "b", content_version=6), told("complete"), "list"),
        (head("incomplete", "a", missing=(1,)), told("complete"), None),
        (head("incomplete", "b", missing=(1,)), told("complete"), "list"),
        (head("incomplete", "a", "b"), told("complete"), "list"),
        (head("failed", "z", content_version=3), told("complete"), None),
        (head("omitted", "z"), told("complete"), "list"),
        (head("deleted"), told("complete"), "state"),
        (head("complete", "a", "b"), told("failed"), None),
        (head("failed"), told("failed"), None),
        (head("omitted"), told("failed"), "list"),
        (head("omitted", "z", content_version=3), told("omitted"), None),
        (head("failed"), told("omitted"), None),
        (head("complete", "a", "b"), told("omitted"), "list"),
        (head("incomplete", "a", missing=(1,)), told("omitted"), "list"),
        (head("deleted"), told("deleted"), None),
        (head("deleted", "a"), told("deleted"), "list"),
        (head("complete", "a", "b"), told("deleted"), "state"),
        (head("complete", "a", "b", metadata={"x": 1}), told("complete"), "metadata"),
        (head("failed", filter_hash="other"), told("complete"), "metadata"),
    ],
    ids=str,
)
def test_what_a_version_leads_to(made: Head, foretold: foretelling.Foretold, deviation: str | None) -> None:
    assert foretelling.deviation(made, foretold) == deviation


def test_counts_are_those_of_the_store(index: Index) -> None:
    """Given any collection in order, then what the log foretells is, cell by cell, what the store counts."""
    with index.verify() as verdict:
        assert verdict.ok
    kept: list[dict[str, Any]] = []
    counts = Expectations.counts

    def noting(self: Expectations) -> Any:
        kept.append(counts(self))
        return counts(self)

    Expectations.counts = noting  # type: ignore[method-assign]
    try:
        index.verify().close()
    finally:
        Expectations.counts = counts  # type: ignore[method-assign]
    for of in ("heads", "documents", "chunks"):
        assert kept[0][of].sum() > 0
        assert np.array_equal(kept[0][of], index.collection.tally(of))  # type: ignore[arg-type]
