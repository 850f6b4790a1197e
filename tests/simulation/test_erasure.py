"""Requests to a source's writer among everything that can happen: nothing is lost, nothing comes back.

``VECTIDE_SIM_SCHEDULES`` sets how many schedules are run, ``VECTIDE_SIM_SEED`` the first seed (make soak).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from greenlet import greenlet

from pipeline.errors import BrokerUnavailable, Refused
from pipeline.generations import requests
from pipeline.ports import Written
from pipeline.records import Request
from tests.simulation.erasure import DAY, MUTANTS, SOURCE, Generation, Violated, World, first_failure, run

SCHEDULES = int(os.environ.get("VECTIDE_SIM_SCHEDULES", "0"))
FIRST = int(os.environ.get("VECTIDE_SIM_SEED") or (secrets.randbelow(1 << 40) if SCHEDULES else 0))
#: Mutants that schedules kill, and where to begin: the rarest shows in one of about 100.
RANDOM = {"second-writer": 0, "batch-unchecked": 90, "untold": 15, "looked-at": 0}


@pytest.mark.timeout(0 if SCHEDULES else 180)
def test_nothing_is_lost_and_nothing_comes_back() -> None:
    seeds = range(FIRST, FIRST + (SCHEDULES or 120))
    print(f"seeds {seeds.start} to {seeds.stop - 1}")
    found = first_failure(seeds)
    assert found is None, found.told() if found else ""


def test_schedules_contain_what_they_are_about() -> None:
    seen: set[str] = set()
    for seed in range(40):
        seen |= run(seed).world.happened
    assert seen >= {"forget done", "lift done", "gc done", "collected", "taken over", "fenced"}
    assert seen >= {"migration refused", "gc refused"}


@pytest.mark.parametrize("name", RANDOM)
def test_random_schedules_kill(name: str) -> None:
    with MUTANTS[name].applied():
        found = first_failure(range(RANDOM[name], RANDOM[name] + 300))
    assert found is not None, f"without {MUTANTS[name].without} all goes well"
    print(f"{name}: killed by seed {found.seed}: {found.failure}")


# ------------------------------------------------------------------------ written out step by step


class Stage(World):
    """A world in which nothing happens by chance: one generation, one connector that has scanned."""

    unanswered = False
    """The next transaction is written, and its writer hears of no answer."""

    def begin(self) -> None:
        self.faults = False
        self.generations.append(Generation("g0", 1.0, {}))
        self.start_runner()
        self.until(lambda: any(what == "source scan" for _, what, _ in self.moments.trace))

    def until(self, true: Callable[[], object], *actors: greenlet) -> None:
        for _ in range(2_000):
            if true():
                return
            self.now += 0.05
            for actor in actors or self.runners:
                if not actor.dead:
                    self.moments.step(actor)
        raise AssertionError("it never came true")

    def put(self) -> None:
        self.source.put("a", "text", at=self.clock.time())
        self.until(lambda: "a" in self.log())

    def delete(self) -> None:
        self.source.remove("a")
        self.until(lambda: "a" not in self.log())

    def read_all(self, generation: Generation, most: int = 1 << 30) -> None:
        for partition in range(2):
            self.read_from(generation, partition, most)
        generation.committed = dict(generation.positions)

    def gc(self) -> None:
        """By the runner that runs."""
        command = self.moments.start("gc", lambda: self.obey("gc", ()))
        self.until(lambda: command.dead, *self.runners, command)

    def compact_all(self) -> None:
        for _ in range(2):
            for partition in range(2):
                self.broker.log._maintain("t.p.documents.0", partition, True)

    def days_pass(self) -> None:
        self.now += 2 * DAY
        self.compact_all()

    def asks(self, kind: str) -> Request:
        """A request of the document, as a command writes it to control."""
        request = Request(kind, kind, SOURCE, self.now, paths=("a",))  # type: ignore[arg-type]
        (asked,) = requests.ask(self.control, [request])
        self.control = replace(self.control, requests={**self.control.requests, asked.id: asked})
        return asked

    def publish(self, publish: Callable[..., list[Written]], *given: Any, **more: Any) -> list[Written]:
        written = super().publish(publish, *given, **more)
        if self.unanswered:
            self.unanswered = False
            raise BrokerUnavailable("written, but nobody knows")
        return written

    def joins(self) -> Generation:
        """A migration is started, if it may."""
        requests.refuse_while_collecting(self.control)
        ends = {partition: bounds.end for partition, bounds in self.broker.offsets("t.p.documents.0").items()}
        self.generations.append(Generation("g1", 1.0, ends))
        return self.generations[-1]


def one_begun_later_reads_the_text_and_not_the_delete(made: Stage) -> None:
    """Text and delete in the log, a gc, then a generation that pauses between the two until both are gone."""
    made.put()
    made.delete()
    made.read_all(made.generations[0])
    made.now += 2 * DAY
    made.gc()
    late = made.joins()
    made.read_all(late, 1)
    made.compact_all()
    made.days_pass()
    made.judge()


def one_that_is_behind_misses_the_delete(made: Stage) -> None:
    """A generation that has read the text, and goes on when the delete is collected and gone."""
    made.put()
    made.read_all(made.generations[0])
    made.delete()
    made.days_pass()
    made.gc()
    made.compact_all()
    made.days_pass()
    made.judge()


def one_begun_while_a_gc_is_open_misses_the_delete(made: Stage) -> None:
    """A generation that reads the text after the gc has looked who has applied what, and before it looks at the log."""
    made.put()
    made.delete()
    made.read_all(made.generations[0])
    made.now += 2 * DAY
    gc = made.moments.start("gc", lambda: made.obey("gc", ()))
    made.until(lambda: any(one.kind == "gc" for one in made.control.requests.values()), gc)
    with suppress(Refused):
        made.read_all(made.joins(), 1)
    made.compact_all()
    made.until(lambda: gc.dead, *made.runners, gc)
    made.compact_all()
    made.days_pass()
    made.judge()


def one_that_is_told_late_that_it_was_done_does_it_again(made: Stage) -> None:
    """A forget that is written, but its writer hears of no answer; a command takes over and lifts it meanwhile."""
    made.put()
    made.unanswered = True
    forget = made.asks("forget")
    made.until(lambda: made.done(forget))
    lift = made.asks("lift")
    command = made.moments.start("lift", lambda: made.take_over(lift))
    made.until(lambda: command.dead, command)
    made.settle()
    made.judge()


SCENARIOS = (
    (one_that_is_told_late_that_it_was_done_does_it_again, "asked-before", "the log"),
    (one_begun_later_reads_the_text_and_not_the_delete, "older-text", "g1"),
    (one_that_is_behind_misses_the_delete, "not-applied", "g0"),
    (one_begun_while_a_gc_is_open_misses_the_delete, "started-meanwhile", "g1"),
)


@pytest.mark.parametrize(("scenario", "mutant", "misled"), SCENARIOS, ids=[mutant for _, mutant, _ in SCENARIOS])
def test_a_scenario_holds_with_all_guards_and_not_without_its_own(
    scenario: Callable[[Stage], None], mutant: str, misled: str
) -> None:
    made = Stage(0)
    with made.running():
        made.begin()
        scenario(made)
    made = Stage(0)
    with MUTANTS[mutant].applied(), made.running():
        made.begin()
        with pytest.raises(Violated, match=f"{misled} says"):
            scenario(made)


def test_every_mutant_is_killed_by_schedules_or_a_scenario() -> None:
    assert {*RANDOM, *(mutant for _, mutant, _ in SCENARIOS)} == MUTANTS.keys()
