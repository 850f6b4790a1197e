"""How far a full verification has come, in a file, so that a killed one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeAlias

import msgspec

from pipeline.codec import UNREADABLE
from pipeline.errors import Poison, Refused, Transient
from pipeline.identity import OFFSET_BITS, DocumentKey
from pipeline.verification.findings import Found, Kind

_FORMAT: Final = 1
#: Findings that are kept over a kill, so that the file stays some megabytes; of more, a verification
#: that is begun anew finds the rest.
KEPT: Final = 10_000

_Partition: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
_Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << OFFSET_BITS)]
#: Of documents and chunks; a stamp fits as well, and -1 is one.
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-1, lt=1 << 53)]


@dataclass(frozen=True, slots=True)
class Of:
    """What is verified; a checkpoint of anything else is refused."""

    generation: str
    collection: str
    model: str
    """Fingerprint."""
    topic: str
    topic_id: str


@dataclass(slots=True)
class Checkpoint:
    """Where a verification is; see :meth:`load` and :meth:`save`.

    Args:
        path: the file; None: in memory only.
        of: what is verified.
    """

    path: Path | None
    of: Of
    reached: dict[int, int] = field(default_factory=dict)
    """By partition, the next offset to be looked at."""
    documents: int = 0
    chunks: int = 0
    found: list[Found] = field(default_factory=list)
    more: int = 0
    """Findings beyond :data:`KEPT`."""
    unchecked: int = 0

    @classmethod
    def load(cls, path: Path, of: Of) -> Self:
        """What a killed verification has left, else a new one.

        Raises:
            Refused: the file is of something else, or cannot be understood.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls(path, of)
        except OSError as error:
            raise _refused(path, f"cannot be read: {error.strerror}") from None
        try:
            # Before all else: another format may have anything else.
            format = msgspec.json.decode(data, type=_Format).format
            if format != _FORMAT:
                raise _refused(path, f"has format {format}, this vectide knows {_FORMAT}")
            stored = msgspec.json.decode(data, type=_Stored)
            found = [one.found() for one in stored.found]
        except (msgspec.ValidationError, Poison) as error:
            raise _refused(path, f"is not one of this vectide's: {error}") from None
        except UNREADABLE as error:
            raise _refused(path, f"cannot be read: {error}") from None
        for name in Of.__slots__:
            ours, theirs = getattr(of, name), getattr(stored, name)
            if ours != theirs:
                raise _refused(path, f"is of {name.replace('_', ' ')} {theirs}, not {ours}")
        return cls(path, of, stored.reached, stored.documents, stored.chunks, found, stored.more, stored.unchecked)

    @property
    def begun(self) -> bool:
        """Something was looked at already."""
        return bool(self.reached)

    def add(self, found: Iterable[Found]) -> None:
        """Remember findings."""
        for one in found:
            if len(self.found) < KEPT:
                self.found.append(one)
            else:
                self.more += 1

    def save(self) -> None:
        """Write the file; whole or not at all.

        Raises:
            Transient: there is no room for it.
        """
        described = {
            "format": _FORMAT,
            **{name: getattr(self.of, name) for name in Of.__slots__},
            "reached": self.reached,
            "documents": self.documents,
            "chunks": self.chunks,
            "found": [_described(one) for one in self.found],
            "more": self.more,
            "unchecked": self.unchecked,
        }
        if self.path is None:
            return
        temporary = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w") as file:
                json.dump(described, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise Transient(f"{self.path} cannot be written: {error.strerror}; make room there") from None

    def remove(self) -> None:
        """It is over."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class _Finding(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A :class:`Found`, as it is in the file."""

    doc: str
    kind: Kind
    key: str | None
    stamp: _Number
    place: tuple[_Partition, _Offset] | None
    contents: list[str]

    def found(self) -> Found:
        """What was found; raises MalformedRecord: its key is none."""
        key = None if self.key is None else DocumentKey.from_text(self.key)
        return Found(self.doc, self.kind, key, self.stamp, self.place, frozenset(self.contents))


class _Format(msgspec.Struct):
    format: int


class _Stored(_Format):
    """The whole file."""

    generation: str
    collection: str
    model: str
    topic: str
    topic_id: str
    reached: dict[_Partition, _Offset]
    documents: _Number
    chunks: _Number
    found: list[_Finding]
    more: _Number
    unchecked: _Number


def checkpoint_path(state: Path, collection: str) -> Path:
    """Where the checkpoint of a collection's verification lies; a collection is named after its generation."""
    return state / f"verify-{collection}.json"


def _refused(path: Path, why: str) -> Refused:
    return Refused(f"{path} {why}", "it says how far a full verification came: delete it to begin anew")


def _described(one: Found) -> list[Any]:
    key = None if one.key is None else one.key.text
    return [one.doc, one.kind, key, one.stamp, one.place, sorted(one.contents)]
