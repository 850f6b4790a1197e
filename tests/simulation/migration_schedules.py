"""One seeded schedule of migrations, from the first generation to the quiet at its end."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.errors import Refused, Transient
from pipeline.records import STAGES, Stage
from tests.simulation.migration_commands import Desk, Operator, SimulatedJob
from tests.simulation.migration_corpus import PROPOSALS
from tests.simulation.migration_history import FOLLOWED, Command, Violated
from tests.simulation.migration_pipeline import LEFT_SECONDS, SESSION_STEPS, Pipeline
from tests.simulation.migration_ports import Fate
from tests.simulation.migration_time import Actor, Process
from tests.simulation.migration_workers import Habits

#: A schedule that takes more turns than this to come to rest never will.
_MOST_STEPS_TO_REST: Final = 10_000


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
    whim: float = 0.2
    """Per gate: that it finds the answers worse."""
    fatal: float = 0.02
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


@dataclass(frozen=True)
class _Plan:
    """What somebody runs as a job."""

    proposal: dict[str, Any]
    force: str | None
    automatic: bool
    again: bool


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
        apart = profile.workers > 1 and self.random.random() < 0.5
        self.stages: list[Sequence[Stage]] = [STAGES[:1], STAGES[1:]] if apart else [STAGES] * profile.workers
        """What each worker does: each stage has its own, or all do both."""
        self.workers: list[Process] = []
        self.people: list[Process | None] = [None] * profile.operators
        self.jobs: list[Process | None] = [None] * profile.jobs
        self.plans = [self._plan() for _ in range(profile.jobs)]
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
        self.workers = [self.pipeline.worker(stages) for stages in self.stages]
        if not self.profile.together:
            self.pipeline.searcher()
        self.writer = self.pipeline.process("writer")
        self.pipeline.start(self.writer, "", self._write)
        self.pipeline.fate = self._fate
        self.pipeline.whim = self.profile.whim

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
                if steps > SESSION_STEPS and process in self.workers:
                    pipeline.evict(process)
        if chance() < 0.001:
            pipeline.broker.log.maintain(least_dirty=0)

    def _replace_workers(self) -> None:
        for place, process in enumerate(self.workers):
            if process.dead:
                if process not in (other for _, other in self.pipeline.dead):
                    self.pipeline.crash(process)  # ended by itself
                self.workers[place] = self.pipeline.worker(self.stages[place])

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

    def _plan(self) -> _Plan:
        chance = self.random.random
        force = "a job says so" if chance() < 0.2 else None
        return _Plan(self.random.choice(PROPOSALS), force, automatic=chance() < 0.8, again=chance() < 0.7)

    def _job(self, place: int) -> Process:
        process = self.pipeline.process("job", self.skew())

        def run() -> None:
            while self.active:
                self.timeline.sleep(self.random.expovariate(1.0))
                if not self.active:
                    return
                plan = self.plans[place]
                wanted = {**plan.proposal, "again": plan.again}
                self._command(
                    process,
                    Command("job", f"migrate to {plan.proposal}", again=plan.again),
                    lambda desk: SimulatedJob(desk, wanted, plan.force, automatic=plan.automatic).run(),
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
        self.stages = [STAGES]
        self.workers = [self.pipeline.worker()]
        self._by_a_person({"action": "resume"})
        self._until(lambda: self.pipeline.lag() == 0, "the log is followed to its end")
        until = self.timeline.now + 3 * LEFT_SECONDS
        self._until(lambda: self.timeline.now >= until, "time goes on")
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

    def _until(self, true: Callable[[], bool], what: str) -> None:
        end = self.timeline.steps + _MOST_STEPS_TO_REST
        while not true():
            self._replace_workers()
            self.pipeline.notice()
            self._step()
            if self.timeline.steps >= end:
                raise Violated(f"in {_MOST_STEPS_TO_REST} turns it never came to this: {what}")

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1


def run(profile: Profile, seed: int) -> Result:
    """Run a schedule; every choice in it comes from the seed."""
    schedule = Schedule(profile, seed)
    failure, trace = "", []
    try:
        schedule.play()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}".replace("\n", " ")
        trace = schedule.timeline.lines()
        if not isinstance(error, Violated):
            trace += traceback.format_exception(error)
    return Result(profile.name, seed, failure, trace, schedule.timeline.steps, schedule.seen)


def first_failure(profile: Profile, seeds: range) -> Result | None:
    """The first of the seeds whose schedule violates something."""
    for seed in seeds:
        result = run(profile, seed)
        if result.failure:
            return result
    return None
