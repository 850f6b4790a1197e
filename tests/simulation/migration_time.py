"""Virtual time, and processes whose threads take turns in it.

A thread is a greenlet that stops before each request to a port and wherever it sleeps or waits; the
schedule says who goes on and what time it is. The modules under test are given this time and these
threads in place of Python's own, so that the very loops of :mod:`pipeline.cli` run here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from greenlet import GreenletExit, getcurrent, greenlet

from pipeline import deadline
from pipeline.cli import (
    assembly,
    awaiting,
    clearing,
    crew,
    figures,
    gating,
    job,
    line,
    lines,
    migrate,
    migration_status,
    migrations,
    tasks,
)
from pipeline.generations import gate, operator
from pipeline.search import service
from pipeline.stages import lag, pace

#: Virtual clocks start here: seconds since 1970.
EPOCH = 1_800_000_000.0

_TOLD_THE_TIME = (
    deadline,
    assembly,
    awaiting,
    clearing,
    figures,
    gating,
    lines,
    migrate,
    migration_status,
    migrations,
    job,
    gate,
    operator,
    service,
    pace,
    lag,
)
_THREADED = (assembly, crew, line, lines, tasks, job, service, pace)


class Process:
    """What is killed, frozen and started again as a whole."""

    def __init__(self, name: str, skew: float = 0.0) -> None:
        self.name = name
        self.skew = skew
        """Seconds that its wall clock is ahead."""
        self.dead = False
        self.frozen_until = 0
        """A step: until then none of its threads goes on."""
        self.consumers: list[Any] = []
        """Members of groups that it has made."""


class Actor(greenlet):
    """One thread of a process."""

    def __init__(self, hub: greenlet, process: Process, name: str, run: Callable[[], object]) -> None:
        super().__init__(run, hub)
        self.process = process
        self.name = name
        self.next = ""
        """The request that it is about to send."""
        self.about: Any = ""
        """The request's arguments."""
        self.held = False
        """It does not go on, though its process does."""
        self.wakes = 0.0
        self.waits_for: Callable[[], bool] | None = None
        self.command: Any = None
        """On whose behalf it works; its own threads inherit it."""
        self.reliable = False
        """All of its requests are answered."""


class Timeline:
    """Whose turn it is, and what time.

    Args:
        random_: of the schedule.
        step_seconds: what passes with each turn.
    """

    def __init__(self, random_: random.Random, step_seconds: float) -> None:
        self.random = random_
        self.now = 0.0
        self.steps = 0
        self.actors: list[Actor] = []
        self.trace: list[tuple[float, str, str, Any]] = []
        self._hub = getcurrent()
        self._step_seconds = step_seconds

    # ------------------------------------------------------------------ the schedule's side

    def start(self, process: Process, name: str, run: Callable[[], object]) -> Actor:
        """A thread that has not begun yet."""
        actor = Actor(self._hub, process, f"{process.name}/{name}" if name else process.name, run)
        parent = self.current
        if parent is not None:
            actor.command, actor.reliable = parent.command, parent.reliable
        self.actors.append(actor)
        return actor

    def awake(self) -> list[Actor]:
        """Those that can go on now."""
        now, steps = self.now, self.steps
        return [
            one
            for one in self.actors
            if one.process.frozen_until <= steps
            and not one.held
            and (one.wakes <= now or (one.waits_for is not None and one.waits_for()))
        ]

    def step(self, actor: Actor) -> None:
        """Let a thread run up to its next request. What it ends with is raised here."""
        self.steps += 1
        self.now += self._step_seconds
        try:
            actor.switch()
        finally:
            if actor.dead and actor in self.actors:
                self.actors.remove(actor)

    def skip(self) -> None:
        """Nobody can go on: to the moment when somebody can."""
        able = [one for one in self.actors if not one.held]
        frozen = [one for one in able if one.process.frozen_until > self.steps]
        nearest = min((one.wakes for one in able if one not in frozen), default=math.inf)
        if nearest < math.inf:
            self.now = max(self.now, nearest)
        elif frozen:
            for one in frozen:
                one.process.frozen_until = 0
        else:
            raise RuntimeError(f"a deadlock: {[(one.name, one.next) for one in self.actors]}")

    def kill(self, process: Process) -> None:
        """End a process where it stands: none of the requests that its threads wait to send is sent."""
        self.trace.append((self.now, process.name, "DIES", ""))
        process.dead = True
        for actor in [one for one in self.actors if one.process is process]:
            self.actors.remove(actor)
            if not actor.dead:
                actor.throw(GreenletExit)

    def kill_all(self) -> None:
        """End every process."""
        for process in {one.process.name: one.process for one in self.actors}.values():
            self.kill(process)

    def freeze(self, process: Process, steps: int) -> None:
        """A process stands still, as after SIGSTOP."""
        self.trace.append((self.now, process.name, "FREEZES", steps))
        process.frozen_until = self.steps + steps

    def lines(self) -> list[str]:
        """The trace, readable."""
        return [f"{at:9.3f}  {who:<22} {what:<24}{_shown(arguments)}"[:200] for at, who, what, arguments in self.trace]

    # ------------------------------------------------------------------- the threads' side

    @property
    def current(self) -> Actor | None:
        """Whose turn it is; None between turns."""
        found = getcurrent()
        return found if isinstance(found, Actor) else None

    def turn(self, what: str, arguments: Any = "") -> None:
        """The moment before a request: others may come in. Between turns nobody can."""
        actor = self.current
        if actor is None:
            return
        actor.about = arguments
        self._leave(actor, what, 0.0, None)
        self.trace.append((self.now, actor.name, what, arguments))

    def sleep(self, seconds: float) -> None:
        """Go on after so long, or later."""
        actor = self.current
        assert actor is not None, "only a thread can sleep"
        self._leave(actor, "sleeps", self.now + max(0.0, seconds), None)

    def until(self, true: Callable[[], bool], seconds: float | None = None) -> bool:
        """Go on once it is true, or after so long; says which."""
        if true():
            return True
        actor = self.current
        assert actor is not None, "only a thread can wait"
        self._leave(actor, "waits", math.inf if seconds is None else self.now + max(0.0, seconds), true)
        return true()

    def note(self, what: str, arguments: Any = "") -> None:
        """A line of the trace that is no request."""
        actor = self.current
        self.trace.append((self.now, "-" if actor is None else actor.name, what, arguments))

    def _leave(self, actor: Actor, what: str, wakes: float, waits_for: Callable[[], bool] | None) -> None:
        if actor.process.dead:
            raise GreenletExit
        actor.next, actor.wakes, actor.waits_for = what, wakes, waits_for
        self._hub.switch()
        if actor.process.dead:
            raise GreenletExit
        actor.wakes, actor.waits_for = 0.0, None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within it the modules under test live in this time."""
        changes: list[tuple[Any, str, Any]] = [(module, "time", _Clock(self)) for module in _TOLD_THE_TIME]
        changes += [(module, "threading", _Threads(self)) for module in _THREADED]
        changes += [(operator, "random", self.random), (tasks, "uuid", _Names())]
        kept = [(module, name, getattr(module, name)) for module, name, _ in changes]
        for module, name, replacement in changes:
            setattr(module, name, replacement)
        try:
            yield
        finally:
            for module, name, original in kept:
                setattr(module, name, original)


class _Clock:
    """What of the time module is used."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.sleep = timeline.sleep

    def monotonic(self) -> float:
        return self._timeline.now

    def time(self) -> float:
        actor = self._timeline.current
        return EPOCH + self._timeline.now + (0.0 if actor is None else actor.process.skew)


class _Threads:
    """What of the threading module is used."""

    TIMEOUT_MAX = 1e9

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def Lock(self) -> _Lock:
        return _Lock(self._timeline)

    def Event(self) -> Event:
        return Event(self._timeline)

    def local(self) -> _Local:
        return _Local()

    def Thread(
        self,
        target: Callable[..., object],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str = "",
        daemon: bool | None = None,
    ) -> _Thread:
        return _Thread(self._timeline, lambda: target(*args, **(kwargs or {})), name)


class _Local:
    """Attributes that each thread has for itself."""

    def __init__(self) -> None:
        self.__dict__["_of"] = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        try:
            return self._of[getcurrent()][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._of.setdefault(getcurrent(), {})[name] = value


class _Names:
    """What of the uuid module is used: names that are the same in every run."""

    def __init__(self) -> None:
        self._count = 0

    def uuid4(self) -> SimpleNamespace:
        self._count += 1
        return SimpleNamespace(hex=f"name{self._count}")


class _Lock:
    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._held = False

    def __enter__(self) -> None:
        while not self._timeline.until(lambda: not self._held):
            pass
        self._held = True

    def __exit__(self, *error: object) -> None:
        self._held = False


class Event:
    """An event that is waited for in virtual time."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self._timeline.until(self.is_set, timeout)


class _Thread:
    def __init__(self, timeline: Timeline, run: Callable[[], object], name: str) -> None:
        self._timeline = timeline
        self._run = run
        self._name = name
        self._actor: Actor | None = None

    def start(self) -> None:
        parent = self._timeline.current
        assert parent is not None, "threads are started by threads"
        self._actor = self._timeline.start(parent.process, self._name, self._run)

    def is_alive(self) -> bool:
        return self._actor is not None and not self._actor.dead

    def join(self, timeout: float | None = None) -> None:
        self._timeline.until(lambda: not self.is_alive(), timeout)


def _shown(value: Any) -> str:
    match value:
        case tuple() | list():
            return ", ".join(_shown(item) for item in value)
        case dict():
            return ", ".join(f"{key}={_shown(item)}" for key, item in value.items())
    text = "".join(one if one.isprintable() else "." for one in str(value))
    return text if len(text) < 100 else f"{text[:97]}..."
