"""Whatever bytes lie in a topic: a value that is written as it was read, or one of our errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors import duties, state
from pipeline.codec import (
    decode_chunked,
    decode_dead_letter,
    decode_event,
    encode_chunked,
    encode_dead_letter,
    encode_event,
    unreadable,
)
from pipeline.errors import MalformedRecord, NewerSchema
from pipeline.generations import control, transitions
from pipeline.generations.control import ControlState, LogIdentity
from pipeline.identity import DocumentKey
from pipeline.ports import Headers, NewRecord, Record
from pipeline.records import Done, Request
from pipeline.stages import reports
from tests.fuzz.bytes import changed_json, mutated, nested
from tests.fuzz.settings import FUZZ
from tests.support.pipelines import SPEC
from tests.support.workers import NAMES

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> Record:
    told = json.loads((GOLDEN / f"{name}.json").read_text())
    headers = tuple((name, text.encode("latin-1")) for name, text in told["headers"])
    return Record("t", 0, 7, bytes.fromhex(told["key"]), told["value"].encode(), headers)


def again(record: Record, key: bytes | None, value: bytes | None, headers: Headers) -> Record:
    return replace(record, key=key, value=value, headers=headers)


@dataclass
class Kind:
    """A kind of record, and what reads and writes it."""

    originals: list[Record]
    decode: Callable[[Record], Any]
    encode: Callable[[Any], Record | None]


def _event(event: Any) -> Record:
    return again(golden("changed-1"), *encode_event(event))


def _control_records() -> list[Record]:
    (change,) = transitions.found(ControlState(), SPEC, 1.0)
    written: list[NewRecord] = [
        control.log_record(NAMES, LogIdentity(0, "id")),
        *control.change_records(NAMES, change.generation, change.transition),
        control.request_record(NAMES, Request("r1", "forget", "docs", 1.0, 1, ("a", "b%"))),
    ]
    return [Record("control", 0, at, one.key, one.value, one.headers) for at, one in enumerate(written)]


def _rewritten(found: ControlState) -> Record | None:
    """A generation, as it would be written again."""
    if not found.generations:
        return None
    (generation,) = found.generations.values()
    change = control.Transition(generation.id, generation.state, 1.0, "again")
    written = control.change_records(NAMES, generation, change)[0]
    return Record("control", 0, 0, written.key, written.value)


DONE = Done("r1", 1.5, True, 2, ((0, 3), (1, 4)), {0: (1, 3)}, 1)
REPORT = reports.WorkerReport("w", "embed", SPEC.id, 1.0, 2.0, True, "", {"documents": 3.0})
KINDS = {
    "event": Kind([golden("changed-1"), golden("omitted-1"), golden("deleted-1")], decode_event, _event),
    "chunked": Kind([golden("chunked-1")], decode_chunked, lambda it: again(golden("chunked-1"), *encode_chunked(it))),
    "dead letter": Kind(
        [golden("dead-letter-1")],
        decode_dead_letter,
        lambda it: again(golden("dead-letter-1"), *encode_dead_letter(it)),
    ),
    "control": Kind(
        _control_records(),
        lambda record: control.apply(ControlState(), record),
        _rewritten,
    ),
    "connector state": Kind(
        [Record("s", 0, 0, b"k", msgspec.json.encode(state._Entry(1, "r", "d", "f")))],
        state._decode,
        lambda it: Record("s", 0, 0, b"k", msgspec.json.encode(it)),
    ),
    "mark": Kind(
        [Record("s", 0, 0, b"k", duties.encode_done(DONE))],
        lambda record: duties.decode_done(record.value or b""),
        lambda it: Record("s", 0, 0, b"k", duties.encode_done(it)),
    ),
    "report": Kind(
        [Record("r", 0, 0, b"k", msgspec.json.encode(REPORT))],
        reports._decoded,
        lambda it: Record("r", 0, 0, b"k", msgspec.json.encode(it)),
    ),
}


def check(kind: Kind, record: Record) -> None:
    """A value that is written as it was read, or one of our errors."""
    try:
        value = kind.decode(record)
    except (MalformedRecord, NewerSchema):
        return
    written = None if value is None else kind.encode(value)
    if written is not None:
        assert kind.decode(written) == value


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
@FUZZ
def test_changed_bytes(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    original = data.draw(st.sampled_from(kind.originals))
    assert original.value is not None
    value = data.draw(mutated(original.value))
    key = data.draw(st.one_of(st.just(original.key), mutated(original.key or b""), st.none()))
    headers = tuple(
        (header, data.draw(mutated(content)) if data.draw(st.integers(0, 5)) == 0 else content)
        for header, content in original.headers
        if data.draw(st.integers(0, 9))
    )
    check(kind, again(original, key, value, headers))


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
@FUZZ
def test_json_that_is_not_what_anyone_expects(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    original = data.draw(st.sampled_from(kind.originals))
    value = data.draw(changed_json(json.loads(original.value or b"")))
    check(kind, replace(original, value=value))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}"), (b'{"schema":', b"}")])
def test_nesting_beyond_any_stack(name: str, opening: bytes, closing: bytes) -> None:
    kind = KINDS[name]
    for original in kind.originals:
        check(kind, replace(original, value=nested(opening, closing, b"1")))
        check(kind, replace(original, value=nested(opening, b"")))


@pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 10**400])
@pytest.mark.parametrize("name, original", [("event", "changed-1"), ("chunked", "chunked-1")])
def test_a_number_that_could_not_be_sent_on_is_malformed(name: str, original: str, number: int) -> None:
    """Its version would leave a letter, and a head that never says so."""
    record = golden(original)
    value = json.loads(record.value or b"")
    value["metadata"]["n"] = number
    with pytest.raises(MalformedRecord):
        KINDS[name].decode(replace(record, value=json.dumps(value).encode()))


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(-1, 1 << 50) | st.none())
@example(b"", b"9" * 5000, None)
@FUZZ
def test_what_is_left_of_a_record(key: bytes, version: bytes, given_: int | None) -> None:
    found = unreadable(Record("t", 0, 0, key, b"?", (("vectide-version", version),)), SPEC.id, given_)
    assert found is None or (found.state, found.version >= 0) == ("failed", True)


@given(st.binary(max_size=40), st.text(max_size=40))
@FUZZ
def test_keys_come_back(data: bytes, text: str) -> None:
    for read, write, original in (
        (DocumentKey.from_bytes, DocumentKey.to_bytes, data),
        (DocumentKey.from_text, lambda key: key.text, text),
    ):
        try:
            key = read(original)
        except MalformedRecord:
            continue
        assert read(write(key)) == key


# ------------------------------------------------------------------------ tests of these tests


def test_a_decoder_that_lets_an_error_of_its_library_through_is_found_out() -> None:
    sound = KINDS["report"]
    careless = replace(sound, decode=lambda record: msgspec.json.decode(record.value or b"", type=reports.WorkerReport))
    with pytest.raises(msgspec.MsgspecError):
        check(careless, replace(sound.originals[0], value=b"{}"))


def test_a_decoder_that_takes_what_it_cannot_write_is_found_out() -> None:
    kind = KINDS["event"]
    lossy = replace(kind, encode=lambda event: _event(replace(event, digest="other")))
    with pytest.raises(AssertionError):
        check(lossy, kind.originals[0])
