"""Whatever lies in a store: heads, chunks and collections as they were written, or a foreign collection."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import ForeignCollection
from pipeline.identity import DocumentKey, chunk_id, content_hash
from pipeline.points import ChunkPoint, Head, ListedChunk
from pipeline.ports import CollectionSpec
from pipeline.store.collection import metadata_of, spec_of
from pipeline.store.payload import chunk_payload, head_of, head_payload, scored_chunk, stored_chunk, vector_of
from tests.fuzz.bytes import ODD, changed_json, nested
from tests.fuzz.settings import FUZZ

KEY = DocumentKey("docs", "größe%.md")
FIELDS = {"tenant": "tenant", "public": "bool", "n": "integer"}
IDS = [chunk_id(KEY, content_hash(text), 0) for text in ("a", "b")]
HEAD = Head(
    key=KEY,
    stamp=7 * 64 + 1,
    state="incomplete",
    content_version=7,
    event_time=1.5,
    chunks=(ListedChunk(IDS[0], 0, 4, 2, ("A", "B")), ListedChunk(IDS[1], 4, 9, 3, ("A",))),
    metadata={"title": "T", "tags": ["x"], "n": 3},
    filters={"tenant": "t", "public": True, "n": 3},
    filter_hash="ab",
    reason="one cannot be embedded",
    missing=(1,),
)
CHUNK = ChunkPoint(IDS[0], KEY.doc, 64, content_hash("a"), "a", HEAD.filters, "ab", np.ones(4, dtype=np.float32))
SPEC = CollectionSpec("v.p.g1", "g1", 4, "cosine", "m", "c", {"tenant": "tenant"})
HEADS, CHUNKS = head_payload(HEAD), chunk_payload(CHUNK)


def check_head(payload: Any) -> None:
    try:
        head = head_of(payload, FIELDS)
    except ForeignCollection:
        return
    # A truth value in a field that is not declared as one was not written by us, and comes back as a word
    again = head_of(head_payload(head), FIELDS)
    assert replace(again, filters={}) == replace(head, filters={})


def check_chunk(payload: Any) -> None:
    try:
        stored_chunk(IDS[0], payload, FIELDS, None)
        scored_chunk(IDS[0], payload, 0.5)
    except ForeignCollection:
        return


def check_spec(metadata: Any) -> None:
    try:
        spec = spec_of(SPEC.name, metadata)
    except ForeignCollection:
        return
    assert spec_of(SPEC.name, metadata_of(spec)) == spec


def test_what_was_written_comes_back() -> None:
    assert head_of(HEADS, FIELDS) == HEAD
    assert spec_of(SPEC.name, metadata_of(SPEC)) == SPEC
    assert stored_chunk(CHUNK.id, CHUNKS, FIELDS, None).filters == CHUNK.filters


@given(changed_json(HEADS))
@FUZZ
def test_changed_heads(payload: bytes) -> None:
    check_head(json.loads(payload))


@given(st.data())
@FUZZ
def test_changed_lists_of_chunks_and_metadata(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["list", "meta"]))
    check_head({**HEADS, name: data.draw(changed_json(json.loads(HEADS[name]))).decode()})


@given(changed_json(CHUNKS))
@FUZZ
def test_changed_chunks(payload: bytes) -> None:
    check_chunk(json.loads(payload))


@given(changed_json(metadata_of(SPEC)))
@example(b"[]")
@example(b'"vectide"')
@FUZZ
def test_changed_collections(metadata: bytes) -> None:
    check_spec(json.loads(metadata))


@pytest.mark.parametrize("name", ["list", "meta", "key", "missing", "f", "stamp"])
def test_hostile_heads(name: str) -> None:
    for value in (
        nested(b"[", b"]").decode(),
        nested(b'{"a":', b"}", b"1").decode(),
        "[[],[[0]]]",
        "%",
        "%zz:",
        10**400,
    ):
        check_head({**HEADS, name: value})
    check_head({**HEADS, "list": json.dumps([[], [["0" * 20, 0, 1, 1, 0]]])})
    check_head({**HEADS, "list": json.dumps([[["a"]], [["é" * 20, 0, 1, 1, 0]]])})


@pytest.mark.parametrize("odd", [*ODD, {"text": "x"}, {"text": [1, "a"]}, {"text": [[1], [2, 3]]}, {"text": None}])
def test_hostile_vectors(odd: Any) -> None:
    try:
        found = vector_of(odd)
    except ForeignCollection:
        return
    assert found is None or found.dtype == np.float32


def test_a_reader_that_lets_a_wrong_type_through_is_found_out() -> None:
    """A stamp that is a text would end a comparison later, far from where it came from."""
    with pytest.raises(ForeignCollection, match=r"head of document .* cannot be read"):
        head_of({**HEADS, "stamp": "7"}, FIELDS)
    with pytest.raises(ForeignCollection):
        head_of({**HEADS, "list": json.dumps([[], [["0" * 20, 0, 1, 1, 3]]])}, FIELDS)
