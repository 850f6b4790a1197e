"""A source in memory: the contract of sources where it can be read, and a place for tests to write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.deadline import Deadline
from pipeline.identity import Metadata, content_hash
from pipeline.ports import Fetched, Hint, Listed, Skipped


@dataclass(frozen=True, slots=True)
class _Document:
    revision: int
    text: str
    metadata: Metadata
    media_type: str
    at: float


@dataclass(slots=True)
class MemorySource:
    """A :class:`pipeline.ports.Source`; documents are put and removed by any thread."""

    id: str
    _documents: dict[str, _Document] = field(default_factory=dict)
    _hints: dict[str, float] = field(default_factory=dict)
    _revision: int = 0
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def put(
        self, path: str, text: str, metadata: Metadata | None = None, media_type: str = "text/plain", at: float = 0.0
    ) -> None:
        """Create or change a document. ``at``: when it says that it changed; now, if 0."""
        with self._changed:
            self._revision += 1
            self._documents[path] = _Document(self._revision, text, metadata or {}, media_type, at or time.time())
            self._note(path)

    def remove(self, path: str) -> None:
        """Delete a document."""
        with self._changed:
            self._documents.pop(path, None)
            self._note(path)

    def rename(self, old: str, new: str) -> None:
        """Move a document, in one step for whoever looks."""
        with self._changed:
            self._documents[new] = self._documents.pop(old)
            self._note(new)
            self._note(old)

    def scan(self) -> Iterator[Listed]:
        """Everything, as of the beginning of the scan."""
        with self._changed:
            listed = [Listed(path, str(one.revision)) for path, one in sorted(self._documents.items())]
        yield from listed

    def hints(self, timeout: float) -> list[Hint]:
        """The paths that were written since the last call."""
        deadline = Deadline.after(timeout)
        with self._changed:
            while not self._hints and not self._closed and not deadline.expired:
                self._changed.wait(deadline.remaining())
            hints = [Hint(path, at) for path, at in self._hints.items()]
            self._hints.clear()
            return hints

    def fetch(self, path: str) -> Fetched | Skipped | None:
        """The document now."""
        with self._changed:
            found = self._documents.get(path)
        if found is None:
            return None
        return Fetched(
            path=path,
            revision=str(found.revision),
            text=found.text,
            digest=content_hash(found.text),
            media_type=found.media_type,
            metadata=found.metadata,
            event_time=found.at,
            size=len(found.text.encode("utf-8", "surrogatepass")),
        )

    def close(self) -> None:
        """Wake a waiting :meth:`hints`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _note(self, path: str) -> None:
        self._hints.setdefault(path, time.time())
        self._changed.notify_all()
