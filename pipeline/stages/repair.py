"""A slow walk over all heads that removes what dead writers left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Container
from typing import Final

from pipeline.points import Head
from pipeline.ports import Collection
from pipeline.sync import repair

#: Heads looked at in one step, and seconds between steps: some 13 heads a second at rest, which
#: costs the store four small requests every five seconds.
_PAGE: Final = 64
_CALM_SECONDS: Final = 5.0
#: After a rebalance, until one walk is complete: that is when somebody may have died.
_HURRY_SECONDS: Final = 0.25


class RepairWalk:
    """Step 5 of the store protocol over every head, a page at a time; safe beside any writer.

    Args:
        collection: of the generation.
        grace_seconds: how long the chunks of a deleted document stay for a rename to reuse.
    """

    def __init__(self, collection: Collection, grace_seconds: float) -> None:
        self._collection = collection
        self._grace = grace_seconds
        self._after: str | None = None
        self._pause = _CALM_SECONDS
        self._next = time.monotonic() + _CALM_SECONDS
        self._hurried = threading.Event()

    def hurry(self) -> None:
        """Begin a quicker walk from the start; from any thread."""
        self._hurried.set()

    def step(self, held: Container[str] = ()) -> None:
        """Look at one page if it is time to.

        Args:
            held: deleted documents whose sweep is not due.

        Raises:
            StoreUnavailable, StoreBusy: the page is looked at again by the next step.
        """
        if self._hurried.is_set():
            self._hurried.clear()
            self._after = None
            self._pause = _HURRY_SECONDS
            self._next = min(self._next, time.monotonic() + _HURRY_SECONDS)
        if time.monotonic() < self._next:
            return
        heads, after = self._collection.scan_heads(self._after, _PAGE)
        docs = [head.doc for head in heads if head.doc not in held and not self._fresh_tombstone(head)]
        if docs:
            repair(self._collection, docs)
        self._after = after
        if after is None:
            self._pause = _CALM_SECONDS
        self._next = time.monotonic() + self._pause

    def _fresh_tombstone(self, head: Head) -> bool:
        """Another worker may hold it: a guess by its event time, which costs a later walk at most."""
        return head.state == "deleted" and time.time() - head.event_time < 2 * self._grace
