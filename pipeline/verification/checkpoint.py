"""How far a full verification has come, in a file, so that a killed one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, get_args

from pipeline.errors import Poison, Refused, Transient
from pipeline.identity import DocumentKey
from pipeline.verification.findings import Found, Kind

_FORMAT: Final = 1
#: Findings that are kept over a kill, so that the file stays some megabytes; of more, a verification
#: that is begun anew finds the rest.
KEPT: Final = 10_000


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
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(path, of)
        except (OSError, ValueError) as error:
            raise _refused(path, f"cannot be read: {error}") from None
        try:
            return cls._of(path, of, stored)
        except (LookupError, TypeError, ValueError, AttributeError, Poison) as error:
            raise _refused(path, f"is not one of this vectide's: {type(error).__name__} {error}") from None

    @classmethod
    def _of(cls, path: Path, of: Of, stored: Mapping[str, Any]) -> Self:
        if stored["format"] != _FORMAT:
            raise _refused(path, f"has format {stored['format']}, this vectide knows {_FORMAT}")
        for name in Of.__slots__:
            ours, theirs = getattr(of, name), stored[name]
            if ours != theirs:
                raise _refused(path, f"is of {name.replace('_', ' ')} {theirs}, not {ours}")
        return cls(
            path,
            of,
            {int(partition): int(offset) for partition, offset in stored["reached"].items()},
            int(stored["documents"]),
            int(stored["chunks"]),
            [_found(one) for one in stored["found"]],
            int(stored["more"]),
            int(stored["unchecked"]),
        )

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


def checkpoint_path(state: Path, collection: str) -> Path:
    """Where the checkpoint of a collection's verification lies; a collection is named after its generation."""
    return state / f"verify-{collection}.json"


def _refused(path: Path, why: str) -> Refused:
    return Refused(f"{path} {why}", "it says how far a full verification came: delete it to begin anew")


def _described(one: Found) -> list[Any]:
    key = None if one.key is None else one.key.text
    return [one.doc, one.kind, key, one.stamp, one.place, sorted(one.contents)]


def _found(stored: list[Any]) -> Found:
    doc, kind, key, stamp, place, contents = stored
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r}")
    where = None if place is None else (int(place[0]), int(place[1]))
    return Found(doc, kind, None if key is None else DocumentKey.from_text(key), int(stamp), where, frozenset(contents))
