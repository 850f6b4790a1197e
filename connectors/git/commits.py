"""What is known of a commit, of a file that it holds, and of what lies between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

#: For ``git log`` and ``git show``; :func:`commit_of` reads it.
FORMAT: Final = "--format=commit %H %at %an"
#: What SQLite holds; a commit can say any number.
_MOST_SECONDS: Final = 2**63 - 1


class File(NamedTuple):
    """One file of the newest commit."""

    path: str
    blob: str
    commit: str
    """That has last changed it; empty if that is not asked for."""
    at: int
    """When that was made by its author, or without it the newest one; in seconds since 1970."""
    author: str
    module: str = ""
    """The path of the submodule that it is of."""


class Commit(NamedTuple):
    """What is told of a commit."""

    id: str
    at: int
    author: str


@dataclass(frozen=True, slots=True)
class Changes:
    """From one commit of the branch to another."""

    paths: tuple[str, ...]
    """Those that changed, in the order in which they are to be looked at: what is there before what is gone."""
    everything: bool = False
    """Anything may have changed."""


def commit_of(line: bytes) -> Commit:
    """Lenient: what an odd commit says of its author is repeated as it is, and a part may be empty or missing."""
    _, id, at, author = (line.rstrip(b"\0").split(b" ", 3) + [b""] * 3)[:4]
    digits = at.lstrip(b"0") if at.isdigit() else b""
    seconds = int(digits or b"0") if len(digits) <= len(str(_MOST_SECONDS)) else _MOST_SECONDS
    return Commit(id.decode(), min(seconds, _MOST_SECONDS), author.decode("utf-8", "replace"))
