"""What people and jobs ask of a pipeline's migrations, as :mod:`pipeline.cli.migrate` and ``job`` do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.cli import migrate
from pipeline.cli.access import Ask
from pipeline.cli.gating import refused_by_gate
from pipeline.cli.job import Job
from pipeline.errors import Backpressure, Fatal, Refused, Transient
from tests.simulation.migration_corpus import CONFIG, PROPOSALS, Corpus
from tests.simulation.migration_history import Asked, Command, History, Violated
from tests.simulation.migration_time import Timeline

#: What a command that was carried out leaves its generation in, at some moment while it ran.
_LEAVES: Mapping[str, set[str]] = {
    "start": {"building", "ready", "live"},
    "cutover": {"live"},
    "rollback": {"live"},
    "abort": {"aborted"},
    "retire": {"retired"},
}


class Desk:
    """Where migrations are asked for, and what is held against each answer.

    Args:
        ask: carries it out.
        history: of the schedule.
        corpus: of the schedule.
    """

    def __init__(self, timeline: Timeline, history: History, corpus: Corpus, ask: Callable[[Mapping[str, Any]], Any]):
        self._timeline = timeline
        self._history = history
        self._corpus = corpus
        self._ask = ask
        self.cleared: set[str] = set()
        """Generations whose removal was carried out to its end."""

    def ask(self, method: str, path: str, arguments: Mapping[str, Any]) -> Any:
        """As the routes of a pipeline are asked."""
        actor = self._timeline.current
        assert actor is not None
        command: Command = actor.command
        versions = self._corpus.versions(CONFIG.migrate.lag_seconds)
        asked = Asked(str(arguments["action"]), arguments, len(self._history.entries), versions)
        self._timeline.turn(f"ask {asked.action}", arguments)
        command.asked = asked
        try:
            answer = self._ask(arguments)
        except (Transient, Backpressure, Refused) as error:
            self._timeline.note("IS TOLD", f"{type(error).__name__}: {error}")
            raise
        except (Fatal, Exception) as error:
            if isinstance(error, Violated):
                raise
            self._history.require(False, f"{asked.action} ended with {type(error).__name__}: {error}")
            raise
        self._timeline.note("IS TOLD", answer if asked.action != "status" else answer["state"])
        self._judge(asked, answer)
        return answer

    def _judge(self, asked: Asked, answer: Mapping[str, Any]) -> None:
        """What a command says that it has done was so at some moment while it ran."""
        if asked.action not in (*_LEAVES, "pause", "resume", "throttle"):
            return
        generation = answer["generation"]
        id = generation if isinstance(generation, str) else generation["id"]
        of_it = self._history.of(id)
        meanwhile = self._history.of(id, asked.entries)
        last_before = of_it[: len(of_it) - len(meanwhile)][-1:]
        states = {one.after for one in (*last_before, *meanwhile)}
        wanted = _LEAVES.get(asked.action)
        if wanted is not None:
            self._history.require(
                bool(states & wanted), f"{asked.action} of {id} was said to be done, and it was only {sorted(states)}"
            )
        if asked.action in ("abort", "retire"):
            self.cleared.add(id)


class SimulatedJob(Job):
    """``vectide migrate run`` at a desk."""

    def __init__(self, desk: Desk, proposal: Mapping[str, Any], force: str | None, *, automatic: bool) -> None:
        super().__init__(CONFIG, proposal, None, None, automatic=automatic, force=force, quiet=True)
        self._desk = desk

    @contextmanager
    def _reached(self, stop: Any) -> Iterator[Ask]:
        yield self._desk.ask

    def _say_error(self, error: Exception) -> None:
        """Nobody listens."""


def cut_over(ask: Ask, force: str | None) -> None:
    """``vectide migrate cutover``."""
    arguments: dict[str, Any] = {"action": "cutover", "force": force}
    now = ask("POST", "/migrate", {"action": "status"})
    if force is None and now["target"] is not None:
        found = migrate._examined(ask, None, None)
        if not found["ok"]:
            raise refused_by_gate(found)
        arguments |= {"examined": found["examined"], "generation": found["generation"]}
    ask("POST", "/migrate", arguments)


#: What people do next, with which chance: what they do not, they think about first.
_FOLLOWING: Mapping[str, Mapping[str, float]] = {
    "start": {"force": 0.2, "cutover": 0.2, "abort": 0.1},
    "cutover": {"rollback": 0.4, "retire": 0.15},
    "force": {"rollback": 0.5, "retire": 0.1},
    "rollback": {"gate": 0.3, "cutover": 0.1, "abort": 0.3, "force": 0.1},
    "abort": {"start": 0.4},
    "pause": {"resume": 0.5},
}


class Operator:
    """A person who gives commands, seldom the right ones.

    Args:
        random_: of the schedule.
        history: where a look shows how things are.
        starts: how likely a migration is begun where none is under way.
    """

    def __init__(self, random_: random.Random, history: History, starts: float) -> None:
        self._random = random_
        self._history = history
        self._starts = starts
        self._said = ""

    def next(self) -> tuple[str, Callable[[Ask], Any], float]:
        """What to do, how, and seconds before it."""
        chance = self._random.random()
        for said, share in _FOLLOWING.get(self._said, {}).items():
            if chance < share:
                self._said = said
                return said, self._doing(said), self._random.uniform(0.0, 0.3)
            chance -= share
        self._said = self._by_a_look()
        return self._said, self._doing(self._said), self._random.expovariate(1.0)

    def _by_a_look(self) -> str:
        states = set(self._history.states.values())
        under_way = states & {"building", "ready"}
        weights = {
            "start": 1.0 if under_way else self._starts,
            "cutover": 5.0 if under_way else 0.3,
            "force": 2.0 if under_way else 0.3,
            "gate": 2.0 if under_way else 0.3,
            "pause": 1.0 if under_way else 0.2,
            "resume": 1.0 if under_way else 0.2,
            "throttle": 1.0 if under_way else 0.2,
            "abort": 1.0 if under_way else 0.3,
            "rollback": 5.0 if "previous" in states and not under_way else 0.5,
            "retire": 2.0 if "previous" in states else 0.5,
            "retire any": 1.0,
            "abort any": 0.5,
        }
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _doing(self, said: str) -> Callable[[Ask], Any]:
        if said in ("cutover", "force"):
            return lambda ask: cut_over(ask, "a person says so" if said == "force" else None)
        if said == "gate":
            return lambda ask: migrate._examined(ask, None, None)
        arguments: dict[str, Any] = {"action": said}
        if said == "start":
            arguments |= self._random.choice(PROPOSALS)
        elif said == "throttle":
            arguments["share"] = self._random.choice([0.5, 1.0])
        elif said.endswith(" any"):
            known = sorted(self._history.states)
            arguments = {"action": said.split(maxsplit=1)[0], "generation": self._random.choice(known)}
        elif said == "rollback":
            arguments["force"] = "a person says so" if self._random.random() < 0.3 else None
            arguments["again"] = self._random.random() < 0.3
        return lambda ask: ask("POST", "/migrate", arguments)
