"""Files that tell that a repository may have changed: looked at ten times a second, without a git."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol, TypeAlias

#: Of HEAD, and of the files that lead to a worktree's repository.
_SMALL_BYTES: Final = 4096
Sign: TypeAlias = tuple[object, ...]


class Watched(Protocol):
    """Something whose sign is another when a repository may have changed."""

    def sign(self) -> Sign:
        """Of now; empty if there is nothing to see."""
        ...


class Touched:
    """A file that somebody touches."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def sign(self) -> Sign:
        """Its times."""
        return _sign(str(self._file))


class LocalRefs:
    """The branches of a repository on this machine; of any other there is nothing to see.

    Args:
        repository: a folder, or something else.
        branch: empty: the one that HEAD names.
    """

    def __init__(self, repository: str, branch: str) -> None:
        self._root = repository.removeprefix("file://")
        self._branch = branch
        self.local = os.path.isabs(self._root)

    def sign(self) -> Sign:
        """Of what git writes when the branch moves: its file, the packed ones, the table of a reftable."""
        if not self.local:
            return ()
        own, common = self._folders()
        head = _read(os.path.join(own, "HEAD"))
        branch = f"refs/heads/{self._branch}" if self._branch else head.removeprefix("ref:").strip()
        names = (branch, "packed-refs", "reftable/tables.list")
        return (head, *(_sign(os.path.join(common, name)) for name in names))

    def _folders(self) -> tuple[str, str]:
        """Where HEAD and where the branches are: they differ in a worktree."""
        inner = os.path.join(self._root, ".git")
        if os.path.isdir(inner):
            return inner, inner
        leads = _read(inner)
        own = os.path.join(self._root, leads.removeprefix("gitdir:").strip()) if leads else self._root
        common = _read(os.path.join(own, "commondir")).strip()
        return own, os.path.join(own, common) if common else own


def _sign(path: str) -> Sign:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ()
    return (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_SMALL_BYTES).decode("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return ""
