"""A power cut: of what was written since the last flush, point by point, an older state may be left."""

from __future__ import annotations

import random
from typing import Any

from pipeline.store.memory import MemoryCollection

State = tuple[dict[str, Any], dict[str, Any]]


class Power:
    """Remembers the states of a collection since its last flush."""

    def __init__(self, collection: MemoryCollection) -> None:
        self._collection = collection
        self._states: list[State] = [({}, {})]
        collection.flush = self._flush  # type: ignore[method-assign]

    def remember(self) -> None:
        """Note the state as it is now, if it is another than before."""
        now = dict(self._collection._heads), dict(self._collection._chunks)
        if now != self._states[-1]:
            self._states.append(now)

    def cut(self, random_: random.Random) -> str:
        """Lose something; says what kind of loss it was."""
        self.remember()
        if random_.random() < 0.3:  # the tail of the engine's log
            at = random_.randrange(len(self._states))
            left = self._states[at]
            kind = f"back to state {at} of {len(self._states)}"
        else:  # pages reached the disk in any order
            lean = random_.random()
            left = self._scattered(random_, 0, lean), self._scattered(random_, 1, lean)
            kind = "each point for itself"
        self._restore(left)
        self._states = [left]
        return kind

    def _flush(self) -> None:
        self._states = [(dict(self._collection._heads), dict(self._collection._chunks))]

    def _scattered(self, random_: random.Random, which: int, lean: float) -> dict[str, Any]:
        left = {}
        for id in sorted({id for state in self._states for id in state[which]}):
            state = self._states[-1 if random_.random() < lean else random_.randrange(len(self._states))]
            if id in state[which]:
                left[id] = state[which][id]
        return left

    def _restore(self, state: State) -> None:
        collection = self._collection
        collection._heads = dict(state[0])
        collection._chunks, collection._of_doc, collection._of_hash = {}, {}, {}
        collection._matrix = None
        for chunk in state[1].values():
            collection._put(chunk)
