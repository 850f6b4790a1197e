"""Search in whatever generation is live, followed from one to the next without a restart.

Every generation that may become live within a second is kept open with its model: the live one,
one that is ready, and the previous one. A switch is then one assignment between two searches;
while a generation is still being opened, the one before it goes on answering.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.deadline import Deadline
from pipeline.errors import CollectionMissing, Transient, VectideError
from pipeline.naming import Names
from pipeline.points import Where
from pipeline.ports import Collection, Embedder, Store
from pipeline.search.searcher import Answer, Searcher, typed_where
from pipeline.specs import GenerationSpec

log = logging.getLogger(__name__)

#: A generation that could not be opened ahead is tried again after this long.
_RETRY_SECONDS: Final = 10.0
#: What control says may be a quarter of a second old, and a broker takes its time.
_NEWS_SECONDS: Final = 2.0
_NEWS_POLL_SECONDS: Final = 0.05


class Generations(Protocol):
    """What a search must know of the generations."""

    @property
    def live(self) -> GenerationSpec | None:
        """The one to search; None before there is one."""
        ...

    @property
    def standby(self) -> list[GenerationSpec]:
        """Those that may be live in a moment."""
        ...

    @property
    def target(self) -> GenerationSpec | None:
        """The one that a migration builds or has built."""
        ...


@dataclass(frozen=True, slots=True)
class _Open:
    collection: Collection
    searcher: Searcher


class Shadow:
    """Asks a share of the searches of the target too, behind the answer, and tells how alike they are.

    One at a time, in a thread of its own: what comes meanwhile is left out, never queued.

    Args:
        share: of the searches, 0 to 1.
        observe: told the target's seconds, and the part of the documents that both answers have.
    """

    def __init__(self, share: float, observe: Callable[[float, float], None]) -> None:
        self._share = share
        self._observe = observe
        self._random = random.Random()  # noqa: S311 - which searches are asked twice is no secret
        self._busy = threading.Semaphore(1)

    def offer(self, answer: Answer, ask: Callable[[], Answer]) -> None:
        """Ask again, perhaps; returns at once."""
        if self._random.random() < self._share and self._busy.acquire(blocking=False):
            threading.Thread(target=self._run, args=(answer, ask), name="shadow", daemon=True).start()

    def _run(self, answer: Answer, ask: Callable[[], Answer]) -> None:
        try:
            other = ask()
            ours, theirs = ({hit.key for hit in one.hits} for one in (answer, other))
            self._observe(other.seconds, len(ours & theirs) / max(1, len(ours | theirs)))
        except VectideError as error:
            log.debug("shadow search failed", extra={"error": str(error)})
        finally:
            self._busy.release()


class SearchService:
    """Safe for several threads.

    Args:
        store: where the collections are.
        names: of the pipeline.
        generations: as ``control`` says.
        load: the model of a generation, loaded, safe for several threads.
        shadow: asks the target as well; None asks only the live one.
        keep: told which models are still needed, at every look.
    """

    def __init__(
        self,
        store: Store,
        names: Names,
        generations: Callable[[], Generations],
        load: Callable[[GenerationSpec], Embedder],
        shadow: Shadow | None = None,
        keep: Callable[[Iterable[GenerationSpec]], None] = lambda specs: None,
    ) -> None:
        self._shadow = shadow
        self._keep = keep
        self._store = store
        self._names = names
        self._generations = generations
        self._load = load
        self._opening = threading.Lock()
        self._open: dict[str, _Open] = {}
        self._current: str | None = None
        self._followed = False
        self._target: str | None = None
        self._later: dict[str, float] = {}
        self._why: dict[str, str] = {}

    def search(self, query: str, top: int = 5, where: Where | None = None, *, by_document: bool = False) -> Answer:
        """The best hits in the live generation; see :meth:`Searcher.search`.

        Raises:
            ConfigError: ``top`` or the filter is wrong.
            StoreUnavailable, StoreBusy, Transient: ask again.
        """
        try:
            answer = _ask(self._live(), query, top, where, by_document)
        except CollectionMissing:
            answer = self._asked_again(query, top, where, by_document)
        target = self._open.get(self._target or "")
        if self._shadow is not None and target is not None and target.searcher.generation != answer.generation:
            self._shadow.offer(answer, lambda: _ask(target, query, top, where, by_document))
        return answer

    def _asked_again(self, query: str, top: int, where: Where | None, by_document: bool) -> Answer:
        """What was searched is retired; until the news of that come, a look at control says nothing new."""
        deadline = Deadline.after(_NEWS_SECONDS)
        while True:
            self._forget()
            try:
                return _ask(self._live(), query, top, where, by_document)
            except CollectionMissing:
                if deadline.expired:
                    raise
                time.sleep(_NEWS_POLL_SECONDS)

    def warm(self) -> None:
        """Load the live model now, so that the first search does not wait for it."""
        self._live()

    def follow(self) -> str:
        """Open what may be live in a moment, and close what may not; called a few times a second.

        Returns:
            Why it does not search the live generation; or empty.

        Raises:
            Transient: ``control`` cannot be read.
        """
        self._followed = True
        generations = self._generations()
        shadowed = None if self._shadow is None else generations.target
        self._target = None if shadowed is None else shadowed.id
        wanted = [spec for spec in (generations.live, *generations.standby, shadowed) if spec is not None]
        for spec in wanted:
            if spec.id not in self._open and time.monotonic() >= self._later.get(spec.id, 0.0):
                try:
                    self._opened(spec)
                except Exception as error:  # whatever is wrong with one takes no other with it
                    self._later[spec.id] = time.monotonic() + _RETRY_SECONDS
                    self._why[spec.id] = f"generation {spec.id} cannot be opened: {error}"
                    log.warning("generation not open yet", extra={"generation": spec.id, "error": str(error)})
        ids = {spec.id for spec in wanted}
        if generations.live is not None and generations.live.id in self._open:
            self._current = generations.live.id
        with self._opening:
            self._open = {id: one for id, one in self._open.items() if id in ids or id == self._current}
            self._later = {id: at for id, at in self._later.items() if id in ids}
            self._why = {id: why for id, why in self._why.items() if id in ids and id not in self._open}
        self._keep(wanted)
        return "" if generations.live is None else self._why.get(generations.live.id, "")

    def _live(self) -> _Open:
        spec = self._generations().live
        if spec is None:
            raise Transient("no generation is live yet: no worker has started for the first time")
        found = self._open.get(spec.id)
        if found is not None:
            self._current = spec.id
            return found
        before = self._open.get(self._current or "")
        if before is not None and self._followed:
            return before  # the follower is opening the new one: nobody waits for a model
        found = self._opened(spec)
        self._current = spec.id
        return found

    def _opened(self, spec: GenerationSpec) -> _Open:
        with self._opening:
            found = self._open.get(spec.id)
            if found is None:
                collection = self._store.open(self._names.collection(spec.id))
                found = _Open(collection, Searcher(collection, self._load(spec)))
                self._open = {**self._open, spec.id: found}
            return found

    def _forget(self) -> None:
        with self._opening:
            self._open, self._current = {}, None


def _ask(live: _Open, query: str, top: int, where: Where | None, by_document: bool) -> Answer:
    typed = typed_where(where, live.collection) if where else None
    return live.searcher.search(query, top, typed, by_document=by_document)
