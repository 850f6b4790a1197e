"""A slow walk over all heads that removes what dead writers left behind."""

from __future__ import annotations

import time
from typing import Final

from pipeline.ports import Collection
from pipeline.sync import repair

#: Heads looked at in one step, and seconds between steps: some 13 heads a second at rest, which
#: costs the store four small requests every five seconds.
_PAGE: Final = 64
_CALM_SECONDS: Final = 5.0
#: After a rebalance, until one walk is complete: that is when somebody may have died.
_HURRY_SECONDS: Final = 0.25


class RepairWalk:
    """Step 5 of the store protocol over every head, a page at a time; safe beside any writer."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._after: str | None = None
        self._pause = _CALM_SECONDS
        self._next = time.monotonic() + _CALM_SECONDS

    def hurry(self) -> None:
        """Begin a quicker walk from the start."""
        self._after = None
        self._pause = _HURRY_SECONDS
        self._next = min(self._next, time.monotonic() + _HURRY_SECONDS)

    def step(self) -> None:
        """Look at one page if it is time to.

        Raises:
            StoreUnavailable, StoreBusy: the page is looked at again by the next step.
        """
        if time.monotonic() < self._next:
            return
        heads, after = self._collection.scan_heads(self._after, _PAGE)
        if heads:
            repair(self._collection, [head.doc for head in heads])
        self._after = after
        if after is None:
            self._pause = _CALM_SECONDS
        self._next = time.monotonic() + self._pause
