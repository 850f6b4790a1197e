"""Who goes next: actors as greenlets that stop before each request until the schedule resumes them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from pipeline.points import Alignment, ChunkPoint, Head, Sweep


class Moments:
    """The actors of one schedule, and the trace of what they did."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.trace: list[tuple[str, str, Any]] = []
        self._hub = getcurrent()
        self._names: dict[greenlet, str] = {}
        self._next: dict[greenlet, str] = {}

    def start(self, name: str, run: Callable[[], None]) -> greenlet:
        """An actor that has not begun yet."""
        actor = greenlet(run, self._hub)
        self._names[actor] = name
        return actor

    def step(self, actor: greenlet) -> None:
        """Let an actor run up to its next request. What it raises is raised here."""
        actor.switch()

    def until(self, actor: greenlet, what: str) -> None:
        """Let an actor run until it is about to send such a request; none of its own is sent."""
        while not actor.dead:
            actor.switch()
            if self._next.get(actor) == what:
                return
        raise LookupError(f"{self._names[actor]} ended before it came to: {what}")

    def finish(self, actor: greenlet) -> None:
        """Let an actor run to its end."""
        while not actor.dead:
            actor.switch()

    def kill(self, actor: greenlet) -> None:
        """End an actor where it stands: the request that it waits to send is never sent."""
        self.trace.append((self._names[actor], "DIES", ""))
        actor.throw(GreenletExit)

    def wait(self, what: str, arguments: Any) -> None:
        """Called by an actor: stop here until it is its turn, then go on with this request."""
        current = getcurrent()
        self._next[current] = what
        self._hub.switch()
        self.trace.append((self._names[current], what, arguments))

    def note(self, what: str, arguments: Any) -> None:
        """A line of the trace without a request."""
        self.trace.append((self._names.get(getcurrent(), "-"), what, arguments))

    def lines(self) -> list[str]:
        """The trace, readable: documents and chunks by the first four digits of their ids."""
        return [f"{who:>8}  {what:<22}{_shown(arguments)}" for who, what, arguments in self.trace]


def _shown(value: Any) -> str:
    match value:
        case Head():
            listed = " ".join(chunk.id[:4] for chunk in value.chunks)
            acl = value.filters.get("acl", "-")
            return f"{value.doc[:4]}@{value.stamp} {value.state} acl={acl} lists [{listed}]"
        case ChunkPoint():
            return f"{value.id[:4]}@{value.stamp} acl={value.filters.get('acl', '-')}"
        case Sweep():
            return f"{value.doc[:4]} up to {value.stamp} but [{' '.join(sorted(id[:4] for id in value.keep))}]"
        case Alignment():
            return f"{value.doc[:4]} up to {value.stamp} acl={value.filters.get('acl', '-')}"
        case str():
            return value[:4] if len(value) in (32, 36) else value
        case (Head() as head, int(read)):
            return f"{_shown(head)} over {read}"
        case list() | tuple() | set() | frozenset():
            return ", ".join(_shown(item) for item in value)
    return str(value)
