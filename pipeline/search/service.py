"""Search in whatever generation is live, followed from one to the next without a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import CollectionMissing, Transient
from pipeline.naming import Names
from pipeline.points import Where
from pipeline.ports import Collection, Embedder, Store
from pipeline.search.searcher import Answer, Searcher, typed_where
from pipeline.specs import GenerationSpec, ModelSpec


@dataclass(frozen=True, slots=True)
class _Live:
    generation: str
    collection: Collection
    searcher: Searcher


class SearchService:
    """Safe for several threads.

    Args:
        store: where the collections are.
        names: of the pipeline.
        live: the live generation as ``control`` says; None before there is one.
        load: the model of a spec, loaded, safe for several threads.
    """

    def __init__(
        self,
        store: Store,
        names: Names,
        live: Callable[[], GenerationSpec | None],
        load: Callable[[ModelSpec], Embedder],
    ) -> None:
        self._store = store
        self._names = names
        self._live = live
        self._load = load
        self._switching = threading.Lock()
        self._current: _Live | None = None

    def search(self, query: str, top: int = 5, where: Where | None = None, *, by_document: bool = False) -> Answer:
        """The best hits in the live generation; see :meth:`Searcher.search`.

        Raises:
            ConfigError: ``top`` or the filter is wrong.
            StoreUnavailable, StoreBusy, Transient: ask again.
        """
        live = self._resolved()
        try:
            return self._ask(live, query, top, where, by_document)
        except CollectionMissing:
            # Retired between the look at control and the search: look again, once.
            self._current = None
            return self._ask(self._resolved(), query, top, where, by_document)

    def warm(self) -> None:
        """Load the live model now, so that the first search does not wait for it."""
        self._resolved()

    def _ask(self, live: _Live, query: str, top: int, where: Where | None, by_document: bool) -> Answer:
        typed = typed_where(where, live.collection) if where else None
        return live.searcher.search(query, top, typed, by_document=by_document)

    def _resolved(self) -> _Live:
        spec = self._live()
        if spec is None:
            raise Transient("no generation is live yet: no worker has started for the first time")
        current = self._current
        if current is not None and current.generation == spec.id:
            return current
        with self._switching:
            if self._current is None or self._current.generation != spec.id:
                # Both models stay loaded until the new one answers.
                collection = self._store.open(self._names.collection(spec.id))
                searcher = Searcher(collection, self._load(spec.model))
                self._current = _Live(spec.id, collection, searcher)
            return self._current
