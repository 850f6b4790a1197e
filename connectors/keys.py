"""Rows and records as paths of documents: ``table/key``, and ``table/first/second`` for a key of several columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: A longer path is no document's: a key of text can be far longer than any name should be.
LIMIT_BYTES: Final = 4096
#: What separates, what escapes, and what no terminal should be given.
_ESCAPED: Final = re.compile(r"[%/\x00-\x1f\x7f]|^\.{1,2}$")
_HEX: Final = re.compile(r"%([0-9A-F]{2})")
#: An empty value; a percent sign is always followed by two digits otherwise.
_EMPTY: Final = "%"


def escaped(value: str) -> str:
    """One part of a path: no slash, never empty, no other value has the same."""
    return _ESCAPED.sub(lambda found: "".join(f"%{ord(char):02X}" for char in found[0]), value) or _EMPTY


def path_of(table: str, key: Sequence[str]) -> str:
    """The path of a row."""
    return "/".join((escaped(table), *map(escaped, key)))


def key_of(path: str) -> tuple[str, tuple[str, ...]] | None:
    """Table and key of a path; None: it is no row's."""
    table, *key = (_unescaped(part) for part in path.split("/"))
    if path_of(table, key) != path or not key:
        return None
    return table, tuple(key)


def _unescaped(part: str) -> str:
    return "" if part == _EMPTY else _HEX.sub(lambda found: chr(int(found[1], 16)), part)
