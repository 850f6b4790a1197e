"""What a topic's records say: Debezium's envelopes, plain JSON, and texts."""

from __future__ import annotations

import bisect
import contextlib
import json
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.records import NoDocument, OwnRecords, Told, TopicRecords
from connectors.kafka.settings import TopicSettings
from pipeline.codec import encode_event
from pipeline.errors import Poison
from pipeline.identity import DocumentKey
from pipeline.ports import Record
from pipeline.records import DocumentDeleted, Provenance
from tests.fuzz.settings import FUZZ

TOPIC = "shop.public.articles"


def records(format: str = "json", **settings: Any) -> TopicRecords:
    return TopicRecords(TOPIC, TopicSettings.model_validate({"format": format, **settings}))


def record(key: Any, value: Any, **more: Any) -> Record:
    return Record(TOPIC, 3, 17, _bytes(key), _bytes(value), **{"timestamp": 5.0, **more})


def _bytes(one: Any) -> bytes | None:
    return one if one is None or isinstance(one, bytes) else json.dumps(one).encode()


def wrapped(payload: Any) -> Any:
    return {"schema": {"type": "struct", "fields": []}, "payload": payload}


def envelope(op: str, before: Any = None, after: Any = None, **more: Any) -> Any:
    return {"op": op, "before": before, "after": after, "source": {"ts_ms": 1_700_000_000_500}, "ts_ms": 1, **more}


# ------------------------------------------------------------------------------ Debezium

_VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.text(st.characters(codec="utf-8")))
_ROWS = st.dictionaries(st.sampled_from(["title", "body", "price", "tags"]), _VALUES)
_KEYS = st.dictionaries(
    st.sampled_from(["id", "tenant"]), st.one_of(st.integers(), st.text(st.characters(codec="utf-8"))), min_size=1
)


@FUZZ
@given(
    key=_KEYS, row=_ROWS, op=st.sampled_from("crud"), schema=st.booleans(), key_schema=st.booleans(), flat=st.booleans()
)
def test_a_row_comes_out_of_debezium_as_it_went_in(
    key: dict[str, Any], row: dict[str, Any], op: str, schema: bool, key_schema: bool, flat: bool
) -> None:
    """Given any row, in an envelope or flattened, with and without schemas, then it is the document that it was."""
    full = key | row
    value = (
        full | {"__deleted": "true" if op == "d" else "false", "__source_ts_ms": 1_700_000_000_500}
        if flat
        else envelope(op, before=full if op in "ud" else None, after=None if op == "d" else full)
    )
    one = records("debezium", text="{title}|{body}|{price}")
    sent = record(wrapped(key) if key_schema else key, wrapped(value) if schema else value)
    told = one.told(sent)
    tombstone = one.told(record(wrapped(key) if key_schema else key, None))
    assert told is not None
    assert tombstone is not None
    assert (told.what, tombstone.what) == ("delete" if op == "d" else "put", "delete")
    assert told.path == tombstone.path
    if op != "d":
        found = one.content(sent)
        shown = ["" if row.get(name) is None else row[name] for name in ("title", "body", "price")]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in shown]
        assert found.text == "|".join(texts).replace("\0", "\ufffd")
        assert found.at == 1_700_000_000.5
        assert {name: found.found["value"][name] for name in full} == full


@FUZZ
@given(st.lists(_KEYS, min_size=2, max_size=2))
def test_other_keys_are_other_documents(keys: list[dict[str, Any]]) -> None:
    first, second = ({name: str(value) for name, value in sorted(one.items())} for one in keys)
    told = [records("debezium").told(record(one, envelope("c", after={}))) for one in (first, second)]
    assert (told[0] == told[1]) == (list(first.values()) == list(second.values()))


@FUZZ
@given(st.binary(), st.binary())
def test_other_bytes_are_other_documents(one: bytes, other: bytes) -> None:
    """Given keys of any bytes, then their paths differ and can be written."""
    told = [records("text").told(record(key, b"x")) for key in (one, other)]
    assert told[0] is not None
    assert told[1] is not None
    told[0].path.encode()
    assert (told[0].path == told[1].path) == (one == other)


def test_the_key_is_the_path_and_parts_are_escaped() -> None:
    told = records("debezium").told(record({"tenant": "a/b", "id": 7}, envelope("c", after={})))
    assert told == Told("put", "shop.public.articles/a%2Fb/7")


@pytest.mark.parametrize(
    "value",
    [
        {"ts_ms": 1},
        {"status": "BEGIN", "id": "571:1", "event_count": None, "data_collections": None},
        {"source": {}, "databaseName": "shop", "ddl": "ALTER TABLE articles", "tableChanges": []},
        envelope("m", message={"prefix": "x", "content": "eA=="}),
    ],
    ids=["heartbeat", "transaction", "schema change", "message"],
)  # fmt: skip
def test_what_is_about_no_row_says_nothing(value: Any) -> None:
    assert records("debezium").told(record({"id": 1}, value)) is None
    assert records("debezium").told(record({"id": 1}, wrapped(value))) is None


def test_a_truncation_is_of_all_documents_of_the_topic() -> None:
    assert records("debezium").told(record(None, envelope("t"))) == Told("truncate", TOPIC)


def test_without_a_template_the_texts_of_a_row_are_its_text() -> None:
    row = {"id": "a1", "title": "Backups", "price": 3, "body": "Every night.", "note": None, "__op": "c"}
    assert records("debezium").content(record({"id": "a1"}, envelope("r", after=row))).text == "Backups\n\nEvery night."


@pytest.mark.parametrize("placeholder", ["__debezium_unavailable_value", "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="])
def test_a_value_that_was_not_logged_is_not_taken_for_the_text(placeholder: str) -> None:
    sent = record({"id": 1}, envelope("u", after={"id": 1, "title": "T", "body": placeholder}))
    with pytest.raises(Poison, match="did not log body"):
        records("debezium", text="{title}: {body}").content(sent)
    assert records("debezium", text="{title}").content(sent).text == "T"


def test_a_document_of_mongodb_is_a_text_of_json() -> None:
    sent = record({"id": "1"}, envelope("c", after=json.dumps({"title": "T", "author": {"name": "Ann"}})))
    assert records("debezium", text="{title} by {author.name}").content(sent).text == "T by Ann"
    with pytest.raises(Poison, match="whole rows"):
        records("debezium").content(record({"id": "1"}, envelope("u", updateDescription={})))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\0\0\0\0\x11Hbody", "schema 17 of a schema registry"),
        (b"{half", "no JSON"),
        (b"[" * 100_000, "no JSON|nests too deeply"),
        (["a list"], "no record of Debezium"),
        (envelope("x", after={}), "op that is not known"),
    ],
)
def test_what_nobody_can_read_is_poison_of_its_document(value: Any, why: str) -> None:
    """Given a broken value under a good key, then it is that document's: its others go on, and it says why."""
    one, sent = records("debezium"), record({"id": 1}, value)
    assert one.told(sent) == Told("put", f"{TOPIC}/1")
    with pytest.raises(Poison, match=why):
        one.content(sent)


def test_what_is_just_not_too_deep_to_be_read_may_be_too_deep_to_be_written() -> None:
    """Writing takes a little more of the stack than reading: at any depth it is a text or the document's poison."""
    one, depths = records(), range(1, sys.getrecursionlimit() + 1)
    deepest = bisect.bisect_left(depths, True, key=lambda depth: not _readable(b"[" * depth + b"]" * depth))
    for depth in range(deepest - 8, deepest + 2):
        with contextlib.suppress(Poison):
            one.content(record(b"k", b"[" * depth + b"]" * depth))
    for depth in range(deepest - 8, deepest + 2):
        with contextlib.suppress(NoDocument):
            one.told(record(b'{"a":' + b"[" * depth + b"]" * depth + b"}", 1))


def _readable(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except RecursionError:
        return False
    return True


@pytest.mark.parametrize("milliseconds", [10**400, 2**63, -1, 0, True, "soon"])
def test_a_time_that_is_none_is_left_to_the_record(milliseconds: Any) -> None:
    sent = record({"id": "1"}, envelope("c", after={"x": "y"}, source={"ts_ms": milliseconds}, ts_ms=milliseconds))
    assert records("debezium").content(sent).at == sent.timestamp


# --------------------------------------------------------------------------- JSON and texts


@pytest.mark.parametrize(
    ("value", "text"),
    [("a text", "a text"), (7, "7"), (False, "false"), ([1, "é"], '[\n 1,\n "é"\n]'), ({"a": 1}, '{\n "a": 1\n}')],
)
def test_any_value_of_json_is_a_text(value: Any, text: str) -> None:
    assert records().content(record(b"k", value)).text == text


def test_what_carries_its_schema_is_its_payload() -> None:
    """Given a record of any connector of Kafka Connect's, then its schema is no part of the document."""
    sent = record(wrapped({"id": 7}), wrapped({"title": "T"}))
    assert records(text="{title}").told(sent) == Told("put", f"{TOPIC}/7")
    assert records(text="{title}").content(sent).text == "T"
    assert records().content(sent).text == '{\n "title": "T"\n}'


@pytest.mark.parametrize("value", [None, b"null", b" null\n", json.dumps(wrapped(None)).encode()])
def test_null_is_a_delete(value: bytes | None) -> None:
    assert records().told(record(b"k", value)) == Told("delete", f"{TOPIC}/k")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"plain", "plain"),
        (b'"quoted"', "quoted"),
        (b'{"id": 7, "part": "x"}', "7/x"),
        (b"007", "007"),
        (b"{half", "{half"),
        (b"", "%"),
        (b"..", "%2E%2E"),
        (b"\xc3(", "%C3("),
    ],
)
def test_keys_of_any_form_name_documents(key: bytes, path: str) -> None:
    assert records().told(record(key, 1)) == Told("put", f"{TOPIC}/{path}")


def test_a_key_can_be_chosen_from_key_value_and_record() -> None:
    chosen = records(key=["$.key.tenant", "$.value.meta.id", "$.record.partition"])
    assert chosen.told(record({"tenant": "t"}, {"meta": {"id": 7}})) == Told("put", f"{TOPIC}/t/7/3")
    each = records("text", key=["$.record.partition", "$.record.offset"])
    assert each.told(record(None, b"an event")) == Told("put", f"{TOPIC}/3/17")
    row = records("debezium", key="$.value.slug")
    assert row.told(record({"id": 1}, envelope("d", before={"slug": "s"}))) == Told("delete", f"{TOPIC}/s")


@pytest.mark.parametrize(
    ("settings", "key", "value", "why"),
    [
        ({}, None, 1, "it has no key"),
        ({}, {}, 1, "empty object"),
        ({}, b"k" * 5000, 1, "too long"),
        ({"key": "$.value.id"}, b"k", {"id": {"nested": 1}}, "no plain value"),
        ({"key": "$.value.id"}, b"k", None, "a null"),
        ({"key": "$.value.id"}, b"k", b"{half", "no JSON"),
        ({"format": "debezium"}, b"\0\0\0\0\x07abc", envelope("c", after={}), "schema registry"),
    ],
)
def test_what_names_no_document_is_left_out(settings: dict[str, Any], key: Any, value: Any, why: str) -> None:
    with pytest.raises(NoDocument, match=why):
        records(**settings).told(record(key, value))


def test_a_template_writes_what_nests() -> None:
    value = {"title": "T", "tags": ["a", 1], "author": {"name": "Ann"}, "a.b": "dotted", "on": True, "at": {"x": [1]}}
    text = records(text="{{{title}}} {tags} {author.name} {a.b} {on} {at} {gone}{author.gone}")
    assert text.content(record(b"k", value)).text == '{T} a, 1 Ann dotted true {"x": [1]} '


def test_texts_are_utf_8() -> None:
    assert records("text").content(record(b"k", "Ü 漢\0".encode())).text == "Ü 漢\ufffd"
    with pytest.raises(Poison, match="not UTF-8: invalid start byte at byte 1"):
        records("text").content(record(b"k", b"a\xff"))
    with pytest.raises(Poison, match="perhaps written with schema 5 of a schema registry"):
        records("text").content(record(b"k", b"\0\0\0\0\x05\xff"))


def test_what_vectide_itself_has_written_is_refused() -> None:
    """Given a record of a documents topic, then no source reads it: it would publish what it has published."""
    key, value, headers = encode_event(DocumentDeleted(DocumentKey("s", "p"), Provenance(0.0)))
    with pytest.raises(OwnRecords, match="vectide's own"):
        records().told(record(key, value, headers=headers))
