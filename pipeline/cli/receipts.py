"""Receipts of what was forgotten: signed content that says what was looked at, and never what it said."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigError, Fatal
from pipeline.identity import canonical_json

FORMAT: Final = "vectide-receipt"
VERSION: Final = 1

_SIGNATURE: Final = "signature"
_PLACE: Final[Mapping[str, Any]] = {
    "place": str,
    "name": str,
    "state": str,
    "note": str,
    "found": int,
    "until": str | None,
}


def signed(content: Mapping[str, Any], key: bytes | None) -> dict[str, Any]:
    """A receipt: the content with its SHA-256 and, with a key, its HMAC-SHA256."""
    body = canonical_json(content)
    signature = {"sha256": hashlib.sha256(body).hexdigest()}
    if key is not None:
        signature["hmac_sha256"] = hmac.new(key, body, hashlib.sha256).hexdigest()
    return {**content, _SIGNATURE: signature}


def check(receipt: Mapping[str, Any], key: bytes | None) -> str:
    """What can be said of a receipt: that it is ``intact``, or ``signed`` with this key.

    Raises:
        Fatal: it was changed since, is not signed though there is a key, or is signed with another.
        ConfigError: it is signed, and there is no key to check that with.
    """
    content = {name: value for name, value in receipt.items() if name != _SIGNATURE}
    signature = receipt[_SIGNATURE]
    right = signed(content, key)[_SIGNATURE]
    if not _same(signature["sha256"], right["sha256"]):
        raise Fatal("the receipt was changed since it was written", "get the original from where it is kept")
    theirs = signature.get("hmac_sha256")
    if key is None:
        if theirs is None:
            return "intact"
        raise ConfigError("the receipt is signed, and there is no key", "set VECTIDE_RECEIPT_KEY or receipt_key_file")
    if theirs is None:
        raise Fatal("the receipt is not signed, and there is a key", "anybody can have written it")
    if not _same(theirs, right["hmac_sha256"]):
        raise Fatal("the receipt is signed with another key, or forged", "check it with the key that signed it")
    return "signed"


def _same(theirs: object, right: str) -> bool:
    return hmac.compare_digest(str(theirs).encode("utf-8", "surrogatepass"), right.encode())


def _typed(found: Mapping[str, Any], types: Mapping[str, Any]) -> bool:
    return all(isinstance(found[name], type_) for name, type_ in types.items())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; what is said twice means one thing to one reader and another to the next."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def read(path: Path) -> dict[str, Any]:
    """A receipt from a file, not yet checked.

    Raises:
        ConfigError: it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        if found["format"] == FORMAT and type(found["version"]) is int and found["version"] > VERSION:
            raise ConfigError(f"{path} is a receipt of version {found['version']}", "upgrade vectide")
        whole = (
            (found["format"], found["version"]) == (FORMAT, VERSION)
            and isinstance(found[_SIGNATURE]["sha256"], str)
            and _typed(found, {"state": str, "latest": str | None, "kept_out": bool})
            and all(_typed(one, {"id": str, "deletes": int}) for one in found["requests"])
            and all(_typed(one, _PLACE) for one in found["places"])
        )
        canonical_json(found)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "give a receipt that `vectide forget` wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ConfigError(f"{path} is no receipt of vectide", "give one that `vectide forget --out` wrote")
    return dict(found)


def refuse_unwritable(path: Path) -> None:
    """Before anything is forgotten: what is gone by then has nothing else that proves it.

    Raises:
        ConfigError: no receipt can be written there.
    """
    with _written(path):
        temporary = _beside(path)
        temporary.touch()
        temporary.unlink()


def write(path: Path, receipt: Mapping[str, Any]) -> None:
    """To a file, whole or not at all.

    Raises:
        ConfigError: it cannot be written there.
    """
    with _written(path):
        temporary = _beside(path)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(receipt, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".new")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", "give a file in a writable folder")
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "give a file in a writable folder") from None


def moment(seconds: float | None) -> str | None:
    """A time as receipts have it: ISO 8601, UTC, rounded up to a second: it is a latest date."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(seconds) + (seconds > int(seconds))))
