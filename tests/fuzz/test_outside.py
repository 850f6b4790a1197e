"""Whatever comes from outside of the log and the store: notifications of a bucket, receipts, checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.s3.queue import Queue, notifications
from connectors.s3.settings import S3Settings
from pipeline.cli import receipts
from pipeline.errors import ConfigError, Fatal, Refused
from pipeline.identity import DocumentKey
from pipeline.verification.checkpoint import Checkpoint, Of
from pipeline.verification.findings import Found
from tests.fuzz.bytes import ODD, changed_json, mutated, nested
from tests.fuzz.settings import FUZZ

KEY = b"a secret"
OF = Of("g1", "v.p.g1", "m", "v.p.documents", "id")
FOUND = [
    Found("d1", "stale", DocumentKey("docs", "größe%.md"), 64, (1, 7), frozenset({"ab", "cd"})),
    Found("d2", "orphan", None, -1),
]


@dataclass(frozen=True)
class Kind:
    """What is read, and by whom.

    Args:
        originals: as JSON.
        read: the file at a path.
        refuses: all that it may raise.
        check: that what was read can be worked with; where it is written, that it is read again as the same.
    """

    originals: tuple[Any, ...]
    read: Callable[[Path], Any]
    refuses: tuple[type[Exception], ...]
    check: Callable[[Path, Any], None]


def _told(path: Path) -> list[Any]:
    # As boto gives it: a text.
    return list(notifications(path.read_bytes().decode("utf-8", "surrogateescape")))


def _can_be_asked_for(_: Path, told: list[Any]) -> None:
    for one in told:
        assert isinstance(one.key, str)
        assert 0 < len(one.key.encode()) <= 1024
        assert isinstance(one.removed, bool)


def _checked(path: Path) -> Any:
    """As `vectide receipt check` and `forget --receipt` take it."""
    found = receipts.read(path)
    for key in (KEY, None):
        try:
            receipts.check(found, key)
        except (ConfigError, Fatal):
            continue
    return found


def _is_written_again(path: Path, receipt: dict[str, Any]) -> None:
    receipts.write(path, receipt)
    # Not compared: a number may be none.
    again = receipts.read(path)
    assert [one["id"] for one in again["requests"]] == [one["id"] for one in receipt["requests"]]
    assert all(isinstance(one["id"], str) for one in again["requests"])


def _is_saved_again(path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save()
    assert Checkpoint.load(path, OF) == checkpoint
    assert all(0 <= offset < 1 << 63 for offset in checkpoint.reached.values())


def _record(event: str, key: str) -> dict[str, Any]:
    return {"eventName": event, "s3": {"bucket": {"name": "b"}, "object": {"key": key}}}


def _saved(folder: Path) -> Any:
    path = folder / "v.json"
    Checkpoint(path, OF, {0: 7, 1: 9}, 3, 4, FOUND, 1, 2).save()
    return json.loads(path.read_bytes())


OWN = {"Records": [_record("ObjectCreated:Put", "a+b/%C3%BC%2Bx"), _record("ObjectRemoved:Delete", "c")]}
BRIDGED = {"source": "aws.s3", "detail-type": "Object Deleted",
           "detail": {"bucket": {"name": "b"}, "object": {"key": "a+b"}}}  # fmt: skip
PLACE = {"place": "files", "name": "größe ☃", "state": "gone", "note": "", "found": 0, "until": None}
CONTENT: dict[str, Any] = {
    "format": receipts.FORMAT, "version": receipts.VERSION, "state": "gone", "latest": None, "kept_out": True,
    "requests": [{"id": "r", "deletes": 1}], "places": [PLACE, {**PLACE, "until": "2026-01-01T00:00:00Z"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    passed_on = {"Type": "Notification", "Message": json.dumps(OWN)}
    test = {"Event": "s3:TestEvent", "Bucket": "b"}
    signed = tuple(receipts.signed(CONTENT, key) for key in (KEY, None))
    saved = _saved(tmp_path_factory.mktemp("checkpoint"))
    return {
        "notification": Kind((OWN, passed_on, BRIDGED, test), _told, (ValueError,), _can_be_asked_for),
        "receipt": Kind(signed, _checked, (ConfigError, Fatal), _is_written_again),
        "checkpoint": Kind((saved,), lambda path: Checkpoint.load(path, OF), (Refused,), _is_saved_again),
    }


NAMES = ("notification", "receipt", "checkpoint")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside") / "f.json"


def check(kind: Kind, file: Path, data: bytes) -> None:
    """Something of the right types, or one of our errors."""
    file.write_bytes(data)
    try:
        found = kind.read(file)
    except kind.refuses:
        return
    kind.check(file, found)


@pytest.mark.parametrize("name", NAMES)
def test_the_originals_are_read(kinds: dict[str, Kind], file: Path, name: str) -> None:
    for original in kinds[name].originals:
        file.write_text(json.dumps(original))
        kinds[name].check(file, kinds[name].read(file))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"", b"\xff", b"null", b'""', b"9" * 5000, b"{}", b"\xef\xbb\xbf{}"])
def test_bytes_of_nobody(kinds: dict[str, Kind], file: Path, name: str, data: bytes) -> None:
    check(kinds[name], file, data)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@FUZZ
def test_changed_bytes_and_json_that_is_not_what_anyone_expects(
    kinds: dict[str, Kind], file: Path, name: str, data: st.DataObject
) -> None:
    original = data.draw(st.sampled_from(kinds[name].originals))
    changed = mutated(json.dumps(original).encode()) | changed_json(original) | st.binary(max_size=60)
    check(kinds[name], file, data.draw(changed))


@pytest.mark.parametrize("name", NAMES)
def test_every_place_holds_every_odd_value(kinds: dict[str, Kind], file: Path, name: str) -> None:
    for original in kinds[name].originals:
        for place in _places(original):
            for odd in ODD:
                value = json.loads(json.dumps(original))
                inner = value
                for step in place[:-1]:
                    inner = inner[step]
                inner[place[-1]] = odd
                check(kinds[name], file, json.dumps(value).encode())


def _places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for step, inner in steps:
        found += [(*before, step), *_places(inner, (*before, step))]
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}"), (b'{"Records":', b"}")])
def test_nesting_beyond_any_stack(
    kinds: dict[str, Kind], file: Path, name: str, opening: bytes, closing: bytes
) -> None:
    for data in (nested(opening, closing, b"1"), nested(opening, b"")):
        check(kinds[name], file, data)


def test_a_notification_that_nests_in_what_was_passed_on_is_none() -> None:
    with pytest.raises(ValueError, match="Recursion"):
        list(notifications(json.dumps({"Message": nested(b"[", b"]").decode()})))


def test_a_strange_message_is_no_error_of_the_queue() -> None:
    """It asks for a scan; the others that came with it are heard."""
    queue = Queue(S3Settings(bucket="b-1", queue_url="http://127.0.0.1:9/q"))
    for body in (nested(b"[", b"]").decode(), json.dumps({"Records": [_record("ObjectCreated:Put", "")]})):
        queue._note(body)
        assert [hint.path for hint in queue._due(0.0)] == [None]


# ------------------------------------------------------------------------ a test of these tests


def test_a_reader_that_lets_an_error_of_its_library_through_is_found_out(kinds: dict[str, Kind], file: Path) -> None:
    careless = replace(kinds["checkpoint"], read=lambda path: json.loads(path.read_bytes()))
    with pytest.raises(json.JSONDecodeError):
        check(careless, file, b"{")
