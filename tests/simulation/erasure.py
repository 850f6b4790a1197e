"""Requests to one source's writer among edits: connectors that crash, hang and are taken over, commands, slow
generations and compaction, single-threaded in virtual time over the real runner, state and duties.

``python -m tests.simulation.erasure --seed N [--mutant NAME]`` runs one schedule and tells its trace.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Final

from greenlet import GreenletExit, greenlet

from connectors import duties, looks, runner, state
from connectors.duties import Duties, OldDeletes, carry_out, decode_done, done_name
from connectors.memory import MemorySource
from connectors.runner import Runner, RunnerLimits
from connectors.state import State, mark_key
from pipeline import deadline
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.broker.topics import pipeline_topics
from pipeline.codec import decode_event
from pipeline.config import PipelineConfig
from pipeline.errors import Backpressure, BrokerUnavailable, Fenced, Refused, Transient
from pipeline.generations import requests
from pipeline.generations.control import ControlState
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.observe.health import Health
from pipeline.observe.metrics import Metrics
from pipeline.ports import NewRecord, Record, Written
from pipeline.records import DocumentChanged, Done, Request
from tests.simulation.migration_changes import Change, changed
from tests.simulation.moments import Moments

NAMES: Final = Names("t", "p")
TOPIC: Final = NAMES.documents(0)
SOURCE: Final = "m"
PATHS: Final = ("a", "b", "c", "d", "e")
PARTITIONS: Final = 2
DAY: Final = 86_400.0
#: Metrics take longer to make than a schedule to run.
_METRICS: Final = Metrics()
_STEPS: Final = 400
_END_STEPS: Final = 4_000
_MODULES: Final = (deadline, duties, looks, runner, state)


class Violated(AssertionError):
    """Something that must not be."""


class Clock:
    """Time as the modules under test see it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        return 1e9 + self._world.now

    def monotonic(self) -> float:
        return self._world.now

    def sleep(self, seconds: float) -> None:
        wake = self._world.now + seconds
        while self._world.now < wake:
            self._world.moments.wait("sleeps", "")


class Waits:
    """Patience in virtual time."""

    def __init__(self, world: World) -> None:
        self._world = world

    def give_up_with(self, stop: Any) -> None:
        pass

    def until_done(self, dependency: str, operation: Callable[[], Any], part: str = "") -> Any:
        while True:
            try:
                return operation()
            except (Transient, Backpressure):
                self._world.clock.sleep(0.1)


class Port:
    """A broker, publisher, reader or source whose requests wait for their turn."""

    STEPS: Final = frozenset({"transactional_publisher", "reader", "poll", "offsets", "fetch", "scan", "publish"})

    def __init__(self, world: World, inner: Any, name: str) -> None:
        self._world, self._inner, self._name = world, inner, name
        self.id = getattr(inner, "id", "")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self.STEPS:
            return found

        def request(*given: Any, **more: Any) -> Any:
            self._world.moments.wait(f"{self._name} {name}", _shown(given))
            if name == "poll":
                given = (0.0, *given[1:])
            if name == "publish":
                return self._world.publish(found, *given, **more)
            answer = found(*given, **more)
            return Port(self._world, answer, name) if name in ("transactional_publisher", "reader") else answer

        return request

    def hints(self, timeout: float) -> Any:
        self._world.clock.sleep(min(timeout, 0.05))
        return self._inner.hints(0.0)


@dataclass
class Generation:
    """A reader of the log, as chunk stage and store together are: at least once, by version."""

    id: str
    pace: float
    until: dict[int, int]
    """It is being built up to here."""
    positions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS), 0))
    committed: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS), 0))
    heads: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return "building" if any(self.committed[one] < end for one, end in self.until.items()) else "live"

    def read(self, records: Sequence[Record], partition: int, end: int) -> None:
        for record in records:
            event = decode_event(record)
            if event is None:
                continue
            path = event.key.path
            if path not in self.heads or self.heads[path][0] < record.offset:
                text = event.text if isinstance(event, DocumentChanged) else None
                self.heads[path] = (record.offset, text)
        self.positions[partition] = end

    def view(self) -> dict[str, str | None]:
        return {path: text for path, (_, text) in self.heads.items() if text is not None}


class World:
    """One schedule: everything that happens follows from its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.clock = Clock(self)
        self.moments = Moments(self.random)
        self.broker = EmbeddedBroker(None, self.clock.time)
        self.broker.ensure_topics(pipeline_topics(NAMES, PipelineConfig(partitions=PARTITIONS)))
        self.source = MemorySource(SOURCE)
        self.control = ControlState()
        self.generations: list[Generation] = []
        self.faults = True
        self.count = 0
        self.runners: list[greenlet] = []
        self.commands: list[greenlet] = []
        self.asleep: dict[greenlet, int] = {}
        self.step = 0
        self.happened: set[str] = set()
        self.collects = seed % 2 == 1
        """Old deletes come about often, and are collected often."""
        self.paths = PATHS if self.collects else PATHS[:2]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the modules under test live in this world's time."""
        self.control = replace(self.control, generations=_Generations(self))
        try:
            with changed(*(Change(module, "time", lambda product: self.clock) for module in _MODULES)):
                yield
        finally:
            for actor in self.alive():
                actor.throw(GreenletExit)
            self.broker.close()

    # --------------------------------------------------------------------------- the schedule

    def play(self) -> None:
        """A while of everything, then quiet, then the verdict."""
        self.generations.append(Generation("g0", 1.0, {}))
        self.start_runner()
        while self.step < _STEPS:
            self.turn()
        self.faults = False
        for actor in self.runners:
            if not actor.dead:
                self.moments.kill(actor)
        self.asleep.clear()
        self.start_runner()
        self.settle()
        self.judge()

    def turn(self) -> None:
        self.step += 1
        self.now += self.random.choice((0.01, 0.03, 0.1))
        actors = [
            one for one in (*self.runners, *self.commands) if not one.dead and self.asleep.get(one, 0) <= self.step
        ]
        roll = self.random.random()
        if actors and roll < 0.60:
            self.moments.step(self.random.choice(actors))
        elif roll < 0.68:
            self.edit()
        elif roll < 0.79:
            self.read()
        elif roll < 0.87:
            self.compact()
        elif roll < 0.91:
            self.command()
        elif roll < 0.92:
            self.begin_generation()
        elif roll < 0.94 and not any(not one.dead and not self.asleep.get(one) for one in self.runners):
            self.start_runner()
        elif roll < 0.965 and actors:
            self.disturb(self.random.choice(actors))
        elif roll < (1.0 if self.collects else 0.97):
            self.now += 2 * DAY

    def alive(self) -> list[greenlet]:
        return [one for one in (*self.runners, *self.commands) if not one.dead]

    def settle(self) -> None:
        """Until everybody has done what there was to do."""
        for _ in range(_END_STEPS):
            self.now += 0.05
            for actor in self.alive():
                self.moments.step(actor)
            self.read(everything=True)
            if not any(not one.dead for one in self.runners):
                self.start_runner()
            if self.quiet():
                return

    def quiet(self) -> bool:
        return all(one.dead for one in self.commands) and self.log() == self.truth()

    def judge(self) -> None:
        """The log equals the source but for what was forgotten, and every generation equals the log."""
        for generation in self.generations:
            for partition, bounds in self.broker.offsets(TOPIC).items():
                self.read_from(generation, partition, 1 << 30)
                if generation.positions[partition] < bounds.end:
                    raise Violated(f"{generation.id} does not come to the end of {partition}")
        truth, log = self.truth(), self.log()
        if log != truth:
            raise Violated(f"the log says {log}, the source without what was forgotten {truth}")
        for generation in self.generations:
            if generation.view() != truth:
                raise Violated(f"{generation.id} says {generation.view()}, the truth is {truth}")

    def truth(self) -> dict[str, str | None]:
        out = requests.suppressed(self.control)
        texts = {path: one.text for path, one in self.source._documents.items()}
        return {path: text for path, text in texts.items() if out.by(DocumentKey(SOURCE, path)) is None}

    def log(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for record in self.records():
            event = decode_event(record)
            path = DocumentKey.from_bytes(record.key or b"").path
            found[path] = event.text if isinstance(event, DocumentChanged) else None
        return {path: text for path, text in found.items() if text is not None}

    def records(self) -> list[Record]:
        return [
            record
            for partition in range(PARTITIONS)
            for record in self.broker.log.fetch(TOPIC, partition, 0, 1 << 30)[0]
        ]

    # ------------------------------------------------------------------------------ what happens

    def edit(self) -> None:
        path = self.random.choice(self.paths)
        self.count += 1
        if path in self.source._documents and self.random.random() < 0.4:
            self.source.remove(path)
        else:
            self.source.put(path, f"text {self.count}", at=self.clock.time())

    def read(self, *, everything: bool = False) -> None:
        for generation in self.generations:
            if everything or self.random.random() < generation.pace:
                partition = self.random.randrange(PARTITIONS)
                self.read_from(generation, partition, 1 << 30 if everything else self.random.randint(1, 3))
                if everything or self.random.random() < 0.7:
                    generation.committed = dict(generation.positions)
                elif self.random.random() < 0.2:
                    generation.positions = dict(generation.committed)

    def read_from(self, generation: Generation, partition: int, most: int) -> None:
        records, following = self.broker.log.fetch(TOPIC, partition, generation.positions[partition], most)
        generation.read(records, partition, following)

    def compact(self) -> None:
        for topic in (TOPIC, NAMES.connector_state):
            self.broker.log._maintain(topic, self.random.randrange(PARTITIONS), True)

    def begin_generation(self) -> None:
        if len(self.generations) >= 3:
            return
        try:
            requests.refuse_while_collecting(self.control)
        except Refused:
            self.happened.add("migration refused")
            return
        ends = {partition: bounds.end for partition, bounds in self.broker.offsets(TOPIC).items()}
        pace = self.random.choice((1.0, 0.5, 0.1))
        self.generations.append(Generation(f"g{len(self.generations)}", pace, ends))

    def start_runner(self) -> None:
        stop = SimpleNamespace(is_set=lambda: False)

        def run() -> None:
            one = Runner(
                Port(self, self.source, "source"),  # type: ignore[arg-type]
                Port(self, self.broker, "broker"),  # type: ignore[arg-type]
                NAMES,
                0,
                None,
                Waits(self),  # type: ignore[arg-type]
                Health(),
                _METRICS,
                RunnerLimits(rescan_seconds=5.0),
                lambda: self.control.asked,
            )
            try:
                one.run(stop)  # type: ignore[arg-type]
            except Fenced:
                self.happened.add("fenced")

        # What the source has noted for the one before is of no use to this one: it scans.
        self.runners.append(self.moments.start(f"runner{len(self.runners)}", run))

    def disturb(self, actor: greenlet) -> None:
        if self.random.random() < 0.5:
            self.moments.kill(actor)
        else:
            self.asleep[actor] = self.step + self.random.randint(20, 120)
            if actor in self.runners and self.random.random() < 0.7:
                self.start_runner()  # somebody takes it for dead

    # ------------------------------------------------------------------------------- commands

    def command(self) -> None:
        kind = self.random.choice(("gc",) * 5 if self.collects else ("forget", "forget", "lift", "gc"))
        paths = () if kind == "gc" else (self.random.choice(self.paths),)
        self.commands = [one for one in self.commands if not one.dead]
        if len(self.commands) < 2:
            name = f"{kind} {' '.join(paths)}".rstrip()
            self.commands.append(self.moments.start(name, lambda: self.obey(kind, paths)))

    def obey(self, kind: str, paths: tuple[str, ...]) -> None:
        self.count += 1
        before = self.applied() if kind == "gc" else {}
        self.moments.wait("asks", kind)
        request = Request(f"r{self.count}", kind, SOURCE, self.now, 0, paths, before, self.clock.time() - DAY)  # type: ignore[arg-type]
        try:
            new = requests.ask(self.control, [request])
        except Refused:
            self.happened.add("gc refused")
            return
        self.control = replace(self.control, requests={**self.control.requests, **{one.id: one for one in new}})
        joined = requests.joined(self.control, request)
        assert joined is not None
        patience = self.random.randint(0, 40)
        while not self.done(joined):
            patience -= 1
            if patience < 0 and self.faults:  # afterwards a runner runs, and says so
                self.take_over(joined)
            else:
                self.moments.wait("looks for its mark", "")
        self.happened.add(f"{kind} done")
        if kind == "gc" and (done := self.found(joined)) is not None and done.count:
            self.happened.add("collected")
        closed = requests.close(self.control, [joined.id], self.now)
        self.control = replace(self.control, requests={**self.control.requests, **{one.id: one for one in closed}})

    def take_over(self, request: Request) -> None:
        broker = Port(self, self.broker, "broker")
        try:
            publisher = broker.transactional_publisher(NAMES.connector(SOURCE))
            known = State(broker, NAMES.connector_state, SOURCE, None, self.clock.time)  # type: ignore[arg-type]
            known.refresh()
            asked = Duties(SOURCE, broker, TOPIC, lambda: self.control.asked, self.clock.time)  # type: ignore[arg-type]
            carry_out(asked, known, publisher, request, 10.0)
            self.happened.add("taken over")
        except (Fenced, Transient):
            self.clock.sleep(0.3)

    def applied(self) -> dict[int, int]:
        """By partition, what every generation has committed."""
        return {partition: min(one.committed[partition] for one in self.generations) for partition in range(PARTITIONS)}

    def done(self, request: Request) -> bool:
        found = self.found(request)
        return found is not None and found.complete

    def found(self, request: Request) -> Done | None:
        key, found = mark_key(SOURCE, done_name(request.id)), None
        for partition in range(PARTITIONS):
            for record in self.broker.log.fetch(NAMES.connector_state, partition, 0, 1 << 30)[0]:
                if record.key == key:
                    found = record.value
        return None if found is None else decode_done(found)

    def publish(
        self, publish: Callable[..., list[Written]], records: Sequence[NewRecord], *given: Any, **more: Any
    ) -> list[Written]:
        """With what can happen around a transaction."""
        fate = self.random.random() if self.faults else 1.0
        if fate < 0.04:
            raise BrokerUnavailable("not written")
        if fate < 0.06:
            raise GreenletExit
        kept_out = requests.suppressed(replace(self.control, requests={
            id: one for id, one in self.control.requests.items() if one.kind == "lift" or self.done(one)
        }))  # fmt: skip
        written = publish(records, *given, **more)
        for record in records:
            if record.topic == TOPIC and record.value is not None and record.value != b"{}":
                key = DocumentKey.from_bytes(record.key or b"")
                if kept_out.by(key) is not None:
                    raise Violated(f"{key.path} came back after it was forgotten")
        if fate < 0.10:
            raise BrokerUnavailable("written, but nobody knows")
        if fate < 0.12:
            raise GreenletExit
        return written


def _shown(given: Sequence[Any]) -> str:
    first = given[0] if given else ""
    if isinstance(first, (list, tuple)):
        return ", ".join(
            f"{(one.key or b'')[5:].decode(errors='replace')}={(one.value or b'null')[:24].decode(errors='replace')}"
            for one in first
            if isinstance(one, NewRecord)
        )
    return str(first)[:60]


# --------------------------------------------------------------------------------------- mutants


def _second_writer(product: Any) -> Any:
    """A gc that writes its nulls by itself, from what it has seen of the log."""

    def take_over(self: World, request: Request) -> None:
        if request.kind != "gc":
            return product(self, request)
        broker = Port(self, self.broker, "broker")
        old = OldDeletes(broker, TOPIC, request.before, request.older, SOURCE)  # type: ignore[arg-type]
        while old.look():
            pass
        keys = old.take(100)
        for _ in range(30):
            self.moments.wait("broker publish", "nulls")
        nulls = [NewRecord(TOPIC, key, None) for key in keys]
        mark = state.State(self.broker, NAMES.connector_state, SOURCE, None).mark_record(
            done_name(request.id), duties.encode_done(Done(request.id, 0.0))
        )
        self.broker.publisher("gc").publish([*nulls, mark], deadline.Deadline.after(5))
        return None

    return take_over


def _unchecked_in(name: str) -> Callable[[Any], Any]:
    """Whatever was forgotten is not asked for within one of the runner's methods."""

    def make(product: Any) -> Any:
        def method(self: Any, *given: Any) -> Any:
            self._forgotten = lambda path: False
            try:
                return product(self, *given)
            finally:
                del self._forgotten

        return method

    return make


def _whatever_was_asked_before(product: Any) -> Any:
    """What is to be done is asked once, and not again after a take-over."""

    def serve(self: Any, kinds: Any) -> None:
        if not self._writer.hold():
            self._kept = self._writer.duties.next(self._state, kinds)
        if self._kept is None:
            return
        with self._writer.transaction() as (publisher, until):
            self._writer.duties.step(self._kept, self._state, publisher, until)
        self._scan_wanted = self._scan_wanted or self._kept.kind == "lift"

    return serve


def _only_newer(product: Any) -> Any:
    def second(self: Any, record: Record, key: bytes) -> None:
        if key in self._found and record.offset > self._found[key]:
            del self._found[key]

    return second


def _whatever_is_committed(product: Any) -> Any:
    def applied(self: World) -> dict[int, int]:
        return {partition: bounds.end for partition, bounds in self.broker.offsets(TOPIC).items()}

    return applied


def _nothing(product: Any) -> Any:
    return lambda *given, **more: None


def _never(product: Any) -> Any:
    return lambda *given, **more: False


@dataclass(frozen=True)
class Mutant:
    without: str
    changes: tuple[Change, ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        with changed(*self.changes):
            yield


MUTANTS: Final = {
    "second-writer": Mutant("the one writer of a source's keys, in gc", (Change(World, "take_over", _second_writer),)),
    "batch-unchecked": Mutant(
        "a look at the state before a batch that was held up is sent",
        (Change(Runner, "_publish", _unchecked_in("_publish")),),
    ),
    "asked-before": Mutant(
        "asking anew what is to be done once the transactional id was taken over",
        (Change(Runner, "_serve", _whatever_was_asked_before),),
    ),
    "older-text": Mutant("asking whether an older text is left", (Change(OldDeletes, "_second", _only_newer),)),
    "not-applied": Mutant("the commits of all generations", (Change(World, "applied", _whatever_is_committed),)),
    "untold": Mutant(
        "telling gc what is published meanwhile, and asking the state",
        (Change(OldDeletes, "published", _nothing), Change(Duties, "_published", _never)),
    ),
    "started-meanwhile": Mutant(
        "refusing a migration while a gc is open, and a gc while one is built",
        (Change(requests, "refuse_while_collecting", _nothing), Change(Generation, "state", lambda product: "live")),
    ),
    "looked-at": Mutant("not looking at what was forgotten", (Change(Runner, "_examine", _unchecked_in("_examine")),)),
}


@dataclass
class Outcome:
    seed: int
    failure: str
    world: World

    def told(self) -> str:
        return "\n".join(
            [f"python -m tests.simulation.erasure --seed {self.seed}", *self.world.moments.lines(), self.failure]
        )


def run(seed: int) -> Outcome:
    """One schedule; ``failure`` is empty if nothing is wrong."""
    world = World(seed)
    failure = ""
    with world.running():
        try:
            world.play()
        except Violated as error:
            failure = f"Violated: {error}"
    return Outcome(seed, failure, world)


class _Generations(dict):  # type: ignore[type-arg]
    """What control says of generations, as they are."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def values(self) -> Any:
        return self._world.generations


def first_failure(seeds: Sequence[int]) -> Outcome | None:
    for seed in seeds:
        found = run(seed)
        if found.failure:
            return found
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    given = parser.parse_args()
    failed = []
    with MUTANTS[given.mutant].applied() if given.mutant else changed():
        for seed in range(given.seed, given.seed + given.count):
            found = run(seed)
            if found.failure:
                failed.append(seed)
                if len(failed) == 1:
                    print(found.told())
    print(f"{len(failed)} of {given.count} schedules are violated; first {failed[:5]}")


if __name__ == "__main__":
    main()
