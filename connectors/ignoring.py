"""Which paths of a folder are documents: globs, hidden files, and .gitignore if asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pathspec

from pipeline.errors import ConfigError

#: Ours and the version control's own.
_NEVER: Final = frozenset({".git", ".hg", ".svn", ".vectide"})
#: Files that editors and downloads keep for a moment beside the real one.
_PASSING: Final = ("*~", "#*#", "~$*", "*.swp", "*.swx", "*.tmp", "*.part", "*.crdownload", "4913")


class Ignoring:
    """The rules of one folder. Patterns are those of .gitignore.

    Args:
        root: the folder.
        include: only what matches one of these; everything if empty.
        exclude: not what matches one of these.
        hidden: whether names that begin with a dot count.
        gitignore: whether .gitignore files, nested ones too, are respected.

    Raises:
        ConfigError: a pattern is malformed.
    """

    def __init__(
        self, root: Path, include: tuple[str, ...], exclude: tuple[str, ...], *, hidden: bool, gitignore: bool
    ) -> None:
        self._root = root
        self._include = _spec(include) if include else None
        self._exclude = _spec((*_PASSING, *exclude))
        self._hidden = hidden
        self._gitignore = gitignore
        self._files: dict[str, tuple[int, pathspec.GitIgnoreSpec]] = {}

    def passes(self, path: str, *, folder: bool) -> bool:
        """True if a path, whose folders pass, is a document or may hold some."""
        name = path.rsplit("/", 1)[-1]
        if name in _NEVER or (name.startswith(".") and not self._hidden):
            return False
        if self._exclude.match_file(path + "/" if folder else path):
            return False
        if not folder and self._include is not None and not self._include.match_file(path):
            return False
        return not (self._gitignore and self._git_ignored(path, folder))

    def passes_whole(self, path: str) -> bool:
        """True if a file and all folders above it pass."""
        return self.passes_above(path) and self.passes(path, folder=False)

    def passes_above(self, path: str) -> bool:
        """True if all folders above a path pass."""
        parts = path.split("/")
        return all(self.passes("/".join(parts[:depth]), folder=True) for depth in range(1, len(parts)))

    def changes_rules(self, path: str) -> bool:
        """True if this file's content decides about others."""
        return self._gitignore and path.rsplit("/", 1)[-1] == ".gitignore"

    def _git_ignored(self, path: str, folder: bool) -> bool:
        parts = path.split("/")
        ignored = False
        # The nearest file decides: later ones override earlier ones, as git has it.
        for depth in range(len(parts)):
            spec = self._of_folder("/".join(parts[:depth]))
            if spec is not None:
                result = spec.check_file("/".join(parts[depth:]) + ("/" if folder else ""))
                ignored = ignored if result.include is None else bool(result.include)
        return ignored

    def _of_folder(self, folder: str) -> pathspec.GitIgnoreSpec | None:
        file = self._root / folder / ".gitignore"
        try:
            changed = file.stat().st_mtime_ns
            known = self._files.get(folder)
            if known is None or known[0] != changed:
                lines = file.read_text(errors="replace").splitlines()
                known = self._files[folder] = changed, pathspec.GitIgnoreSpec.from_lines(lines)
        except OSError:
            self._files.pop(folder, None)
            return None
        except ValueError:
            return None  # git, too, passes over a malformed line
        return known[1]


def relative(root: str, path: str) -> str | None:
    """The POSIX path inside the folder; None for the folder itself and for what lies outside."""
    inside = os.path.relpath(path, root)
    return None if inside == "." or inside.startswith("..") else inside.replace(os.sep, "/")


def _spec(patterns: tuple[str, ...]) -> pathspec.GitIgnoreSpec:
    try:
        return pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ConfigError(f"a pattern of {list(patterns)} is malformed: {error}", "write it as in .gitignore") from None
