"""Lines: the stages of each generation that this process follows, started and ended as ``control`` says.

What can fail: a line of a generation that is being built meets something fatal (the generation is
failed, with the reason, and live goes on); its model is not on this machine, or the line of a ready or
previous one fails (it waits, says so and is tried again); the live one's line meets something fatal
(the process stops with it).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Final

from pipeline.broker.topics import chunks_topic
from pipeline.cli import clearing
from pipeline.cli.assembly import Followed, Models, Parts, collection_of
from pipeline.cli.crew import Crew
from pipeline.deadline import Deadline
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker
from pipeline.embedding.models import located, tokenizer_of
from pipeline.embedding.paced import PacedEmbedder
from pipeline.embedding.recent import RecentVectors
from pipeline.errors import (
    Backpressure,
    CollectionMissing,
    ConfigError,
    Fatal,
    FingerprintMismatch,
    NotAllowed,
    Transient,
)
from pipeline.generations import operator, transitions
from pipeline.generations.control import FOLLOWED, UNDER_WAY, ControlState, Generation
from pipeline.generations.gauges import GenerationGauges
from pipeline.observe.health import BEAT_LIMIT_SECONDS
from pipeline.ports import Collection as StoredCollection
from pipeline.ports import Publisher
from pipeline.records import STAGES, Stage
from pipeline.specs import GenerationSpec
from pipeline.stages.chunk import ChunkStage
from pipeline.stages.embed import EmbedLimits, EmbedStage
from pipeline.stages.lag import LagSampler
from pipeline.stages.pace import LiveTraffic, Pace
from pipeline.stages.worker import Worker, WorkerLimits

log = logging.getLogger(__name__)

#: What a person can mend on this machine alone: another may have the weights.
_PUT_THERE: Final = (ConfigError, FingerprintMismatch)

_LOOK_SECONDS: Final = 0.25
_SAMPLE_SECONDS: Final = 0.5
_ALIAS_SECONDS: Final = 5.0
_LEFT_SECONDS: Final = 15.0
#: A model that is missing may be put there by a person, or by a volume that is still filled.
_RETRY_SECONDS: Final = 15.0
#: A generation that is built has nobody waiting for its last batches: they are done again.
_BUILDING_DRAIN_SECONDS: Final = 2.0
#: Beyond the drain: the last commit and leaving the group.
_END_SECONDS: Final = 15.0
#: Who holds this partition of a generation's chunks topic counts what a migration has built.
_COUNTED: Final = 0
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
        ended = self.crew.end(Deadline.after(drain + _END_SECONDS))
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


class Lines:
    """The lines of this process; run it in a thread.

    Args:
        parts: broker and store, open.
        control: what ``control`` says.
        models: loaded models.
        stages: which stages run here.
        only: one generation; None for all that are followed.
        on_state: told what ``control`` says, at every look.
        proposed: fingerprint of what the configuration proposes; None if that cannot be known here.
    """

    def __init__(
        self,
        parts: Parts,
        control: Followed,
        models: Models,
        stages: Collection[Stage],
        only: str | None = None,
        on_state: Callable[[ControlState], None] = lambda state: None,
        proposed: str | None = None,
    ) -> None:
        self._parts = parts
        self._control = control
        self._models = models
        self._stages = stages
        self._only = only
        self._on_state = on_state
        self._gauges = GenerationGauges(parts.metrics, proposed)
        # A delete stays uncommitted for its grace, a flush gathers, and commits come twice a second.
        embed, work = parts.config.embed, parts.config.work
        self._traffic = LiveTraffic(embed.delete_grace_seconds + embed.flush_seconds + 2 * work.commit_seconds)
        self._lines: dict[str, Line] = {}
        self._later: dict[str, float] = {}
        """When to try again to start a line that could not be."""
        self._loading: dict[str, _Loading] = {}
        self._ending: list[threading.Thread] = []
        self._next_sample = 0.0
        self._next_alias = 0.0
        self._next_left = 0.0
        self._may_remove = True
        self._over: frozenset[str] = frozenset()
        self._clean: set[str] = set()

    def start_live(self, state: ControlState) -> Line | None:
        """Start the live generation's line now, and raise what is wrong with it; None if it is not
        to run here.

        Raises:
            Fatal: its model or its collection is not what it must be.
            Transient: broker or store does not answer.
        """
        live = state.live
        if live is None or (self._only is not None and live.id != self._only):
            return None
        try:
            return self._begin(live)
        except Fatal:
            # Retired since that look at control: its collection is gone, and nothing is wrong with it.
            if self._still(live) is not None:
                raise
            return None

    @property
    def busy(self) -> bool:
        """Some line has records in work; from any thread."""
        return any(line.busy for line in list(self._lines.values()))

    def holds(self, id: str, partition: int) -> bool:
        """This process embeds that partition of a generation; from any thread."""
        line = self._lines.get(id)
        worker = None if line is None else line.workers.get("embed")
        return worker is not None and partition in worker.moving

    def run(self, stop: threading.Event) -> None:
        """Follow ``control`` until ``stop`` is set; then end all lines.

        Raises:
            Exception: what the live generation's line failed with.
        """
        threading.Thread(target=self._stop_with, args=(stop,), name="stop lines", daemon=True).start()
        try:
            while not stop.is_set():
                try:
                    self._turn()
                except (Transient, Backpressure) as error:
                    log.debug("generations not looked at", extra={"error": str(error)})
                stop.wait(_LOOK_SECONDS)
        finally:
            for line in self._lines.values():
                line.crew.stop.set()  # all at once: each has its own drain budget
            for line in self._lines.values():
                line.end()
            for thread in self._ending:
                thread.join(_END_SECONDS)

    def _stop_with(self, stop: threading.Event) -> None:
        """At once: a turn can wait for a Kafka that hangs, and its workers have a budget of their own."""
        stop.wait()
        for line in list(self._lines.values()):
            line.crew.stop.set()

    def _turn(self) -> None:
        state = self._control()
        followed = {one.id: one for one in state.followed if self._only is None or one.id == self._only}
        for id in [id for id in self._lines if id not in followed]:
            self._end(id)
        for id in [id for id in self._later if id not in followed]:
            self._given_up(id)
        for id, generation in followed.items():
            line = self._lines.get(id)
            if line is None:
                self._try(generation)
            else:
                line.follow(generation)
                self._look(generation, line)
        live = self._lines.get(state.live.id) if state.live is not None else None
        busy = None if live is None else lambda: live.busy
        self._traffic.serve(busy, whole=live is not None and len(live.workers) == len(STAGES))
        self._point_alias(live)
        self._remove_left(state)
        self._sample(state)
        self._describe(state)
        for line in self._lines.values():
            line.tick()
        self._on_state(state)

    def _try(self, generation: Generation) -> None:
        """Start a line if all is there that it needs; its model is loaded apart, for that takes seconds."""
        if time.monotonic() < self._later.get(generation.id, 0.0):
            return
        try:
            if "embed" in self._stages and not self._loaded(generation):
                return
            # Loading took its time: what was aborted meanwhile must not be made again.
            now = self._still(generation)
            if now is not None:
                self._begin(now)
        except Exception as error:
            still = self._still(generation)
            if still is None:
                return
            if still.state == "live" and isinstance(error, Fatal):
                raise
            if generation.state in UNDER_WAY and isinstance(error, Fatal) and not isinstance(error, _PUT_THERE):
                self._fail(generation, error)
                return
            self._wait_with(generation, error)

    def _still(self, generation: Generation) -> Generation | None:
        """It as it is now; None if it is over: its collection may go before the news of it come."""
        now = self._control.again().generations.get(generation.id)
        return now if now is not None and now.state in FOLLOWED else None

    def _loaded(self, generation: Generation) -> bool:
        """True once the generation's model is loaded.

        Raises:
            Exception: what loading it failed with.
        """
        loading = self._loading.get(generation.id)
        if loading is None:
            loading = self._loading[generation.id] = _Loading(lambda: self._models.of(generation.spec))
        if not loading.done:
            return False
        del self._loading[generation.id]
        loading.raise_failure()
        return True

    def _wait_with(self, generation: Generation, error: Exception) -> None:
        """Not now: its weights are not on this machine, or something does not answer."""
        if generation.id not in self._later:
            log.warning("generation not followed yet", extra={"generation": generation.id, "error": str(error)})
        self._later[generation.id] = time.monotonic() + _RETRY_SECONDS
        self._parts.health.set_ready(f"generation.{generation.id}", False, str(error))

    def _begin(self, generation: Generation) -> Line:
        line = Line(self._parts, generation, self._stages, self._models, self._traffic)
        line.start()
        self._lines[generation.id] = line
        self._given_up(generation.id)
        log.info("generation followed", extra={"generation": generation.id, "state": generation.state})
        return line

    def _given_up(self, id: str) -> None:
        self._loading.pop(id, None)
        if self._later.pop(id, None) is not None:
            self._parts.health.set_ready(f"generation.{id}", True, "")

    def _look(self, generation: Generation, line: Line) -> None:
        """Has its line failed? Only the live one takes the process with it."""
        try:
            line.crew.raise_failure()
        except Exception as error:
            now = self._still(generation)
            if now is None:
                return
            passing = isinstance(error, Transient | Backpressure)
            if now.state == "live" and not passing:
                raise
            if now.state in UNDER_WAY and isinstance(error, Fatal):
                self._fail(now, error)
                return
            self._end(now.id)
            self._wait_with(now, error)

    def _fail(self, generation: Generation, error: Fatal) -> None:
        log.error("generation failed", extra={"generation": generation.id, "error": str(error)})
        try:
            operator.operate(
                self._parts.broker,
                self._parts.names,
                lambda state: transitions.fail(state, generation.id, time.time(), str(error)),
            )
        except NotAllowed:
            # A worker need not have the right to decide; an operator sees why it is not ready.
            self._wait_with(generation, error)
        if generation.id in self._lines:
            self._end(generation.id)

    def _end(self, id: str) -> None:
        line = self._lines.pop(id)
        log.info("generation left", extra={"generation": id})
        thread = threading.Thread(target=line.end, name=f"end {id}", daemon=True)
        self._ending = [one for one in self._ending if one.is_alive()]
        self._ending.append(thread)
        thread.start()

    def _sample(self, state: ControlState) -> None:
        """How far behind the live generation is, while another is being built here."""
        if time.monotonic() < self._next_sample or not any(line.building for line in self._lines.values()):
            return
        self._next_sample = time.monotonic() + _SAMPLE_SECONDS
        if self._traffic.here:
            self._traffic.behind_seconds  # noqa: B018 - a look; who is never seen idle is behind
        elif state.live is not None:
            with contextlib.suppress(Fatal):  # no longer live, and its topic removed
                self._traffic.sampled(*_places(self._parts, state.live.spec))

    def _point_alias(self, live: Line | None) -> None:
        """For those who read the store directly; and what was forced past the gate is indexed."""
        if live is None or live.collection is None or time.monotonic() < self._next_alias:
            return
        self._next_alias = time.monotonic() + _ALIAS_SECONDS
        store, alias, collection = self._parts.store, self._parts.names.alias, live.collection.spec.name
        with contextlib.suppress(CollectionMissing):  # no longer live, and removed
            if store.alias(alias) != collection:
                store.point_alias(alias, collection)
            store.build_index(collection)

    def _remove_left(self, state: ControlState) -> None:
        """A line that began late may have made again what a clean-up had removed; nobody else would. Only
        where the store is worked with anyway: a chunk worker needs no key for it.
        """
        if "embed" not in self._stages or not self._may_remove:
            return
        over = [one for one in state.generations.values() if one.state in ("aborted", "retired")]
        now, known = time.monotonic(), self._over
        self._over = frozenset(one.id for one in over)
        if self._over != known:
            self._next_left = now + _LEFT_SECONDS  # who gave it up removes it, and says how much it was
        if not over or now < self._next_left:
            return
        self._next_left = now + _LEFT_SECONDS
        parts, names = self._parts, self._parts.names
        there = {*parts.store.names(names.root), *parts.broker.topics(names.root)}
        for one in over:
            own = {names.collection(one.id), names.chunks(one.id)}
            if one.id in self._lines or (one.id in self._clean and not there & own):
                continue
            try:
                if clearing.remains(parts, one.id, there):
                    clearing.clear(parts, one.id, Deadline.after(0.0))  # refused while somebody is in its groups
                else:
                    self._clean.add(one.id)  # its groups are not asked for again
            except NotAllowed as error:
                log.info("what is left of old generations is for an operator to remove", extra={"error": str(error)})
                self._may_remove = False
                return

    def _describe(self, state: ControlState) -> None:
        self._gauges.show(state)
        target, store, names = state.target, self._parts.store, self._parts.names
        counts = target is not None and self.holds(target.id, _COUNTED)
        self._gauges.count(state, (lambda id: store.open(names.collection(id)).count_heads()) if counts else None)


class _Loading:
    """A model being loaded in a thread of its own."""

    def __init__(self, load: Callable[[], object]) -> None:
        self._load = load
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._load()
        except Exception as error:  # raised again by who asks
            self._failure = error


def live_lag(parts: Parts, spec: GenerationSpec) -> int:
    """Records of the log that a generation has not committed, wherever its workers run."""
    broker, names = parts.broker, parts.names
    chunk = broker.lag(names.group("chunk", spec.id), names.documents(parts.config.pipeline.epoch))
    embed = broker.lag(names.group("embed", spec.id), names.chunks(spec.id))
    return sum(chunk.values()) + sum(embed.values())


def _places(parts: Parts, spec: GenerationSpec) -> tuple[dict[Hashable, int], dict[Hashable, int]]:
    """Where a generation's topics end, and what its groups have committed, by stage and partition."""
    broker, names = parts.broker, parts.names
    ends: dict[Hashable, int] = {}
    committed: dict[Hashable, int] = {}
    topics: tuple[tuple[Stage, str], ...] = (
        ("chunk", names.documents(parts.config.pipeline.epoch)),
        ("embed", names.chunks(spec.id)),
    )
    for stage, topic in topics:
        ends |= {(stage, partition): one.end for partition, one in broker.offsets(topic).items()}
        done = broker.committed(names.group(stage, spec.id), topic)
        committed |= {(stage, partition): offset for partition, offset in done.items()}
    return ends, committed
