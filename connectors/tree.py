"""A folder on disk as a tree of files: what is there, told apart from what cannot be seen now.

Nothing here follows a symbolic link unless asked to, and then never into a loop: a link to one of
its own ancestors is not entered, which any path can be checked for by itself. What is read is what
was asked for: a file is opened folder by folder, none of which may be a link, so that whoever can
write in the folder cannot slip a link in between a look and the reading.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from connectors.ignoring import Rules
from pipeline.errors import SourceUnavailable, Transient

log = logging.getLogger(__name__)

#: A file by that name is not there (any more); a name that is too long or holds a NUL never was.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_DEPTH: Final = 128
#: Entries of a folder that are listed between two pauses: a few milliseconds.
_PAUSE_ENTRIES: Final = 1000
#: Only to go through it: that needs no right to list it, where the system can tell the two apart.
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, or something else that is no folder."""

    path: str
    """Relative to the root, with ``/``."""
    status: os.stat_result


class Tree:
    """The files below a folder that the rules admit.

    Args:
        root: the folder.
        rules: which of them are documents.
        follow_symlinks: links to files and folders count as what they lead to.
        inside: only those that lead to something below the root.
    """

    def __init__(self, root: str, rules: Rules, *, follow_symlinks: bool, inside: bool = False) -> None:
        self.root = root
        self._rules = rules
        self._follow = follow_symlinks
        self._inside = inside
        self._device: int | None = None
        self.unreadable: set[str] = set()
        """Folders that the last walk had to pass over."""
        self.links: dict[str, str] = {}
        """Links that the last walk followed, and where they lead."""

    def check(self) -> os.stat_result:
        """Reach the root.

        Raises:
            SourceUnavailable: it is not there, not readable, or another file system was mounted or
                unmounted there since the first look.
        """
        try:
            status = os.stat(self.root)
            with os.scandir(self.root):
                pass
        except OSError as error:
            raise SourceUnavailable(f"folder {self.root}: {error.strerror}") from None
        if self._device is None:
            self._device = status.st_dev
        elif self._device != status.st_dev:
            raise SourceUnavailable(f"folder {self.root} is on another file system than before: is it mounted?")
        return status

    def walk(self, below: str = "") -> Iterator[Entry | None]:
        """Everything below a folder that the rules admit; None for each folder that is entered and each entry that
        is left out. A folder that cannot be read is passed over.

        Raises:
            SourceUnavailable: the root cannot be read.
        """
        root = self.check()
        if not below:
            self.links.clear()
        ancestors = self._ancestors(below, root)
        if ancestors is None:
            return
        stack = [(below, ancestors)]
        while stack:
            folder, above = stack.pop()
            folders = []
            yield None
            for found in self._entries(folder):
                if found is None:
                    yield None
                    continue
                name, is_folder, status = found
                path = f"{folder}/{name}" if folder else name
                if not is_folder:
                    yield Entry(path, status)
                elif (here := (status.st_dev, status.st_ino)) not in above and len(above) < _DEPTH:
                    folders.append((path, above | {here}))
            stack.extend(reversed(folders))

    def status(self, path: str) -> os.stat_result | None:
        """What is at a path that :meth:`walk` would list; None if it certainly would not.

        Raises:
            SourceUnavailable: the root cannot be read.
            Transient: nobody can tell now.
        """
        parent, _, name = path.rpartition("/")
        # A path that begins with a slash would replace the root, and not lie below it.
        if not name or name in (".", "..") or path.startswith("/") or not self._rules.admits(path):
            self.check()
            return None
        try:
            root = os.stat(self.root)
            place = os.path.join(self.root, path)
            if self._ancestors(parent, root) is None or self._leads_out(place):
                self.check()
                return None
            return self._stat(place)
        except (OSError, ValueError) as error:
            # Missing because its document is gone, or because everything is?
            self.check()
            raise_unless_absent(error, path)
            return None

    def open(self, path: str) -> int:
        """A descriptor of a file that :meth:`status` has found, for reading.

        Raises:
            OSError: it is not there, or was replaced by something that leads elsewhere.
        """
        # Non-blocking: it can have become a pipe.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        if not self._follow:
            return _walked(self.root, path, flags)
        if not self._inside:
            return os.open(os.path.join(self.root, path), flags)
        # What links lead to is opened by its own path, folder by folder: whoever puts another link there in
        # between is refused, and does not lead out.
        root = os.path.realpath(self.root)
        real = os.path.realpath(os.path.join(root, path))
        if not self._below(real):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return _walked(root, os.path.relpath(real, root), flags)

    def _leads_out(self, place: str) -> bool:
        return self._inside and not self._below(os.path.realpath(place))

    def _below(self, real: str) -> bool:
        return os.path.commonpath((real, root := os.path.realpath(self.root))) == root

    def is_folder(self, path: str) -> bool:
        """True if there is a folder that is entered."""
        try:
            root = os.stat(self.root)
            return self._rules.admits_folder(path) and self._ancestors(path, root) is not None
        except (OSError, ValueError):
            return False

    def _entries(self, folder: str) -> Iterator[tuple[str, bool, os.stat_result] | None]:
        # Names alone, and a pause now and then: a folder can hold a million.
        names: list[str] = []
        links: set[str] = set()
        folders: set[str] = set()
        place = os.path.join(self.root, folder)
        try:
            with os.scandir(place) as found:
                for entry in found:
                    names.append(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
                    elif entry.is_dir():
                        folders.add(entry.name)
                    if not len(names) % _PAUSE_ENTRIES:
                        yield None
        except OSError as error:
            self._pass_over(folder, error)
            return
        self.unreadable.discard(folder)
        names.sort()
        for name in names:
            inner = os.path.join(place, name)
            linked = name in links
            if linked and (not self._follow or self._leads_out(inner)):
                continue
            try:
                # Of a link that is followed, what it leads to decides which rules count.
                status = os.stat(inner) if linked else None
                is_folder = name in folders if status is None else stat.S_ISDIR(status.st_mode)
                if not self._rules.admits_entry(folder, name, folder=is_folder):
                    yield None
                    continue
                status = status or os.stat(inner, follow_symlinks=False)
            except OSError:
                continue  # gone between listing and looking, or a link that leads nowhere
            if linked:
                path = f"{folder}/{name}" if folder else name
                self.links[path] = os.path.realpath(inner)
            yield name, is_folder, status

    def _pass_over(self, folder: str, error: OSError) -> None:
        if error.errno not in _ABSENT and folder not in self.unreadable:
            self.unreadable.add(folder)
            log.warning(
                "folder cannot be read; its documents stay as they are",
                extra={"folder": folder, "error": error.strerror},
            )

    def _ancestors(self, folder: str, root: os.stat_result) -> frozenset[tuple[int, int]] | None:
        """The folders on the way, by identity; None if the walk would not come here."""
        found = {(root.st_dev, root.st_ino)}
        path = self.root
        for name in folder.split("/") if folder else ():
            if name in ("", ".", ".."):
                return None
            path = os.path.join(path, name)
            status = self._stat(path)
            here = (status.st_dev, status.st_ino)
            if not stat.S_ISDIR(status.st_mode) or here in found or len(found) >= _DEPTH:
                return None
            found.add(here)
        return None if folder and self._leads_out(path) else frozenset(found)

    def _stat(self, path: str) -> os.stat_result:
        return os.stat(path, follow_symlinks=self._follow)


def raise_unless_absent(error: OSError | ValueError, path: str) -> None:
    """Return only if the error says that there is no such file.

    Raises:
        Transient: it says something else (no permission, an error of the disk).
    """
    # ValueError: a NUL in the name.
    if isinstance(error, OSError) and error.errno not in _ABSENT:
        raise Transient(f"{path}: {error.strerror}") from None


def _walked(root: str, path: str, flags: int) -> int:
    """A descriptor of a file below ``root``, opened folder by folder, none of which may be a link."""
    *folders, name = path.split("/")
    place = os.open(root, _FOLDER)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=place)
            os.close(place)
            place = inner
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=place)
    finally:
        os.close(place)
