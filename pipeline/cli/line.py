"""A line: the stages of one generation in this process, as workers with a poll loop each."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Final

from pipeline.broker.topics import chunks_topic
from pipeline.cli.assembly import Models, Parts, collection_of
from pipeline.cli.crew import Crew
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker
from pipeline.embedding.models import located, tokenizer_of
from pipeline.embedding.paced import PacedEmbedder
from pipeline.embedding.recent import RecentVectors
from pipeline.errors import CollectionMissing, Fatal, FingerprintMismatch
from pipeline.generations.control import UNDER_WAY, Generation
from pipeline.observe.health import BEAT_LIMIT_SECONDS
from pipeline.ports import Collection as StoredCollection
from pipeline.ports import Publisher
from pipeline.records import Stage
from pipeline.stages.chunk import ChunkStage
from pipeline.stages.embed import EmbedLimits, EmbedStage
from pipeline.stages.lag import LagSampler
from pipeline.stages.pace import LiveTraffic, Pace
from pipeline.stages.worker import Worker, WorkerLimits

#: A generation that is built has nobody waiting for its last batches: they are done again.
_BUILDING_DRAIN_SECONDS: Final = 2.0
#: Beyond the drain: the last commit and leaving the group.
END_SECONDS: Final = 15.0
#: For a publisher to let go of its connections: what it was given has been published.
_CLOSE_SECONDS: Final = 2.0


class Line:
    """The stages of one generation in this process.

    Raises:
        ConfigError, FingerprintMismatch: its model or tokenizer is not on this machine.
        ForeignCollection, CollectionMissing: its collection is not there, or not its own.
    """

    def __init__(
        self, parts: Parts, generation: Generation, stages: Collection[Stage], models: Models, traffic: LiveTraffic
    ) -> None:
        self.spec = generation.spec
        self.building = generation.state in UNDER_WAY
        self.pace = Pace(traffic, parts.config.migrate.live_seconds)
        self.collection: StoredCollection | None = None
        self.workers: dict[Stage, Worker] = {}
        self.crew = Crew(threading.Event())
        self._parts = parts
        self._publishers: list[Publisher] = []
        self.follow(generation)
        parts.broker.ensure_topics([chunks_topic(parts.names, self.spec.id, parts.config.pipeline)])
        made: dict[Stage, ChunkStage | EmbedStage] = {}
        if "embed" in stages:
            # Before the model, which takes seconds to load: what is wrong with the store.
            new = not parts.store.names(parts.names.collection(self.spec.id))
            self.collection = collection_of(parts, self.spec)
            if new and self.building:
                parts.store.defer_index(self.collection.spec.name)
        if "chunk" in stages:
            made["chunk"] = self._chunk_stage()
        if self.collection is not None:
            made["embed"] = self._embed_stage(self.collection, models)
        # Groups are joined last: a member that never polls would keep its partitions from the others.
        for stage, one in made.items():
            self.workers[stage] = self._worker(stage, one)
        names = parts.names
        topics = {"chunk": names.documents(parts.config.pipeline.epoch), "embed": names.chunks(self.spec.id)}
        self._samplers = [
            LagSampler(
                parts.broker,
                names.group(stage, self.spec.id),
                topics[stage],
                worker,
                parts.health,
                parts.metrics,
                stage,
                self.spec.id,
            )
            for stage, worker in self.workers.items()
        ]

    def follow(self, generation: Generation) -> None:
        """Take note of a change of state, pause or throttle."""
        self.building = generation.state in UNDER_WAY
        self.pace.set(building=self.building, paused=generation.paused, share=generation.throttle)

    def start(self) -> None:
        """Start the threads."""
        for stage, worker in self.workers.items():
            self.crew.start(f"{stage}-worker", worker.run)

    @property
    def busy(self) -> bool:
        """Records are in work."""
        return any(worker.busy for worker in self.workers.values())

    def tick(self) -> None:
        """Sample its lag, and how near its workers are to losing their partitions."""
        for worker in self.workers.values():
            worker.watch()
        for sampler in self._samplers:
            sampler.tick()

    def end(self) -> bool:
        """Drain, commit and leave the groups; False if that took too long."""
        drain = _BUILDING_DRAIN_SECONDS if self.building else self._parts.config.work.drain_seconds
        ended = self.crew.end(Deadline.after(drain + END_SECONDS))
        for sampler in self._samplers:
            sampler.forget()
        if ended:  # else a thread may still publish
            for publisher in self._publishers:
                publisher.close(Deadline.after(_CLOSE_SECONDS))
        return ended

    def _worker(self, stage: Stage, made: ChunkStage | EmbedStage) -> Worker:
        parts, names, id = self._parts, self._parts.names, self.spec.id
        topic = names.documents(parts.config.pipeline.epoch) if stage == "chunk" else names.chunks(id)
        consumer = parts.broker.consumer(names.group(stage, id), [topic], stage)
        return Worker(consumer, made, self._limits(), parts.health, parts.metrics, generation=id)

    def _publisher(self, client: str) -> Publisher:
        """One that ends with this line: a process may see many generations come and go."""
        self._publishers.append(self._parts.broker.publisher(client))
        return self._publishers[-1]

    def _chunk_stage(self) -> ChunkStage:
        parts, config, names, spec = self._parts, self._parts.config, self._parts.names, self.spec
        tokenizer = tokenizer_of(located(spec, config))
        if tokenizer.sha256 != spec.chunking.tokenizer_sha256:
            raise FingerprintMismatch(
                f"the weights of generation {spec.id} have another tokenizer on this machine",
                "give it the files of the generation's model; migrate.models says where they are",
            )
        return ChunkStage(
            parts.broker,
            self._publisher("chunk"),
            names,
            spec,
            config.pipeline.epoch,
            chunker(spec, tokenizer),
            config.chunk.behind_limit_records,
            parts.patience(),
            parts.health,
            parts.metrics,
            self.pace,
        )

    def _embed_stage(self, collection: StoredCollection, models: Models) -> EmbedStage:
        parts, names, spec, embed = self._parts, self._parts.names, self.spec, self._parts.config.embed
        embedder = PacedEmbedder(models.of(spec), self.pace.turn, self.pace.batch_tokens)
        observe, enough = parts.metrics.tokens_per_batch.observe, threading.Event()
        return EmbedStage(
            collection,
            lambda items: embed_all(embedder, items, embed.batch_tokens, embed.batch_items, observe, enough.is_set),
            self._publisher("embed"),
            names,
            EmbedLimits(
                documents=embed.gather_documents,
                tokens=embed.gather_tokens,
                slice_chunks=embed.slice_chunks,
                delete_grace_seconds=embed.delete_grace_seconds,
                flush_seconds=embed.flush_seconds,
            ),
            parts.patience(),
            parts.health,
            parts.metrics,
            RecentVectors(embed.recent_vectors_bytes),
            siblings=self._siblings(),
            pace=self.pace,
            enough=enough,
        )

    def _siblings(self) -> Sequence[StoredCollection]:
        """Collections of the same model: a change of chunking alone finds most of its vectors there."""
        if not self.building:
            return []
        parts, found = self._parts, []
        for name in parts.store.names(parts.names.root):
            if name == parts.names.collection(self.spec.id):
                continue
            try:
                other = parts.store.open(name)
            except (CollectionMissing, Fatal):
                continue
            if other.spec.model_fingerprint == self.spec.model.fingerprint:
                found.append(other)
        return found

    def _limits(self) -> WorkerLimits:
        config, work = self._parts.config, self._parts.config.work
        return WorkerLimits(
            in_flight_records=work.in_flight_records,
            in_flight_bytes=work.in_flight_bytes,
            commit_seconds=work.commit_seconds,
            drain_seconds=_BUILDING_DRAIN_SECONDS if self.building else work.drain_seconds,
            poll_budget_seconds=min(config.kafka.max_poll_interval_seconds, BEAT_LIMIT_SECONDS)
            if config.broker == "kafka"
            else BEAT_LIMIT_SECONDS,
        )
