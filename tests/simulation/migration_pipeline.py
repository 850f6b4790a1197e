"""One pipeline in virtual time: broker, store, and the processes that work with them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import pipeline_topics
from pipeline.chunking.documents import Chunk, chunked
from pipeline.cli import clearing, gating, job, lines
from pipeline.cli.assembly import Followed, Models, Parts, log_identity
from pipeline.cli.migrations import Migrations
from pipeline.embedding.generation import generation_spec
from pipeline.errors import Fatal, Transient, VectideError, as_error, exit_code
from pipeline.generations import gate
from pipeline.identity import DocumentKey
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.records import STAGES, Stage
from pipeline.specs import GenerationSpec
from pipeline.store.memory import MemoryStore
from pipeline.sync import repair, synchronise
from tests.simulation.migration_changes import Change, changed
from tests.simulation.migration_commands import Desk
from tests.simulation.migration_corpus import (
    CONFIG,
    EPOCH,
    NAMES,
    PROPOSALS,
    Corpus,
    differences,
    embedder_of,
    spans_of,
    vector_of,
)
from tests.simulation.migration_history import FOLLOWED, REMOVABLE, Command, History
from tests.simulation.migration_ports import Fate, Requests, SteppedBroker, SteppedStore
from tests.simulation.migration_searchers import Searcher
from tests.simulation.migration_time import EPOCH as CLOCK_START
from tests.simulation.migration_time import Actor, Event, Process, Timeline
from tests.simulation.migration_workers import Habits, Injected, line_with, work

#: Metrics are made once: that takes longer than many requests together.
_METRICS: Final = Metrics()
#: Between a crash of a member and its group's notice, in turns.
SESSION_STEPS: Final = 60
#: How often workers look for what is left of generations that are over: the product takes longer.
LEFT_SECONDS: Final = 1.0


class Pipeline:
    """Everything that a schedule or a scenario works with.

    Args:
        random_: every choice comes from it.
        step_seconds: what passes with each turn.
        documents: how many there are.
        together: one process does everything.
    """

    def __init__(
        self, random_: random.Random, step_seconds: float, documents: int, habits: Habits, *, together: bool
    ) -> None:
        self.random = random_
        self.habits = habits
        self.together = together
        self.timeline = Timeline(random_, step_seconds)
        self.broker = EmbeddedBroker(None, self._now)
        self.store = MemoryStore()
        self.broker.ensure_topics(pipeline_topics(NAMES, CONFIG.pipeline))
        self.history = History(self.broker, self.timeline, self.behind)
        self.corpus = Corpus(self.broker, random_, documents, self._now)
        self.fate: Callable[[bool], Fate] = lambda reads: "answered"
        self.whim = 0.0
        """The chance that a gate finds the answers worse."""
        self.requests = Requests(self.timeline, self._fate)
        self.models = Models(CONFIG, [embedder_of(spec.model) for spec in _SPECS])
        self.base = _SPECS[-1]
        self.log = log_identity(self._parts())
        self.desks: list[Desk] = []
        self.searchers: list[Searcher] = []
        self.server: tuple[Process, Migrations] | None = None
        """Of a pipeline that is one process."""
        self.dead: list[tuple[int, Process]] = []
        """Processes whose groups have not noticed that they are gone, and when they will."""
        self._count = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the product's modules live in this pipeline's time."""
        changes = (
            Change(lines, "Line", lambda product: line_with(self.timeline, self.habits)),
            Change(gate, "verify", lambda product: partial(product, wait=self.timeline.sleep)),
            Change(gating.Gating, "_chunker", lambda product: _chunker),
            Change(gate, "examine", self._noting),
            Change(gating, "unlabelled", self._whimsical),
            Change(clearing, "_LEFT_SECONDS", lambda product: LEFT_SECONDS),
            Change(job, "until_stopped", lambda product: self._never_stopped),
        )
        try:
            with changed(*changes), self.timeline.installed():
                yield
        finally:
            self.timeline.kill_all()
            self.broker.close()

    # --------------------------------------------------------------------------- processes

    def process(self, name: str, skew: float = 0.0) -> Process:
        """A new process."""
        self._count += 1
        return Process(f"{name}{self._count}", skew)

    def start(self, process: Process, name: str, run: Callable[[], object], command: Command | None = None) -> Actor:
        """One of its threads."""
        actor = self.timeline.start(process, name, run)
        if command is not None:
            actor.command = command
        return actor

    def crash(self, process: Process) -> None:
        """It is gone; its groups notice later."""
        self.timeline.kill(process)
        self.dead.append((self.timeline.steps + (0 if self.together else SESSION_STEPS), process))
        if self.server is not None and self.server[0] is process:
            self.server = None

    def notice(self) -> None:
        """Groups go on without members whose time is up."""
        for at, process in list(self.dead):
            if at <= self.timeline.steps:
                self.dead.remove((at, process))
                self.evict(process)

    def evict(self, process: Process) -> None:
        """Groups go on without a process."""
        for consumer in process.consumers:
            consumer.evict()

    def worker(self, stages: Collection[Stage] = STAGES) -> Process:
        """A process that works; where everything is together it also answers."""
        process = self.process("up" if self.together else "worker")
        parts = self._parts()
        stop, control = Event(self.timeline), Followed(parts)
        run = partial(work, parts, control, self.models, stages, stop, self.base, self.log, self._clock(process))
        self.start(process, "lines", lambda: self._worked(process, run), Command("worker", "work"))
        if self.together:
            self.server = process, Migrations(parts, control, self.models)
            self._searching(process, parts, control, stop)
        return process

    def searcher(self) -> Process:
        """A process that answers searches."""
        process, parts = self.process("serve"), self._parts()
        self._searching(process, parts, Followed(parts), Event(self.timeline))
        return process

    def desk(self) -> Desk:
        """Where one command is asked for."""
        if self.together:
            ask = self._served
        else:
            parts = self._parts()
            ask = Migrations(parts, Followed(parts), self.models).ask
        made = Desk(self.timeline, self.history, self.corpus, ask)
        self.desks.append(made)
        return made

    # --------------------------------------------------------------------------- what is so

    def behind(self, generation: str, versions: Mapping[DocumentKey, int]) -> list[str]:
        """Documents that a generation has not at these versions."""
        name = NAMES.collection(generation)
        heads = self.store.open(name)._heads if name in self.store.names(name) else {}
        return [
            key.path for key, version in versions.items() if key.doc not in heads or heads[key.doc].version < version
        ]

    def lag(self) -> int:
        """Records that some followed generation has not committed."""
        return sum(self._behind(id) for id, state in self.history.states.items() if state in FOLLOWED)

    def _behind(self, id: str) -> int:
        chunk = sum(self.broker.lag(NAMES.group("chunk", id), NAMES.documents(EPOCH)).values())
        topic = NAMES.chunks(id)
        if topic not in self.broker.topics(topic):
            return chunk
        return chunk + sum(self.broker.lag(NAMES.group("embed", id), topic).values())

    def follow(self, generation: str) -> None:
        """What the workers of one generation do with all of the log, without them."""
        spec = self.spec(generation)
        documents = [
            chunked(events[-1][1], events[-1][0], generation, lambda text, kind: spans_of(spec.chunking, text, kind))
            for events in self.corpus.events.values()
        ]
        synchronise(
            self.store.open(NAMES.collection(generation)),
            documents,
            lambda items: ({one.content_hash: vector_of(spec.model, one.text, query=False) for one in items}, {}),
            donor_seconds=0.0,
        )
        for stage, topic in (("chunk", NAMES.documents(EPOCH)), ("embed", NAMES.chunks(generation))):
            group = NAMES.group("chunk" if stage == "chunk" else "embed", generation)
            ends = {(topic, partition): one.end for partition, one in self.broker.offsets(topic).items()}
            self.broker.log.commit(group, ends)

    def spec(self, generation: str) -> GenerationSpec:
        """What a generation is made of."""
        return GenerationSpec.model_validate(self.history.specs[generation])

    def left(self, generation: str) -> list[str]:
        """What there is of a generation: collection, topic, offsets."""
        collection, topic = NAMES.collection(generation), NAMES.chunks(generation)
        found = [f"collection {name}" for name in self.store.names(collection) if name == collection]
        found += [f"topic {name}" for name in self.broker.topics(topic) if name == topic]
        for stage, read in (("chunk", NAMES.documents(EPOCH)), ("embed", topic)):
            group = NAMES.group("chunk" if stage == "chunk" else "embed", generation)
            found += [f"group {group}"] if self.broker.committed(group, read) else []
        return found

    def check_generations(self) -> None:
        """Every followed generation equals the log.

        Raises:
            Violated: one differs.
        """
        for id, state in self.history.states.items():
            if state in FOLLOWED:
                collection = self.store.open(NAMES.collection(id))
                repair(collection, [key.doc for key in self.corpus.keys])
                found = differences(self.corpus, self.spec(id), collection)
                self.history.require(not found, f"{state} generation {id} is not the log: {'; '.join(found[:3])}")

    def check_removals(self) -> None:
        """Nothing is left of a generation whose removal was carried out.

        Raises:
            Violated: something is.
        """
        cleared = {id for desk in self.desks for id in desk.cleared}
        for id, state in self.history.states.items():
            if id in cleared and state in REMOVABLE:
                self.history.require(not self.left(id), f"of {state} generation {id} is left: {self.left(id)}")

    # ----------------------------------------------------------------------------- private

    def _now(self) -> float:
        return CLOCK_START + self.timeline.now

    def _fate(self, reads: bool) -> Fate:
        return self.fate(reads)

    def _parts(self) -> Parts:
        broker = SteppedBroker(
            self.broker,
            self.requests,
            self.history.look,
            self.history.removed,
            waits_for_members=not self.together,
        )
        store = SteppedStore(self.store, self.requests, self.history.removed)
        return Parts(CONFIG, NAMES, broker, store, Health(), _METRICS)  # type: ignore[arg-type]

    def _clock(self, process: Process) -> Callable[[], float]:
        return lambda: self._now() + process.skew

    def _worked(self, process: Process, run: Callable[[], None]) -> None:
        try:
            run()
        except Injected:
            process.frozen_until = 0
            self.timeline.note("ends", "injected")
        except Exception as error:
            self.history.require(False, f"a worker ended with {type(error).__name__}: {error}")
        process.dead = True

    def _searching(self, process: Process, parts: Parts, control: Followed, stop: Event) -> None:
        searcher = Searcher(parts, control, self.models, self.timeline, self.history, self.corpus, self.store)
        self.searchers.append(searcher)

        def begin() -> None:
            while True:
                try:
                    searcher.warm()
                    break
                except (Transient, Fatal):
                    stop.wait(0.1)  # nothing was founded yet
            self.start(process, "follow", lambda: searcher.follow(stop))
            self.start(process, "search", lambda: searcher.run(stop))
            searcher.run(stop)

        self.start(process, "search", begin).reliable = True

    def _served(self, arguments: Mapping[str, Any]) -> Any:
        """Over HTTP: as :mod:`pipeline.observe.http` and :mod:`pipeline.cli.access` translate errors."""
        if self.server is None:
            raise Transient("nobody answers")
        process, migrations = self.server
        answers: list[Any] = []
        errors: list[Exception] = []

        def serve() -> None:
            try:
                answers.append(migrations.ask(arguments))
            except Exception as error:
                errors.append(error)

        request = self.timeline.start(process, f"asked by {self.timeline.current.name}", serve)  # type: ignore[union-attr]
        self.timeline.until(lambda: request.dead)
        if answers:
            return answers[0]
        error = errors[0] if errors else Transient("nobody answers any more")
        raise as_error(exit_code(error), str(error)) if isinstance(error, VectideError) else error

    def _noting(self, examine: Callable[..., Any]) -> Callable[..., Any]:
        def noted(broker: Any, names: Any, epoch: int, target: GenerationSpec, examined: int, *more: Any) -> Any:
            actor = self.timeline.current
            assert actor is not None
            actor.command.examined[target.id] = examined
            actor.command.proven[target.id] = self.corpus.versions()
            return examine(broker, names, epoch, target, examined, *more)

        return noted

    def _whimsical(self, unlabelled: Callable[..., Any]) -> Callable[..., Any]:
        def compared(*arguments: Any) -> Any:
            found = unlabelled(*arguments)
            return replace(found, why="a whim") if self.random.random() < self.whim else found

        return compared

    @contextmanager
    def _never_stopped(self) -> Iterator[Event]:
        yield Event(self.timeline)


def _specs() -> list[GenerationSpec]:
    found = []
    for proposal in PROPOSALS:
        sections = {
            section: getattr(CONFIG, section).model_copy(update=proposal.get(f"{section}_settings", {}))
            for section in ("model", "chunking")
        }
        found.append(generation_spec(CONFIG.model_copy(update=sections)))
    return found


#: What is proposed, the last of them in the beginning.
_SPECS = _specs()


def _chunker(self: gating.Gating, spec: GenerationSpec) -> Chunk:
    return lambda text, media_type: spans_of(spec.chunking, text, media_type)
