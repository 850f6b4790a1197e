"""A whole pipeline in one process: what ``up`` and ``demo`` run, over any broker and store."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from connectors.registry import open_source
from pipeline.cli.assembly import (
    LiveGeneration,
    Parts,
    apply_topics,
    chunk_worker,
    collection_of,
    embed_worker,
    founded,
    loaded,
    search_service,
)
from pipeline.cli.connect import runner_of
from pipeline.cli.crew import Crew
from pipeline.cli.operations import Operations
from pipeline.cli.process import Pulse, reporter
from pipeline.config import SourceConfig
from pipeline.deadline import Deadline
from pipeline.errors import FingerprintMismatch
from pipeline.ports import Embedder
from pipeline.specs import GenerationSpec, ModelSpec
from pipeline.stages.lag import LagSampler

_END_SECONDS: Final = 15.0


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
    """

    def __init__(
        self,
        parts: Parts,
        sources: Mapping[str, SourceConfig],
        stop: threading.Event,
        embedder: Embedder | None = None,
    ) -> None:
        self.parts = parts
        self.crew = Crew(stop)
        apply_topics(parts)
        self.spec: GenerationSpec = founded(parts)
        limit = parts.config.pipeline.document_limit_bytes
        self.sources = {id: open_source(id, source, limit) for id, source in sources.items()}
        self.embedder = embedder or loaded(parts, self.spec.model)
        self.collection = collection_of(parts, self.spec)
        self._live = LiveGeneration(parts)
        self.search = search_service(parts, self._live, self._model)
        self._reporter = reporter(parts.broker, parts.names, "up", self.spec.id, parts.health, parts.metrics)
        self.operations = Operations(parts, self.search, self._live, self._reporter.now)
        self.runners = [runner_of(parts, source, sources[id]) for id, source in self.sources.items()]

    def start(self) -> None:
        """Start all threads; connectors last, so that nothing waits for its reader."""
        parts, names = self.parts, self.parts.names
        publisher = parts.broker.publisher("chunk")
        chunks = chunk_worker(parts, self.spec, publisher)
        embeds = embed_worker(parts, self.spec, self.collection, self.embedder, publisher)
        self.crew.start("chunk-worker", chunks.run)
        self.crew.start("embed-worker", embeds.run)
        for runner in self.runners:
            self.crew.start("connector", runner.run)
        documents = names.documents(parts.config.pipeline.epoch)
        chunk_group, embed_group = names.group("chunk", self.spec.id), names.group("embed", self.spec.id)
        health, metrics = parts.health, parts.metrics
        samplers = [
            LagSampler(parts.broker, chunk_group, documents, chunks, health, metrics).tick,
            LagSampler(parts.broker, embed_group, names.chunks(self.spec.id), embeds, health, metrics).tick,
        ]
        self.crew.start("pulse", Pulse([self._reporter.tick, *samplers]).run)
        parts.metrics.generation_info.labels(self.spec.id, self.spec.model.name).set(1)
        parts.health.set_started()

    @property
    def scanned(self) -> bool:
        """True once every source was read to its end for the first time."""
        return all(runner.scanned.is_set() for runner in self.runners)

    def lag(self) -> int:
        """Records that some stage has not committed yet."""
        broker, names = self.parts.broker, self.parts.names
        chunk = broker.lag(names.group("chunk", self.spec.id), names.documents(self.parts.config.pipeline.epoch))
        embed = broker.lag(names.group("embed", self.spec.id), names.chunks(self.spec.id))
        return sum(chunk.values()) + sum(embed.values())

    def close(self) -> bool:
        """Drain, commit and end all threads; False if one did not end in time."""
        for source in self.sources.values():
            source.close()
        ended = self.crew.end(Deadline.after(self.parts.config.work.drain_seconds + _END_SECONDS))
        self._live.close()
        self._reporter.end()
        return ended

    def _model(self, spec: ModelSpec) -> Embedder:
        if spec.fingerprint != self.embedder.spec.fingerprint:
            raise FingerprintMismatch(f"the live generation's model {spec.name} is not loaded here", "start `up` again")
        return self.embedder
