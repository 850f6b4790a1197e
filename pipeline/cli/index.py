"""A whole pipeline in one process: what ``up`` and ``demo`` run, over any broker and store."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from connectors.registry import open_source
from pipeline.cli.assembly import (
    Followed,
    Models,
    Parts,
    apply_topics,
    collection_of,
    connector_state,
    founded,
    proposed,
    search_service,
)
from pipeline.cli.crew import Crew
from pipeline.cli.figures import live_lag
from pipeline.cli.lines import Lines
from pipeline.cli.operations import Operations
from pipeline.cli.patrolling import patrol_of
from pipeline.cli.process import Pulse, follow, reporter
from pipeline.cli.runners import runner_of
from pipeline.config import SourceConfig
from pipeline.deadline import Deadline
from pipeline.generations.control import ControlState
from pipeline.ports import Embedder
from pipeline.specs import GenerationSpec

_END_SECONDS: Final = 25.0


class Index:
    """Connectors, both stages and search, around one loaded model.

    Args:
        parts: broker and store, open.
        sources: by source id.
        stop: set it to end everything.
        embedder: already loaded, to save loading it again; else the generation's is loaded.

    Raises:
        FingerprintMismatch: the configuration proposes another model or chunking than the live one.
        ConfigError: the model is not on this machine, or a source's settings are wrong.
        Transient: ``stop`` was set before the model was loaded.
    """

    def __init__(
        self,
        parts: Parts,
        sources: Mapping[str, SourceConfig],
        stop: threading.Event,
        embedder: Embedder | None = None,
    ) -> None:
        self.parts = parts
        self.syncing = True
        """Until it is in step with its sources for the first time."""
        self.crew = Crew(stop)
        apply_topics(parts)
        live = founded(parts).live
        assert live is not None  # founded() gives no state without one
        self.spec: GenerationSpec = live.spec
        limit = parts.config.pipeline.document_limit_bytes
        state = connector_state(parts.config)
        self.sources = {id: open_source(id, source, limit, state) for id, source in sources.items()}
        self.models = Models(parts.config, [] if embedder is None else [embedder], stop)
        self.embedder = self.models.of(self.spec)
        self.collection = collection_of(parts, self.spec)
        self.control = Followed(parts)
        self.search = search_service(parts, self.control, self.models)
        self._reporter = reporter(
            parts.broker, parts.names, "up", self.spec.id, parts.health, parts.metrics, list(self.sources)
        )
        self.operations = Operations(
            parts,
            self.control,
            self.search,
            self.models,
            self._reporter.now,
            sources,
            runs=frozenset(sources),
            syncing=lambda: self.syncing,
        )
        self.lines = Lines(
            parts,
            self.control,
            self.models,
            ("chunk", "embed"),
            on_state=self._followed,
            proposed=proposed(parts.config),
        )
        self._patrol = patrol_of(parts, self.control, self.models, self.lines)
        self.runners = [runner_of(parts, source, sources[id], self.control) for id, source in self.sources.items()]

    def start(self) -> None:
        """Start all threads; connectors last, so that nothing waits for its reader."""
        # What is wrong with the live generation is raised here; others must not keep it from starting.
        self.lines.start_live(self.control())
        self.crew.start("lines", self.lines.run)
        self.crew.start("patrol", self._patrol.run)
        self.crew.start("search", lambda stop: follow(self.search, self.parts.health, stop))
        for runner in self.runners:
            self.crew.start("connector", runner.run)
        self.crew.start("pulse", Pulse([self._reporter.tick]).run)
        self.parts.health.set_started()

    @property
    def scanned(self) -> bool:
        """True once every source was read to its end for the first time."""
        return all(runner.scanned.is_set() for runner in self.runners)

    def lag(self) -> int:
        """Records that some stage of the live generation has not committed yet."""
        return live_lag(self.parts, self.spec)

    def drain(self) -> bool:
        """Finish what is in work, commit it and end all threads; False if one did not end in time. Searches
        go on.
        """
        for source in self.sources.values():
            source.close()
        return self.crew.end(Deadline.after(self.parts.config.work.drain_seconds + _END_SECONDS))

    def close(self) -> bool:
        """Drain, if that is not done, and close what searches need."""
        ended = self.drain()
        self.operations.close()
        self.control.close()
        self._reporter.end()
        return ended

    def _followed(self, state: ControlState) -> None:
        """The live generation is another one now, and models of those that are over can go."""
        if state.live is not None and state.live.id != self.spec.id:
            self.collection = collection_of(self.parts, state.live.spec)
            self.embedder = self.models.of(state.live.spec)
            self.spec = state.live.spec
        self.models.keep([one.spec for one in state.followed])
