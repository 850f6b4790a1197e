"""Vectors of the last batches: the next one may need them before they are in the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from pipeline.points import Vectors


class RecentVectors:
    """Content hash to vector, the least recently used dropped first; safe for several threads.

    Args:
        limit_bytes: of the vectors kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._bytes = 0

    def find(self, content_hashes: Sequence[str]) -> dict[str, Vectors]:
        """Those that are known."""
        with self._lock:
            found = {content: self._vectors[content] for content in content_hashes if content in self._vectors}
            for content in found:
                self._vectors.move_to_end(content)
            return found

    def add(self, vectors: Mapping[str, Vectors]) -> None:
        """Remember vectors."""
        with self._lock:
            for content, vector in vectors.items():
                if content not in self._vectors:
                    # A copy: a row of a batch would keep the whole batch alive.
                    self._vectors[content] = vector.copy()
                    self._bytes += vector.nbytes
            while self._bytes > self._limit and self._vectors:
                _, dropped = self._vectors.popitem(last=False)
                self._bytes -= dropped.nbytes
