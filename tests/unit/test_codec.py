"""The bytes of every record: pinned by golden files, round trips, and nothing but our own errors for garbage."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import (
    Encoded,
    decode_chunked,
    decode_dead_letter,
    decode_event,
    encode_chunked,
    encode_dead_letter,
    encode_event,
    is_delete,
)
from pipeline.errors import MalformedRecord, NewerSchema
from pipeline.identity import DocumentKey
from pipeline.ports import Headers, Record
from pipeline.records import (
    ChunkedDocument,
    ChunkSpan,
    DeadLetter,
    DocumentChanged,
    DocumentDeleted,
    Origin,
    Provenance,
)

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = DocumentKey("docs", "ordner/größe ☃.md")
PROVENANCE = Provenance(1_700_000_000.25, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", backfill=True)
CHANGED = DocumentChanged(
    KEY, "# Größe\n\nText ☃", {"title": "Größe", "tags": ["a", "b"], "n": 1, "x": 1.5, "ok": True}, "text/markdown",
    "d1", PROVENANCE, size=18,
)  # fmt: skip
OMITTED = DocumentChanged(KEY, None, {}, "text/plain", "d2", PROVENANCE, "1.0 GB, over the limit of 8.4 MB", 10**9)
DELETED = DocumentDeleted(KEY, PROVENANCE)
CHUNKED = ChunkedDocument(
    KEY, 7, "g0123456789ab", "chunked", PROVENANCE, "# Größe\n\nText ☃",
    (ChunkSpan(0, 7, "0" * 32, 3, ("Größe",)), ChunkSpan(9, 15, "1" * 32, 4, ("Größe",), "Größe\n\n")),
    {"title": "Größe"}, "text/markdown",
)  # fmt: skip
LETTER = DeadLetter(
    "g0123456789ab", "embed", Origin("v.p.chunks.g", 3, 42), 7, "bad_vector", "NaN", 2, 1_700_000_001.5,
    b"\x00\xffkey", b"value", (("h", b"\xfe"),),
)  # fmt: skip
ENCODED: dict[str, tuple[Callable[[], Encoded], Callable[[Record], Any], Any]] = {
    "changed-1": (lambda: encode_event(CHANGED), decode_event, CHANGED),
    "omitted-1": (lambda: encode_event(OMITTED), decode_event, OMITTED),
    "deleted-1": (lambda: encode_event(DELETED), decode_event, DELETED),
    "chunked-1": (lambda: encode_chunked(CHUNKED), decode_chunked, CHUNKED),
    "dead-letter-1": (lambda: encode_dead_letter(LETTER), decode_dead_letter, LETTER),
}
DECODERS = (decode_event, decode_chunked, decode_dead_letter)


def record(encoded: Encoded) -> Record:
    return Record("t", 0, 0, encoded.key, encoded.value, encoded.headers)


def as_json(encoded: Encoded) -> dict[str, Any]:
    return {
        "key": (encoded.key or b"").hex(),
        "value": (encoded.value or b"").decode(),
        "headers": [[name, value.decode("latin-1")] for name, value in encoded.headers],
    }


@pytest.mark.parametrize("name", ENCODED)
def test_the_bytes_of_a_record_never_change_under_their_schema_number(name: str) -> None:
    """A golden file is written once. If this fails, raise the schema number and keep the old decoder."""
    encode, decode, value = ENCODED[name]
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert as_json(encode()) == golden
    headers = tuple((name_, text.encode("latin-1")) for name_, text in golden["headers"])
    old = Record("t", 0, 0, bytes.fromhex(golden["key"]), golden["value"].encode(), headers)
    assert decode(old) == value


def test_an_erased_delete_says_so_all_the_way_and_a_plain_one_does_not() -> None:
    for erased in (False, True):
        event = DocumentDeleted(KEY, PROVENANCE, erased=erased)
        assert decode_event(record(encode_event(event))) == event
        document = ChunkedDocument(KEY, 7, "g0123456789ab", "deleted", PROVENANCE, erased=erased)
        assert decode_chunked(record(encode_chunked(document))) == document
        assert is_delete(record(encode_event(event)))
    assert not is_delete(record(encode_event(CHANGED)))
    assert not is_delete(Record("t", 0, 0, KEY.to_bytes(), None))
    assert not is_delete(Record("t", 0, 0, KEY.to_bytes(), b"{}"))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(), st.binary(max_size=20))
def test_an_event_comes_back_as_it_was(text: str, path: str, source: bytes) -> None:
    key = DocumentKey(source.decode("utf-8", "surrogateescape"), path.encode("utf-8", "replace").decode())
    event = DocumentChanged(key, text, {"title": text[:10]}, "text/plain", "d", Provenance(1.5))
    assert decode_event(record(encode_event(event))) == event
    assert DocumentKey.from_text(key.text) == key


@pytest.mark.parametrize("decode", DECODERS)
@given(
    key=st.none() | st.binary(max_size=12),
    value=st.binary(max_size=60),
    kind=st.sampled_from([b"changed", b"deleted", b"chunked", b"dead-letter", b"", b"\xff"]),
    schema=st.sampled_from([b"1", b"0", b"-1", b"x", b""]),
    time=st.sampled_from([b"1.0", b"nan?", b""]),
)
def test_garbage_is_malformed_and_nothing_else(
    decode: Callable[[Record], Any], key: bytes | None, value: bytes, kind: bytes, schema: bytes, time: bytes
) -> None:
    headers: Headers = (("vectide-kind", kind), ("vectide-schema", schema), ("vectide-event-time", time))
    with contextlib.suppress(MalformedRecord):  # or it is a record after all
        decode(Record("t", 0, 0, key, value, headers))


@pytest.mark.parametrize("name", ENCODED)
def test_a_truncated_record_is_malformed(name: str) -> None:
    encode, decode, _ = ENCODED[name]
    encoded = encode()
    assert encoded.value is not None
    if name == "deleted-1":
        return  # its value says nothing
    for end in range(1, len(encoded.value), 7):
        with pytest.raises(MalformedRecord):
            decode(record(Encoded(encoded.key, encoded.value[:end], encoded.headers)))


@pytest.mark.parametrize("name", ENCODED)
def test_a_newer_schema_asks_for_an_upgrade(name: str) -> None:
    encode, decode, _ = ENCODED[name]
    encoded = encode()
    headers = tuple((header, b"2" if header == "vectide-schema" else value) for header, value in encoded.headers)
    with pytest.raises(NewerSchema, match="upgrade"):
        decode(record(Encoded(encoded.key, encoded.value, headers)))
