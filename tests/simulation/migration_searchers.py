"""Searchers of a schedule: they ask for everything, all the time, and judge each answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.cli.assembly import Followed, Models, Parts, search_service
from pipeline.cli.process import follow
from pipeline.generations.control import ControlState
from pipeline.points import Head
from pipeline.search.searcher import Answer
from pipeline.specs import GenerationSpec
from pipeline.store.memory import MemoryStore
from tests.simulation.migration_corpus import NAMES, Corpus, vector_of
from tests.simulation.migration_history import History
from tests.simulation.migration_time import Event, Timeline

#: More than there are chunks: whatever is served is found.
TOP = 100
#: A look at control is at most so old; pipeline.cli.assembly looks so often.
_CONTROL_SECONDS = 0.25


@dataclass(frozen=True)
class _Before:
    """What was there when a search began."""

    entries: int
    heads: dict[str, dict[str, Head]]
    """By collection and document."""


class Searcher:
    """One process that answers searches, or the part of one.

    Args:
        parts: broker and store, as this process sees them.
        control: what it knows of control.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        models: Models,
        timeline: Timeline,
        history: History,
        corpus: Corpus,
        store: MemoryStore,
    ) -> None:
        self._control = control
        self._health = parts.health
        self._timeline = timeline
        self._history = history
        self._corpus = corpus
        self._store = store
        self._looked = self._followed = 0
        """Entries of the history that it knew of at its last look, and at the last look that it has followed."""
        self.service = search_service(parts, self._look, models)
        self.answers = self.quiet = self.switches = 0
        self._live = self._last = ""

    def follow(self, stop: Event) -> None:
        """Keep open what may be live; a thread."""
        inner = self.service.follow

        def noted() -> str:
            why = inner()
            # What is live may not be there yet, after a forced cutover: then the one before it goes on.
            if self._live in self.service._open:
                self._followed = self._looked
            return why

        self.service.follow = noted  # type: ignore[method-assign]
        follow(self.service, self._health, stop)  # type: ignore[arg-type]

    def run(self, stop: Event) -> None:
        """Ask until it is told to stop; a thread, one of several."""
        while not stop.wait(self._timeline.random.uniform(0.0, 0.4)):
            self.ask()

    def warm(self) -> None:
        """Open what is live, before anything is asked."""
        self.service.warm()
        self._followed = self._looked

    def ask(self) -> Answer | None:
        """One search."""
        key = self._timeline.random.choice(self._corpus.keys)
        query = f"what document {key.path} has to say"
        before, began = _Before(self._followed, self._heads()), len(self._history.entries)
        try:
            answer = self.service.search(query, TOP, by_document=True)
        except Exception as error:
            # A person may insist on a generation that nobody has begun to build, and remove the one before it.
            lived = [id for id in self._history.lived(began) if self._history.follows(id)]
            nothing = any(NAMES.collection(id) not in self._heads() for id in lived)
            self._history.require(nothing, f"a search failed: {type(error).__name__}: {error}")
            return None
        self._judge(before, query, answer)
        return answer

    def _look(self) -> ControlState:
        asked, known = self._timeline.now, len(self._history.entries)
        state = self._control()
        self._looked, self._live = len(state.history), "" if state.live is None else state.live.id
        old = sum(one.at <= asked - _CONTROL_SECONDS for one in self._history.entries[:known])
        self._history.require(self._looked >= old, f"a look at control misses {old - self._looked} entries")
        return state

    def _heads(self) -> dict[str, dict[str, Head]]:
        return {name: dict(self._store.open(name)._heads) for name in self._store.names(NAMES.root)}

    def _judge(self, before: _Before, query: str, answer: Answer) -> None:
        id, require = answer.generation, self._history.require
        allowed = self._history.lived(before.entries)
        require(id in allowed, f"the answer comes from {id}; live were {sorted(allowed)}")
        name = NAMES.collection(id)
        spec = GenerationSpec.model_validate(self._history.specs[id])
        asked = vector_of(spec.model, query, query=True)
        for hit in answer.hits:
            made = vector_of(spec.model, hit.text, query=False)
            near = float(made @ asked / (np.linalg.norm(made) * np.linalg.norm(asked)))
            require(abs(near - hit.score) < 1e-4, f"{hit.key}: not the score of {id}'s model: {hit.score}, not {near}")
        hits = {hit.key: hit for hit in answer.hits}
        then, now = before.heads.get(name), self._heads().get(name)
        self.answers += 1
        self.switches += self._last not in ("", id)
        self._last = id
        if then is None or now is None:
            return  # it came into being, or went, while the search ran
        moved = False
        for key in self._corpus.keys:
            was, hit = then.get(key.doc), hits.get(key.text)
            if was is None:
                moved |= hit is not None
            elif now.get(key.doc) != was:
                moved = True
                require(
                    hit is None or hit.version >= was.content_version, f"{key.path} went back to {hit and hit.version}"
                )
                require(
                    hit is None or was.state != "deleted" or hit.version > was.version,
                    f"{key.path} was deleted before, and is found at {hit and hit.version}",
                )
            elif was.state == "deleted" or not was.chunks:
                require(hit is None, f"{key.path} is {was.state}, and is found")
            else:
                require(hit is not None, f"{key.path} is in {id} at {was.version}, and is not found ({len(hits)} hits)")
                assert hit is not None
                require(hit.version == was.content_version, f"{key.path} is at {was.version}, found is {hit.version}")
        self.quiet += not moved
