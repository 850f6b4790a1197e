"""Messages of pgoutput, PostgreSQL's own logical decoding plugin: protocol version 1, keys only.

What a row says is read from its table, so of a row that changed only the columns of its key are
taken from a message. The layout of messages is in PostgreSQL's manual, "Logical Replication Message
Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

#: Seconds between 1970 and 2000, where PostgreSQL begins to count microseconds.
_EPOCH: Final = 946_684_800
_MICROSECONDS: Final = 1e6


class Malformed(ValueError):
    """Bytes that are no message of protocol version 1."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction that has committed; its changes follow."""

    xid: int
    """The low 32 bits."""
    at: float
    """When it committed, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction."""

    end: int
    """The LSN behind its commit record: up to here everything has been sent."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A row that was inserted, updated or deleted."""

    relation: int
    keys: tuple[tuple[str, ...], ...]
    """Its key, as text; before and after, if an update changed it. Empty: the message does not say."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """Tables that were emptied."""

    relations: tuple[int, ...]


Message: TypeAlias = Begin | Commit | Changed | Truncated

#: A column of a tuple: its text, or None where it is null or was not sent.
_Tuple: TypeAlias = Sequence[str | None]


class Decoder:
    """Of one stream: what a relation looks like is said once, before its first change.

    Args:
        keys: by oid of a relation, the names of its key's columns. Changes of others are left out.
    """

    def __init__(self, keys: Mapping[int, Sequence[str]]) -> None:
        self._keys = keys
        self._places: dict[int, tuple[int, ...]] = {}

    def decode(self, data: bytes) -> Message | None:
        """The message; None for one that says nothing about documents.

        Raises:
            Malformed: it ends too early, or is of an unknown kind.
        """
        try:
            return self._decode(_Bytes(data))
        except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
            raise Malformed(f"a message of kind {data[:1]!r} of {len(data)} bytes: {error}") from None

    def _decode(self, data: _Bytes) -> Message | None:
        match data.byte():
            case b"B":
                _, at, xid = data.take(">qqI")
                return Begin(xid, at / _MICROSECONDS + _EPOCH)
            case b"C":
                _, _, end, _ = data.take(">bQQq")
                return Commit(end)
            case b"R":
                self._relation(data)
                return None
            case b"I" | b"U" | b"D":
                return self._change(data)
            case b"T":
                count, _ = data.take(">Ib")
                relations = data.take(f">{count}I")
                return Truncated(tuple(one for one in relations if one in self._keys))
            case b"Y" | b"O" | b"M":  # types, origins and messages of functions
                return None
            case other:
                raise ValueError(f"unknown kind {other!r}")

    def _relation(self, data: _Bytes) -> None:
        (relation,) = data.take(">I")
        data.text(), data.text()  # schema and name: it can be renamed, its oid stays
        _, count = data.take(">ch")
        names = []
        for _ in range(count):
            data.take(">b")
            names.append(data.text())
            data.take(">Ii")
        if relation in self._keys:
            self._places[relation] = tuple(names.index(name) for name in self._keys[relation])

    def _change(self, data: _Bytes) -> Changed | None:
        (relation,) = data.take(">I")
        if relation not in self._keys:
            return None
        rows: list[_Tuple] = []
        while not data.ended:
            data.byte()  # K or O: before; N: after
            rows.append(data.row())
        places = self._places[relation]
        keys: dict[tuple[str, ...], None] = {}
        for row in rows:
            key = tuple(value for place in places if (value := row[place]) is not None)
            if len(key) < len(places):
                # A long key that did not change is not sent; then the row before it has it.
                if len(rows) == 1:
                    return Changed(relation, ())
                continue
            keys[key] = None
        return Changed(relation, tuple(keys))


class _Bytes:
    """A message that is read from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> bytes:
        self._at += 1
        if self._at > len(self._data):
            raise IndexError("it ends too early")
        return self._data[self._at - 1 : self._at]

    def take(self, layout: str) -> tuple[int, ...]:
        found = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return found

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        found = self._data[self._at : end].decode()
        self._at = end + 1
        return found

    def row(self) -> _Tuple:
        (count,) = self.take(">h")
        columns: list[str | None] = []
        for _ in range(count):
            kind = self.byte()
            if kind in (b"n", b"u"):
                columns.append(None)
                continue
            if kind != b"t":
                raise ValueError(f"unknown kind of column {kind!r}")
            (length,) = self.take(">I")
            value = self._data[self._at : self._at + length]
            if len(value) < length:
                raise IndexError("it ends too early")
            columns.append(value.decode())
            self._at += length
        return columns
