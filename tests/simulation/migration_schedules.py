"""One seeded schedule of migrations, from the first generation to the quiet at its end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import pipeline_topics
from pipeline.cli import job, lines
from pipeline.cli.assembly import Followed, Models, Parts, log_identity
from pipeline.cli.migrations import Migrations
from pipeline.embedding.generation import generation_spec
from pipeline.errors import ConfigError, Fatal, Refused, Transient, VectideError
from pipeline.generations import gate
from pipeline.identity import DocumentKey
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.specs import GenerationSpec
from pipeline.store.memory import MemoryStore
from pipeline.sync import repair
from tests.simulation.migration_commands import Desk, Operator, SimulatedJob
from tests.simulation.migration_corpus import (
    CONFIG,
    EPOCH,
    NAMES,
    PROPOSALS,
    Corpus,
    differences,
    embedder_of,
)
from tests.simulation.migration_history import FOLLOWED, REMOVABLE, Command, History, Violated
from tests.simulation.migration_ports import Fate, Requests, SteppedBroker, SteppedStore
from tests.simulation.migration_searchers import Searcher
from tests.simulation.migration_time import EPOCH as CLOCK_START
from tests.simulation.migration_time import Actor, Event, Process, Timeline
from tests.simulation.migration_workers import Habits, Injected, line_with, work

#: Metrics are made once: that takes longer than most of a schedule's requests together.
_METRICS = Metrics()
#: A schedule that takes more turns than this to come to rest never will.
_MOST_STEPS_TO_REST = 20_000
#: Between a crash of a member and its group's notice, in turns.
_SESSION_STEPS = 60


@dataclass(frozen=True)
class Profile:
    """What happens in a schedule. A chance is per turn and between 0 and 1."""

    name: str
    steps: int = 2_500
    documents: int = 4
    operators: int = 2
    jobs: int = 0
    workers: int = 2
    together: bool = False
    """One process does everything, as ``vectide up`` does; commands are asked of it."""
    crash: float = 0.002
    freeze: float = 0.004
    starts: float = 8.0
    """Weight of starting a migration where none is under way; a job does that as well."""
    fault: float = 0.01
    """Per request: that it is lost, or that its answer is."""
    fatal: float = 0.01
    """Per batch of a generation that is being built: that it fails for good."""


OPERATORS = Profile("operators")
JOBS = Profile("jobs", operators=1, jobs=1, workers=1, crash=0.001, freeze=0.004, fault=0.003, starts=0.2)
TOGETHER = Profile("together", operators=2, jobs=1, workers=1, together=True)
PROFILES = {one.name: one for one in (OPERATORS, JOBS, TOGETHER)}


@dataclass
class Result:
    """How a schedule ended."""

    profile: str
    seed: int
    failure: str
    """Empty: nothing was violated."""
    trace: list[str]
    steps: int
    found: Mapping[str, int] = field(default_factory=dict)
    """What happened how often."""

    def told(self) -> str:
        """The failure for a person, with how to see it alone."""
        lines = "\n".join(self.trace)
        return (
            f"{self.failure}\nagain: .venv/bin/python -m tests.simulation.migration --profile {self.profile} "
            f"--seed {self.seed}\n{lines}"
        )


class Pipeline:
    """One pipeline in virtual time: its broker and store, and processes that work with them.

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
        self.broker = EmbeddedBroker(None)
        self.store = MemoryStore()
        self.broker.ensure_topics(pipeline_topics(NAMES, CONFIG.pipeline))
        self.history = History(self.broker, self.timeline, self.behind)
        self.corpus = Corpus(self.broker, random_, documents)
        self.requests = Requests(self.timeline, lambda reads: self.fate(reads))
        self.fate: Callable[[bool], Fate] = lambda reads: "answered"
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
        kept = lines.Line, gate.compare, gate.examine, job.until_stopped
        lines.Line = line_with(self.timeline, self.habits)  # type: ignore[misc]
        gate.compare = partial(gate.compare, wait=self.timeline.sleep)
        gate.examine = self._noting(gate.examine)
        job.until_stopped = self._never_stopped  # type: ignore[assignment]
        try:
            with self.timeline.installed():
                yield
        finally:
            lines.Line, gate.compare, gate.examine, job.until_stopped = kept  # type: ignore[misc]
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
        self.dead.append((self.timeline.steps + (0 if self.together else _SESSION_STEPS), process))
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

    def worker(self) -> Process:
        """A process that works; where everything is together it also answers."""
        process = self.process("up" if self.together else "worker")
        parts = self._parts()
        stop, control = Event(self.timeline), Followed(parts)
        run = partial(
            work, parts, control, self.models, ("chunk", "embed"), stop, self.base, self.log, self._clock(process)
        )
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
        return sum(
            gate.behind(self.broker, NAMES, id, EPOCH) for id, state in self.history.states.items() if state in FOLLOWED
        )

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
        return lambda: CLOCK_START + self.timeline.now + process.skew

    def _worked(self, process: Process, run: Callable[[], None]) -> None:
        try:
            run()
        except Injected:
            process.frozen_until = 0
            self.timeline.note("ends", "injected")
        except Fatal as error:
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
            follower = self.start(process, "follow", lambda: searcher.follow(stop))
            follower.reliable = True
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
        if isinstance(error, ConfigError | Refused) or not isinstance(error, VectideError):
            raise error
        raise Transient(str(error))

    def _noting(self, examine: Callable[..., Any]) -> Callable[..., Any]:
        def noted(broker: Any, names: Any, epoch: int, target: GenerationSpec, examined: int, *more: Any) -> Any:
            actor = self.timeline.current
            assert actor is not None
            actor.command.examined[target.id] = examined
            return examine(broker, names, epoch, target, examined, *more)

        return noted

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


class Schedule:
    """The state of one schedule."""

    def __init__(self, profile: Profile, seed: int) -> None:
        # The name too: two profiles with one seed must not be the same choices twice.
        self.random = random.Random(f"{profile.name}/{seed}")
        self.profile = profile
        habits = Habits(fatal=profile.fatal, donor_seconds=self.random.choice([0.0, 0.5]))
        step_seconds = self.random.choice([0.002, 0.004, 0.008])
        self.pipeline = Pipeline(self.random, step_seconds, profile.documents, habits, together=profile.together)
        self.timeline = self.pipeline.timeline
        self.stickiness = self.random.choice([0.0, 0.3, 0.6, 0.9])
        self.workers: list[Process] = []
        self.people: list[Process | None] = [None] * profile.operators
        self.jobs: list[Process | None] = [None] * profile.jobs
        self.plans: list[tuple[dict[str, Any], str | None, bool]] = [self._plan() for _ in range(profile.jobs)]
        self.writer: Process | None = None
        self.active = True
        self.last: Actor | None = None
        self.seen: dict[str, int] = {}

    def play(self) -> None:
        """Run to the quiet, then compare everything with the log.

        Raises:
            Violated: something was seen that must never be.
        """
        with self.pipeline.running():
            self._begin()
            while self.timeline.steps < self.profile.steps:
                self._surprise()
                self._step()
            self._end()

    # ------------------------------------------------------------------------- the choices

    def _begin(self) -> None:
        for _ in range(self.profile.documents):
            self.pipeline.corpus.change()
        self.workers = [self.pipeline.worker() for _ in range(self.profile.workers)]
        if not self.profile.together:
            self.pipeline.searcher()
        self.writer = self.pipeline.process("writer")
        self.pipeline.start(self.writer, "", self._write)
        self.pipeline.fate = self._fate

    def _step(self) -> None:
        timeline = self.timeline
        awake = timeline.awake()
        if not awake:
            timeline.skip()
            return
        if self.last not in awake or self.random.random() >= self.stickiness:
            self.last = self.random.choice(awake)
        assert self.last is not None
        timeline.step(self.last)
        if self.pipeline.history.violation is not None:
            raise self.pipeline.history.violation

    def _surprise(self) -> None:
        profile, chance, pipeline = self.profile, self.random.random, self.pipeline
        pipeline.notice()
        for process in self.workers:
            if not process.dead and chance() < profile.crash / 2:
                self._count("crash of a worker")
                pipeline.crash(process)
        self._replace_workers()
        if pipeline.history.live is None:
            return
        for place, process in enumerate(self.people):
            if process is None or process.dead:
                self.people[place] = self._person()
            elif chance() < profile.crash:
                self._count("crash of an operator")
                pipeline.crash(process)
        for place, process in enumerate(self.jobs):
            if process is None or process.dead:
                self.jobs[place] = self._job(place)
            elif chance() < profile.crash:
                self._count("crash of a job")
                pipeline.crash(process)
        if chance() < profile.freeze:
            alive = [one for one in (*self.people, *self.jobs, *self.workers) if one is not None and not one.dead]
            process = self.random.choice(alive)
            if not (profile.together and process in self.workers):
                steps = self.random.choice([20, 100, 300, 800])
                self._count("freeze")
                self.timeline.freeze(process, steps)
                if steps > _SESSION_STEPS and process in self.workers:
                    pipeline.evict(process)
        if chance() < 0.001:
            pipeline.broker.log.maintain(least_dirty=0)

    def _replace_workers(self) -> None:
        for place, process in enumerate(self.workers):
            if process.dead:
                if process not in (other for _, other in self.pipeline.dead):
                    self.pipeline.crash(process)  # ended by itself
                self.workers[place] = self.pipeline.worker()

    def _fate(self, reads: bool) -> Fate:
        if not self.active or self.random.random() >= self.profile.fault:
            return "answered"
        return "lost" if reads else self.random.choice(["lost", "unanswered"])

    def _write(self) -> None:
        while self.active:
            self.timeline.sleep(self.random.expovariate(1.5))
            if self.active:
                self.timeline.note("LOG", self.pipeline.corpus.change())

    def _person(self) -> Process:
        operator = Operator(self.random, self.pipeline.history, self.profile.starts)
        process = self.pipeline.process("operator", self.skew())

        def run() -> None:
            while self.active:
                said, do, seconds = operator.next()
                self.timeline.sleep(seconds)
                if not self.active:
                    return
                self._command(process, Command("operator", said), lambda desk: do(desk.ask))

        self.pipeline.start(process, "", run)
        return process

    def skew(self) -> float:
        """How wrong a person's clock is."""
        return self.random.choice([0.0, 0.0, -300.0, 300.0])

    def _plan(self) -> tuple[dict[str, Any], str | None, bool]:
        force = "a job says so" if self.random.random() < 0.2 else None
        return self.random.choice(PROPOSALS), force, self.random.random() < 0.8

    def _job(self, place: int) -> Process:
        process = self.pipeline.process("job", self.skew())

        def run() -> None:
            while self.active:
                self.timeline.sleep(self.random.expovariate(1.0))
                if not self.active:
                    return
                proposal, force, automatic = self.plans[place]
                self._command(
                    process,
                    Command("job", f"migrate to {proposal}"),
                    lambda desk: SimulatedJob(desk, proposal, force, automatic=automatic).run(),
                )
                # Whoever runs jobs starts the same one again for a while, whatever became of it.
                if self.random.random() < 0.3:
                    self.plans[place] = self._plan()

        self.pipeline.start(process, "", run)
        return process

    def _command(self, process: Process, command: Command, do: Callable[[Desk], Any]) -> str:
        actor = self.timeline.current
        assert actor is not None
        actor.command = command
        self.timeline.note("BEGINS", command.said)
        try:
            do(self.pipeline.desk())
            outcome = "done"
        except (Transient, Refused) as error:
            outcome = type(error).__name__
        except Exception as error:
            self.pipeline.history.require(False, f"{command.said} ended with {type(error).__name__}: {error}")
            raise
        self._count(f"{command.who} {command.said.split(' to ')[0]}: {outcome}")
        return outcome

    # --------------------------------------------------------------------------- the quiet

    def _end(self) -> None:
        """What is under way comes to its end, everything is started anew and follows the log to its end."""
        self.active = False
        self.pipeline.habits.fatal = 0.0
        for process in (*self.people, *self.jobs):
            if process is not None:
                process.frozen_until = 0
        for process in self.jobs:
            if process is not None and not process.dead:
                self.pipeline.crash(process)
        people = [one for one in self.people if one is not None and not one.dead]
        self._until(lambda: not any(one.process in people for one in self.timeline.actors), "commands end")
        for process in self.workers:
            if not process.dead:
                self.pipeline.crash(process)
        for _, process in self.pipeline.dead:
            self.pipeline.evict(process)
        self.pipeline.dead = []
        self.workers = [self.pipeline.worker()]
        self._by_a_person({"action": "resume"})
        self._until(lambda: self.pipeline.lag() == 0, "the log is followed to its end")
        self._until(lambda: False, "", 300)
        self.pipeline.check_generations()
        self.pipeline.check_removals()
        for id, state in sorted(self.pipeline.history.states.items()):
            if state in ("aborted", "retired", "failed"):
                self._by_a_person({"action": "abort" if state == "aborted" else "retire", "generation": id})
        self.pipeline.check_removals()
        for id, state in self.pipeline.history.states.items():
            if state not in FOLLOWED:
                self.pipeline.history.require(not self.pipeline.left(id), f"of {id} is left: {self.pipeline.left(id)}")
        for entry in self.pipeline.history.entries:
            self._count(f"{entry.before} -> {entry.after}")
        for name in ("answers", "quiet", "switches"):
            self.seen[name] = sum(getattr(one, name) for one in self.pipeline.searchers)

    def _by_a_person(self, arguments: dict[str, Any]) -> None:
        process = self.pipeline.process("operator")

        def ask() -> None:
            try:
                self.pipeline.desk().ask("POST", "/migrate", arguments)
            except Refused as refused:
                self.timeline.note("refused", refused)

        actor = self.pipeline.start(process, "", ask, Command("operator", "at the end"))
        self._until(lambda: actor.dead, f"{arguments['action']} at the end")

    def _until(self, true: Callable[[], bool], what: str, most: int = _MOST_STEPS_TO_REST) -> None:
        end = self.timeline.steps + most
        while not true():
            self._replace_workers()
            self.pipeline.notice()
            self._step()
            if self.timeline.steps >= end:
                if what:
                    raise Violated(f"in {most} turns it never came to this: {what}")
                return

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1


def run(profile: Profile, seed: int) -> Result:
    """Run a schedule; every choice in it comes from the seed."""
    schedule = Schedule(profile, seed)
    failure = ""
    try:
        schedule.play()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        if not isinstance(error, Violated):
            import traceback

            traceback.print_exc()
    trace = schedule.timeline.lines() if failure else []
    return Result(profile.name, seed, failure, trace, schedule.timeline.steps, schedule.seen)


def first_failure(profile: Profile, seeds: range) -> Result | None:
    """The first of the seeds whose schedule violates something."""
    for seed in seeds:
        result = run(profile, seed)
        if result.failure:
            return result
    return None
