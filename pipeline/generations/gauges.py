"""What ``control`` says, as metrics of every process that follows it: a migration's job needs no scrape of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from pipeline.errors import Backpressure, Fatal, Transient
from pipeline.generations.control import FOLLOWED, UNDER_WAY, ControlState, Generation
from pipeline.observe.metrics import GENERATIONS, HEADS, Metrics
from pipeline.observe.series import Series

#: To count a collection's heads costs the store a look at all of them.
_COUNT_SECONDS: Final = 30.0
#: Of those that are over and not retired: the newest, for an operator may never retire them.
_OVER: Final = 5


def _in_a_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="counting", daemon=True).start()


class GenerationGauges:
    """One process's view of the generations; used by one thread.

    Args:
        metrics: told.
        proposed: fingerprint of the generation that the configuration proposes; None if it proposes
            none that can be known here.
        clock: seconds that only grow.
        begin: runs what takes its time; in a thread if not given.
    """

    def __init__(
        self,
        metrics: Metrics,
        proposed: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        begin: Callable[[Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        self._proposed = proposed
        self._clock = clock
        self._mismatch = metrics.configuration_mismatch
        self._info = Series(metrics.generation_info)
        self._states = Series(metrics.migration_state)
        self._since = Series(metrics.generation_state_timestamp_seconds)
        self._throttle = Series(metrics.migration_throttle_ratio)
        self._documents = Series(metrics.migration_documents)
        self._expected = Series(metrics.migration_expected_documents)
        self._next_count = 0.0
        self._begin = begin
        self._lock = threading.Lock()
        self._counted: str | None = None
        self._counting = False

    def show(self, state: ControlState) -> None:
        """As of now."""
        shown, target = _shown(state), state.target
        self._info.replace({(one.id, one.spec.model.name, one.state): 1.0 for one in state.followed})
        self._states.replace({(one.id, name): float(one.state == name) for one in shown for name in GENERATIONS})
        self._since.replace({(one.id, one.state): one.since for one in shown})
        share: dict[tuple[str, ...], float] = (
            {} if target is None else {(target.id,): 0.0 if target.paused else target.throttle}
        )
        self._throttle.replace(share)
        self._mismatch.set(self._differs(state))

    def count(self, state: ControlState, heads: Callable[[str], Mapping[str, int]] | None) -> None:
        """Count what a migration has built, if one is under way and it is time to, in a thread of its own:
        of large collections it takes longer than a cutover may wait. A store that does not answer is
        another part's news.

        Args:
            state: what ``control`` says.
            heads: how many heads a generation's collection has, by their state; None: another process counts.
        """
        target, live = state.target, state.live
        with self._lock:
            self._counted = None if target is None or live is None or heads is None else target.id
            if self._counted is None:
                self._documents.replace({})
                self._expected.replace({})
                self._next_count = 0.0
        if target is None or live is None or heads is None or self._counting or self._clock() < self._next_count:
            return
        self._next_count = self._clock() + _COUNT_SECONDS
        self._counting = True
        asked, of, beside = heads, target.id, live.id
        self._begin(lambda: self._count(asked, of, beside))

    def _count(self, heads: Callable[[str], Mapping[str, int]], target: str, live: str) -> None:
        try:
            with contextlib.suppress(Transient, Backpressure, Fatal):  # Fatal: a collection is not there yet, or gone
                built, expected = heads(target), heads(live)
                with self._lock:
                    if self._counted == target:  # else that migration is over
                        self._documents.replace({(target, name): float(built.get(name, 0)) for name in HEADS})
                        self._expected.replace({(target,): float(sum(expected.values()) - expected.get("deleted", 0))})
        finally:
            self._counting = False

    def _differs(self, state: ControlState) -> bool:
        if self._proposed is None or state.live is None:
            return False
        named = [state.live, *(one for one in state.generations.values() if one.state in UNDER_WAY)]
        return all(one.spec.fingerprint != self._proposed for one in named)


def _shown(state: ControlState) -> list[Generation]:
    """Those that are followed, and the newest of those that were given up or failed and take room still."""
    over = [one for one in state.generations.values() if one.state in ("aborted", "failed")]
    over.sort(key=lambda one: one.since)
    return [one for one in state.generations.values() if one.state in FOLLOWED] + over[-_OVER:]
