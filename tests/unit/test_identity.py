"""Names that never change meaning: whatever these give today, stores and logs hold for ever."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import MalformedRecord, Poison
from pipeline.identity import (
    ATTEMPTS,
    MAX_EPOCH,
    OFFSET_BITS,
    DocumentKey,
    attempt_in,
    canonical_json,
    chunk_id,
    content_hash,
    filter_hash,
    fingerprint,
    occurrences,
    stamp_of,
    version_in,
    version_of,
)

#: What names on disk are, to Python: any bytes, those that are not UTF-8 as lone surrogates.
names = st.binary(max_size=24).map(lambda data: data.decode("utf-8", "surrogateescape")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=24
)


@given(names, names)
def test_a_key_survives_the_way_through_bytes_and_text(source: str, path: str) -> None:
    key = DocumentKey(source, path)
    assert DocumentKey.from_bytes(key.to_bytes()) == key
    assert DocumentKey.from_text(key.text) == key
    key.text.encode()  # fit for JSON and terminals, whatever the bytes on disk are


@given(names, names, names, names)
def test_different_keys_have_different_bytes_texts_and_ids(a: str, b: str, c: str, d: str) -> None:
    one, other = DocumentKey(a, b), DocumentKey(c, d)
    assume(one != other)
    assert one.to_bytes() != other.to_bytes()
    assert one.text != other.text
    assert one.doc != other.doc


def test_the_length_prefix_keeps_source_and_path_apart() -> None:
    assert DocumentKey("a", "bc").to_bytes() == b"\0\0\0\x01abc"
    assert DocumentKey("ab", "c").to_bytes() == b"\0\0\0\x02abc"


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\x05abc", b"\xff\xff\xff\xffabc"])
def test_bytes_without_a_fitting_length_prefix_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRecord, match="length prefix"):
        DocumentKey.from_bytes(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_key_or_malformed(data: bytes) -> None:
    try:
        key = DocumentKey.from_bytes(data)
    except MalformedRecord:
        return
    assert key.to_bytes() == data


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (DocumentKey("docs", "a/b.md"), "docs:a/b.md"),
        (DocumentKey("s3:bucket", "a:b"), "s3%3Abucket:a:b"),
        (DocumentKey("docs", "100%.md"), "docs:100%25.md"),
        (DocumentKey("docs", b"caf\xe9".decode("utf-8", "surrogateescape")), "docs:caf%E9"),
        (DocumentKey("", ""), ":"),
    ],
)
def test_only_what_must_be_is_escaped_in_a_text(key: DocumentKey, text: str) -> None:
    assert key.text == text
    assert DocumentKey.from_text(text) == key


@pytest.mark.parametrize("text", ["no colon", "a:%", "a:%4", "a:%zz", "a:%+1", "a:% 1", "a:%1", "%:a", "a:\ud800"])
def test_a_broken_text_is_malformed(text: str) -> None:
    with pytest.raises(MalformedRecord):
        DocumentKey.from_text(text)


def test_a_surrogate_that_stands_for_no_byte_is_poison() -> None:
    with pytest.raises(Poison, match="not_unicode"):
        DocumentKey("docs", "\ud800").to_bytes()


def test_golden_ids_never_change() -> None:
    """A store holds these: another value would make every point an orphan."""
    key = DocumentKey("docs", "ordner/größe ☃.md")
    content = content_hash("Größe\n\nText ☃")
    assert key.doc == "9917b35e-0505-55fb-8d30-f8064d1b3bc9"
    assert content == "cb7c3bc316d590119a68daaec4276f7e"
    assert chunk_id(key, content, 0) == "baa0e4e2-c14e-5ca2-a2bd-31d5d0ecb681"
    assert chunk_id(key, content, 1) == "1b23221a-a2cb-5c12-b0ac-32406c5c7cc9"
    assert filter_hash({"source": "docs", "tags": ["a", "b"]}) == "421f154f3c231702"
    assert fingerprint({"b": 1, "a": [True, None, "ä"]}) == "f3c90efcd7565942"
    assert canonical_json({"b": 1, "a": [True, None, "ä"]}) == b'{"a":[true,null,"\\u00e4"],"b":1}'


def test_chunks_of_equal_text_differ_by_occurrence_and_by_document() -> None:
    content = content_hash("x")
    ids = {chunk_id(DocumentKey("s", path), content, nth) for path in ("a", "b") for nth in range(3)}
    assert len(ids) == 6


@given(st.lists(st.sampled_from("abc")))
def test_occurrences_count_the_equal_ones_before(hashes: list[str]) -> None:
    assert occurrences(hashes) == [hashes[:place].count(one) for place, one in enumerate(hashes)]


epochs = st.integers(0, MAX_EPOCH - 1)
offsets = st.integers(0, (1 << OFFSET_BITS) - 1)
attempts = st.integers(0, ATTEMPTS - 1)


@given(st.tuples(epochs, offsets, attempts), st.tuples(epochs, offsets, attempts))
def test_stamps_are_ordered_as_epoch_offset_and_attempt(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    first, second = (stamp_of(version_of(epoch, offset), attempt) for epoch, offset, attempt in (one, other))
    assert (first < second) == (one < other)
    assert (version_in(first), attempt_in(first)) == (version_of(one[0], one[1]), one[2])
    # A server judges bounds that came as floats.
    assert float(first) == first < 2**50


@pytest.mark.parametrize(("epoch", "offset"), [(-1, 0), (MAX_EPOCH, 0), (0, -1), (0, 1 << OFFSET_BITS)])
def test_a_place_that_no_stamp_can_hold_is_refused(epoch: int, offset: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        version_of(epoch, offset)


@pytest.mark.parametrize("attempt", [-1, ATTEMPTS])
def test_an_attempt_that_no_stamp_can_hold_is_refused(attempt: int) -> None:
    with pytest.raises(ValueError, match="attempt"):
        stamp_of(1, attempt)
