"""The filesystem connector: a folder's text files, watched.

A document's revision is its change times, size and inode, so that a scan reads nothing that did
not change. What is half written is published at once, and again when it changes on.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from watchfiles._rust_notify import RustNotify  # the public generator gives no moment at which it watches

from connectors.extraction import SNIFFED_BYTES, extract, is_binary
from connectors.ignoring import Ignoring, relative
from connectors.settings import parse
from pipeline.errors import ConfigError, SourceUnavailable, Transient
from pipeline.identity import content_hash
from pipeline.ports import Fetched, Hint, Listed, Skipped

log = logging.getLogger(__name__)

#: Milliseconds between looks for further changes; the watcher's default of 50 costs a save 100.
_STEP_MS: Final = 2
_DEBOUNCE_MS: Final = 50
_POLL_MS: Final = 500
_CHUNK_BYTES: Final = 1024 * 1024


class Settings(BaseModel):
    """``[sources.NAME]`` of this connector."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = False
    hidden: bool = False
    follow_symlinks: bool = False
    polling: bool = False


def connector(source_id: str, settings: Mapping[str, Any], document_limit_bytes: int) -> Filesystem:
    """Make the source; see :class:`Settings`.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    return Filesystem(source_id, parse(Settings, source_id, settings), document_limit_bytes)


class Filesystem:
    """The Source port over a folder."""

    def __init__(self, source_id: str, settings: Settings, document_limit_bytes: int) -> None:
        self._id = source_id
        self._settings = settings
        self._limit = document_limit_bytes
        self._root = os.path.abspath(settings.path.expanduser())
        if os.path.exists(self._root) and not os.path.isdir(self._root):
            raise ConfigError(f"sources.{source_id}.path: {settings.path} is not a folder", "give a folder")
        self._rules = Ignoring(
            Path(self._root),
            settings.include,
            settings.exclude,
            hidden=settings.hidden,
            gitignore=settings.gitignore,
        )
        self._closed = threading.Event()
        self._watch: RustNotify | None = None

    @property
    def id(self) -> str:
        """The source id of its document keys."""
        return self._id

    def scan(self) -> Iterator[Listed]:
        """All files that pass, in order of their names."""
        self._start_watching()
        yield from self._walk("")

    def hints(self, timeout: float) -> list[Hint]:
        """What the kernel has told about since the last call."""
        if self._watch is None:
            self._closed.wait(timeout)  # the root is away, and the runner waits for it
            return []
        found = self._watch.watch(_DEBOUNCE_MS, _STEP_MS, max(1, round(timeout * 1000)), self._closed)
        if not isinstance(found, set):
            return []  # timeout, stop or signal
        hints: dict[str | None, Hint] = {}
        for _, path in sorted(found, key=lambda change: change[1]):
            for hint in self._hints_of(path):
                hints[hint.path] = hint
        return list(hints.values())

    def fetch(self, path: str) -> Fetched | Skipped | None:
        """The file now."""
        if not self._rules.passes_whole(path):
            # Excluded by a rule that is newer than the document.
            return Skipped(path, "excluded", "excluded") if os.path.lexists(self._full(path)) else None
        full = self._full(path)
        try:
            file = os.open(full, os.O_RDONLY | os.O_NONBLOCK | (0 if self._settings.follow_symlinks else os.O_NOFOLLOW))
        except OSError as error:
            return self._unopened(path, error)
        try:
            return self._read(path, file)
        except OSError as error:
            raise Transient(f"{path}: {error.strerror}") from None
        finally:
            os.close(file)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    # ---------------------------------------------------------------------------- private

    def _full(self, path: str) -> str:
        return os.path.join(self._root, path)

    def _start_watching(self) -> None:
        if not os.path.isdir(self._root):
            self._watch = None  # what is mounted again later is another folder
            raise SourceUnavailable(f"folder {self._root} of source {self._id} is not there")
        if self._watch is not None:
            return
        try:
            self._watch = RustNotify([self._root], False, self._settings.polling, _POLL_MS, True, True)
        except OSError as error:
            if error.errno != errno.ENOSPC and "limit" not in str(error).lower():
                raise SourceUnavailable(f"folder {self._root} cannot be watched: {error}") from None
            log.warning(
                "too many folders to watch: polling instead, which is slower; raise fs.inotify.max_user_watches",
                extra={"source": self._id},
            )
            self._watch = RustNotify([self._root], False, True, _POLL_MS, True, True)

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Listed]:
        try:
            with os.scandir(self._full(folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise SourceUnavailable(f"folder {self._root} of source {self._id}: {error.strerror}") from None
            if not isinstance(error, FileNotFoundError):
                # Its documents are fetched before they count as deleted, and cannot be read either.
                log.warning("folder cannot be read", extra={"folder": folder, "error": error.strerror})
            return
        follow = self._settings.follow_symlinks
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if entry.is_dir(follow_symlinks=follow):
                    if self._rules.passes(path, folder=True):
                        yield from self._inside(path, entry, above)
                elif entry.is_file(follow_symlinks=follow) and self._rules.passes(path, folder=False):
                    yield Listed(path, _revision(entry.stat(follow_symlinks=follow)))
            except OSError:
                continue  # gone since it was listed; if it is a known document it is fetched once more

    def _inside(self, path: str, entry: os.DirEntry[str], above: tuple[tuple[int, int], ...]) -> Iterator[Listed]:
        if not self._settings.follow_symlinks:
            yield from self._walk(path)
            return
        about = entry.stat()
        this = (about.st_dev, about.st_ino)
        if this not in above:  # a link to a folder above would never end
            yield from self._walk(path, (*above, this))

    def _hints_of(self, full: str) -> Iterator[Hint]:
        if "\ufffd" in full:
            yield Hint(None)  # a name that is not UTF-8: the watcher cannot say which
            return
        path = relative(self._root, full)
        if path is None or self._rules.changes_rules(path):
            yield Hint(None)
            return
        if not self._rules.passes_above(path):
            return  # our own state folder, above all: it changes with every write
        folder = os.path.isdir(full) and (self._settings.follow_symlinks or not os.path.islink(full))
        if os.path.lexists(full) and not self._rules.passes(path, folder=folder):
            return
        yield Hint(path)
        if folder:  # moved here as a whole, or filled before it was watched
            for listed in self._walk(path):
                yield Hint(listed.path)

    def _unopened(self, path: str, error: OSError) -> Skipped | None:
        if error.errno == errno.ELOOP:
            return Skipped(path, "link", "link")
        if error.errno == errno.ENXIO:
            return Skipped(path, "special", "special")
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            if not os.path.isdir(self._root):
                raise SourceUnavailable(f"folder {self._root} of source {self._id} is not there") from None
            return None
        raise Transient(f"{path}: {error.strerror}") from None

    def _read(self, path: str, file: int) -> Fetched | Skipped | None:
        about = os.fstat(file)
        if stat.S_ISDIR(about.st_mode):
            return None
        # Of before the reading: what changes meanwhile is another revision.
        revision = _revision(about)
        if not stat.S_ISREG(about.st_mode):
            return Skipped(path, revision, "special")
        start = os.read(file, SNIFFED_BYTES)
        if is_binary(start):
            return Skipped(path, revision, "binary")
        changed = about.st_mtime
        data = self._rest(file, start)
        if data is None:
            size = max(about.st_size, self._limit + 1)
            why = f"{_megabytes(size)}, over the limit of {_megabytes(self._limit)}"
            digest = content_hash(f"{size} {about.st_mtime_ns}")
            return Fetched(path, revision, None, digest, "application/octet-stream", {}, changed, size, why)
        found = extract(data, path)
        return Fetched(
            path, revision, found.text, content_hash(found.text), found.media_type, found.metadata, changed, len(data)
        )

    def _rest(self, file: int, start: bytes) -> bytes | None:
        """The whole file; None if it is over the limit, of which nothing more is read."""
        parts, size = [start], len(start)
        while size <= self._limit:
            part = os.read(file, _CHUNK_BYTES)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        return None


def _revision(about: os.stat_result) -> str:
    # The change time too: a copy that keeps its time of modification can have another content.
    return f"{about.st_mtime_ns:x}-{about.st_ctime_ns:x}-{about.st_size:x}-{about.st_ino:x}"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000_000:.1f} GB" if size >= 1_000_000_000 else f"{size / 1_000_000:.1f} MB"
