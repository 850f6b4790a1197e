"""Which files of a folder are documents: by name, by pattern, by ``.gitignore``."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from pathspec import GitIgnoreSpec

log = logging.getLogger(__name__)

#: Never documents: our own state and a repository's insides.
_ALWAYS: Final = frozenset({".vectide", ".git", ".hg", ".svn"})
#: A folder that holds this is the state of some vectide, whatever it is called: to index it would
#: change it, and so on for ever.
_STATE_SIGN: Final = os.path.join("log", "log.db")
#: What editors and downloads leave beside a file while it is saved.
_TRANSIENT: Final = ("*~", "#*#", ".#*", "*.swp", "*.swx", "*.tmp", "*.part", "*.crdownload")
_GITIGNORE: Final = ".gitignore"
_GITIGNORE_BYTES: Final = 1024 * 1024


class Rules:
    """Decides by the path alone, so that listing, watching and fetching agree.

    Args:
        root: the folder.
        include: patterns in git's syntax; a file must match one, if there are any.
        exclude: patterns in git's syntax; a folder that matches is not entered.
        gitignore: respect ``.gitignore`` files, nested ones too.
        hidden: admit names that begin with a dot.
    """

    def __init__(
        self, root: str, include: Sequence[str], exclude: Sequence[str], *, gitignore: bool, hidden: bool
    ) -> None:
        self._root = root
        self._include = GitIgnoreSpec.from_lines(include) if include else None
        self._exclude = GitIgnoreSpec.from_lines(exclude) if exclude else None
        self._gitignore = gitignore
        self._hidden = hidden
        self._ignored: dict[str, tuple[tuple[int, int], GitIgnoreSpec | None]] = {}

    def changes(self, path: str) -> bool:
        """True if a change of this file changes which others are documents."""
        return self._gitignore and os.path.basename(path) == _GITIGNORE

    def admits(self, path: str) -> bool:
        """True if a file of this path (relative, with ``/``) can be a document."""
        parent, _, name = path.rpartition("/")
        return self.admits_folder(parent) and self.admits_entry(parent, name, folder=False)

    def admits_folder(self, path: str) -> bool:
        """True if this folder and all above it are entered."""
        parent = ""
        for name in path.split("/") if path else ():
            if not self.admits_entry(parent, name, folder=True):
                return False
            parent = f"{parent}/{name}" if parent else name
        return True

    def admits_entry(self, parent: str, name: str, *, folder: bool) -> bool:
        """The same for one entry of a folder that is known to be entered."""
        if name in _ALWAYS or (not self._hidden and name.startswith(".")):
            return False
        path = f"{parent}/{name}" if parent else name
        marked = path + "/" if folder else path
        if folder and os.path.exists(os.path.join(self._root, path, _STATE_SIGN)):
            return False
        if not folder and any(fnmatchcase(name, pattern) for pattern in _TRANSIENT):
            return False
        if self._exclude is not None and self._exclude.match_file(marked):
            return False
        if not folder and self._include is not None and not self._include.match_file(path):
            return False
        return not (self._gitignore and self._git_ignores(parent, marked))

    def _git_ignores(self, parent: str, marked: str) -> bool:
        """The deepest file that says anything about it decides, as in git."""
        while True:
            spec = self._spec(parent)
            if spec is not None:
                verdict = spec.check_file(marked[len(parent) + 1 :] if parent else marked).include
                if verdict is not None:
                    return verdict
            if not parent:
                return False
            parent = parent.rpartition("/")[0]

    def _spec(self, folder: str) -> GitIgnoreSpec | None:
        file = os.path.join(self._root, folder, _GITIGNORE)
        try:
            status = os.lstat(file)
        except OSError:
            self._ignored.pop(folder, None)
            return None
        # As git: a link does not count, so that nothing outside is read; nor does a pipe, which would block.
        if not stat.S_ISREG(status.st_mode):
            return None
        state = (status.st_mtime_ns, status.st_size)
        known = self._ignored.get(folder)
        if known is None or known[0] != state:
            known = self._ignored[folder] = (state, _read(file))
        return known[1]


def patterns(lines: Sequence[str]) -> Sequence[str]:
    """The patterns, if they are patterns.

    Raises:
        ValueError: one of them is not; names it.
    """
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError as error:
            raise ValueError(f"{line!r} is not a pattern of git's: {error}") from None
    return lines


def _read(file: str) -> GitIgnoreSpec | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8", errors="surrogateescape") as opened:
            return GitIgnoreSpec.from_lines(opened.read(_GITIGNORE_BYTES).splitlines())
    except (OSError, ValueError) as error:
        log.warning("a .gitignore is left out of account", extra={"file": file, "error": str(error)})
        return None
