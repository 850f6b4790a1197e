"""Receipts: what was changed, forged or signed with another key is said; what is written is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import receipts
from pipeline.cli.main import cli
from pipeline.errors import ConfigError, Fatal

KEY, OTHER = b"a secret", b"another"
PLACE = {"place": "files", "name": "größe ☃", "state": "gone", "note": "", "found": 0, "until": None}
CONTENT: dict[str, Any] = {
    "format": "vectide-receipt",
    "version": 1,
    "state": "gone",
    "latest": None,
    "kept_out": True,
    "requests": [{"id": "r", "deletes": 1}],
    "places": [PLACE],
}


@pytest.mark.parametrize("key", [None, KEY])
def test_a_receipt_comes_back_from_its_file_and_is_what_it_was(tmp_path: Path, key: bytes | None) -> None:
    file = tmp_path / "r.json"
    receipts.write(file, receipts.signed(CONTENT, key))
    found = receipts.read(file)
    assert receipts.check(found, key) == ("intact" if key is None else "signed")
    assert {name: found[name] for name in CONTENT} == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    # A reader may format it as it likes.
    file.write_text(json.dumps(found, indent=7, ensure_ascii=False))
    receipts.check(receipts.read(file), key)


def changed(receipt: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**receipt, **changes}


def test_any_change_is_noticed() -> None:
    receipt = receipts.signed(CONTENT, None)
    for other in (changed(receipt, state="pending"), changed(receipt, more=1), changed(receipt, places=[])):
        with pytest.raises(Fatal, match="was changed"):
            receipts.check(other, None)
    shorter = {name: value for name, value in receipt.items() if name != "places"}
    with pytest.raises(Fatal, match="was changed"):
        receipts.check(shorter, None)


def test_who_has_no_key_cannot_make_one_that_passes() -> None:
    """Given a forger who computes the digest anew, with another key or without, then it is refused."""
    forged = {**CONTENT, "state": "pending"}
    with pytest.raises(Fatal, match="is not signed"):
        receipts.check(receipts.signed(forged, None), KEY)
    with pytest.raises(Fatal, match="another key"):
        receipts.check(receipts.signed(forged, OTHER), KEY)
    stolen = receipts.signed(CONTENT, KEY)["signature"]["hmac_sha256"]
    made = receipts.signed(forged, None)
    made["signature"]["hmac_sha256"] = stolen
    with pytest.raises(Fatal, match="another key"):
        receipts.check(made, KEY)


def test_a_signed_one_without_a_key_is_not_called_right() -> None:
    with pytest.raises(ConfigError, match="there is no key"):
        receipts.check(receipts.signed(CONTENT, KEY), None)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": "vectide-receipt"}', '{"format": "vectide-receipt", "signature": {"sha256": 1}}'],
)
def test_what_is_no_receipt_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is no receipt"):
        receipts.read(file)
    with pytest.raises(ConfigError, match="No such file"):
        receipts.read(tmp_path / "none")
    with pytest.raises(ConfigError, match="No such file"):
        receipts.write(tmp_path / "no" / "r.json", {})


def test_nothing_is_forgotten_whose_receipt_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be gone, and nothing would prove it."""
    asked: list[object] = []
    monkeypatch.setattr("pipeline.cli.forget._asked", lambda *given: asked.append(given))
    for out, why in ((tmp_path / "no" / "r.json", "No such file"), (tmp_path, "is a folder")):
        found = CliRunner().invoke(cli, ["forget", "docs:a.md", "--out", str(out), "--state", str(tmp_path / "state")])
        assert isinstance(found.exception, ConfigError)
        assert why in str(found.exception)
    assert asked == []
    receipts.refuse_unwritable(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1"},
        {"version": None},
        {"state": 1},
        {"requests": [{}]},
        {"requests": ["r"]},
        {"places": [{**PLACE, "until": 1}]},
        {"places": 1},
        {"signature": "x"},
    ],
)
def test_a_receipt_that_lacks_something_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps({**receipts.signed(CONTENT, KEY), **change}))
    with pytest.raises(ConfigError, match="is no receipt"):
        receipts.read(file)


def test_what_two_readers_read_in_two_ways_is_no_receipt(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    text = json.dumps(receipts.signed(CONTENT, KEY))
    for other in ("[" * 200_000, text.replace('{"format"', '{"state": "pending", "format"', 1)):
        file.write_text(other)
        with pytest.raises(ConfigError, match="is no receipt"):
            receipts.read(file)


@pytest.mark.parametrize("digest", ["é", "\ud800", ""])
def test_a_digest_that_is_no_digest_is_wrong(tmp_path: Path, digest: str) -> None:
    receipt = receipts.signed(CONTENT, KEY)
    with pytest.raises(Fatal, match="was changed"):
        receipts.check({**receipt, "signature": {"sha256": digest}}, KEY)
    with pytest.raises(Fatal, match="another key"):
        receipts.check({**receipt, "signature": {**receipt["signature"], "hmac_sha256": digest}}, KEY)


def test_one_of_a_later_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    receipts.write(file, receipts.signed({**CONTENT, "version": 2}, None))
    with pytest.raises(ConfigError, match="upgrade"):
        receipts.read(file)


def test_a_latest_date_is_never_too_early() -> None:
    assert receipts.moment(None) is None
    assert receipts.moment(0.0) == "1970-01-01T00:00:00Z"
    assert receipts.moment(0.001) == "1970-01-01T00:00:01Z"
