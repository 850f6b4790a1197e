"""One seeded schedule, from an empty store to the quiet at its end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from greenlet import greenlet

from pipeline.identity import version_in
from pipeline.ports import Collection
from pipeline.store.memory import MemoryCollection
from pipeline.sync import settling
from tests.simulation.actors import Group, Owner
from tests.simulation.moments import Moments
from tests.simulation.power import Power
from tests.simulation.profiles import Profile
from tests.simulation.requests import Diverged, Stepped, Witness
from tests.simulation.verdicts import check
from tests.simulation.verification import Documents, all_chunks, applied, repaired, spoil, told, verified
from tests.simulation.world import SPEC, World, world_of

#: A schedule that takes more requests than this does not come to rest.
_MOST_STEPS = 20_000


@dataclass
class Result:
    """How a schedule ended."""

    profile: str
    seed: int
    failure: str
    """Empty: it converged."""
    trace: list[str]
    requests: int
    embedded: int
    verifications: int
    repairs: int
    """Verifications that found something."""

    def told(self) -> str:
        """The failure for a person, with how to see it alone."""
        lines = "\n".join(self.trace)
        return (
            f"{self.failure}\nagain: .venv/bin/python -m tests.simulation --profile {self.profile} "
            f"--seed {self.seed}\n{lines}"
        )


def run(profile: Profile, seed: int, collection: Collection | None = None) -> Result:
    """Run a schedule; every choice in it comes from the seed.

    Args:
        profile: what may happen.
        seed: of everything.
        collection: where; None: a new one in memory. Power cuts need memory.
    """
    schedule = Schedule(profile, seed, collection or MemoryCollection(SPEC))
    failure = ""
    try:
        schedule.play()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    trace = schedule.moments.lines() if failure else []
    return Result(
        profile.name,
        seed,
        failure,
        trace,
        len(schedule.moments.trace),
        schedule.world.embedded,
        schedule.verifications,
        schedule.repairs,
    )


class Schedule:
    """The state of one schedule."""

    def __init__(self, profile: Profile, seed: int, collection: Collection) -> None:
        # The name too: two profiles with one seed must not be the same choices twice.
        self.random = random.Random(f"{profile.name}/{seed}")
        self.profile = profile
        self.collection = collection
        self.moments = Moments(self.random)
        # Names and texts carry the seed, so that schedules may share a collection.
        self.salt = f"{profile.name}{seed}."
        self.world: World = world_of(profile, self.random, self.salt)
        self.witness = Witness(collection)
        self.group = Group()
        self.power = Power(collection) if profile.power_cut and isinstance(collection, MemoryCollection) else None
        self.owner: greenlet | None = None
        self.zombies: list[greenlet] = []
        self.walk: greenlet | None = None
        self.verifier: greenlet | None = None
        self.verifications = self.repairs = self.spoilt = 0
        self.needs_repair = False
        self.asleep: dict[greenlet, int] = {}
        self.steps = 0
        self.crashes = self.takeovers = self.cuts = self.owners = 0
        self.donor_seconds = self.random.choice([0.0, 10.0, 10.0])
        # How long one actor goes on before another may: no bias would hide what needs long gaps.
        self.haste = self.random.choice([0.1, 0.5, 1.0])
        self.stickiness = self.random.choice([0.0, 0.3, 0.6, 0.9])

    def play(self) -> None:
        """Run to the quiet, then compare the store with the log."""
        self._take_over()
        self._run_to_rest()
        if self.profile.final_replay:
            self._replay_everything()
            self._run_to_rest()
        if self.needs_repair and self.profile.last_walk:
            self.walk = self.moments.start("repair", lambda: self._repair([key.doc for key in self.world.keys]))
            while not self.walk.dead:
                self.moments.step(self.walk)
        begun = self.needs_repair and self._begun()
        if self.spoilt or begun:
            self._mend(found=begun)
        check(self.world, self.collection, power_was_cut=self.cuts > 0 or self.spoilt > 0)

    # ------------------------------------------------------------------------- the choices

    def _run_to_rest(self) -> None:
        last: greenlet | None = None
        for _ in range(_MOST_STEPS):
            self._surprise()
            alive = [
                one for one in (self.owner, *self.zombies, self.walk, self.verifier) if one is not None and not one.dead
            ]
            if not alive:
                if self.group.committed == len(self.world.log):
                    return
                self._take_over()
                continue
            idle = self.group.owner is not None and self.group.owner.idle
            if self.world.end < len(self.world.log) and (idle or self.random.random() < self.haste):
                self.world.publish()
            # Zombies sleep, for what they do late is what hurts, and owners, for what comes between
            # their reading and their writing. When all sleep all are awake.
            awake = [one for one in alive if self.asleep.get(one, 0) <= self.steps] or alive
            if last not in awake or self.random.random() >= self.stickiness:
                last = self.random.choice(awake)
            self.moments.step(last)
            self.steps += 1
            if last in self.zombies and self.random.random() < 0.2:
                self._put_to_sleep(last, 5, 15, 40, 100)
            elif self.zombies and last is self.owner and self.random.random() < 0.06:
                self._put_to_sleep(last, 5, 15)
            if self.power is not None:
                self.power.remember()
        raise AssertionError(f"not at rest after {_MOST_STEPS} steps")

    def _surprise(self) -> None:
        profile, chance = self.profile, self.random.random
        working = self.owner is not None and not self.owner.dead
        if working and self.crashes < 5 and chance() < profile.crash:
            self.crashes += 1
            self.moments.kill(self.owner)
            self._take_over()
        elif working and self.takeovers < profile.zombies and chance() < profile.takeover:
            self.takeovers += 1
            self.zombies.append(self.owner)
            if chance() < 0.7:
                self._put_to_sleep(self.owner, 5, 15, 40, 100)
            self._take_over()
        elif self.power is not None and self.cuts < 2 and chance() < profile.power_cut:
            self._cut_power()
        if profile.deaths and chance() < profile.deaths:
            alive = [zombie for zombie in self.zombies if not zombie.dead]
            if alive:
                self.needs_repair = True
                self.moments.kill(self.random.choice(alive))
        if profile.repair and chance() < profile.repair and (self.walk is None or self.walk.dead):
            docs = [key.doc for key in self.world.keys if chance() < 0.5]
            self.walk = self.moments.start("repair", lambda: self._repair(docs))

        if profile.verify and chance() < profile.verify and (self.verifier is None or self.verifier.dead):
            self.verifier = self.moments.start("verifier", self._verify)
        if profile.spoil and chance() < profile.spoil:
            kind, doc = spoil(self.world, self.collection, self.witness, self.random)
            self.moments.note("SPOILT", f"{doc[:4]} {kind}")
            self.spoilt += 1
            if self.verifier is not None and not self.verifier.dead and chance() < 0.3:
                # A repair that is killed leaves what a killed worker leaves.
                self.moments.kill(self.verifier)

    def _put_to_sleep(self, actor: greenlet, *steps: int) -> None:
        self.asleep[actor] = self.steps + self.random.choice(steps)

    def _take_over(self) -> None:
        if self.profile.compaction and self.random.random() < self.profile.compaction:
            self.world.compact(self.random)
        self.owners += 1
        owner = Owner(
            self.world,
            self.group,
            self._stepped(),
            self.moments,
            self.profile,
            self.donor_seconds,
            unaware=self.random.choice([0, 0, 1, 2]),
        )
        self.group.owner = owner
        self.owner = self.moments.start(f"owner{self.owners}", owner.run)

    def _stepped(self) -> Stepped:
        return Stepped(
            self.collection,
            self.moments,
            self.witness,
            durable=self.power is None,
            torn=self.profile.torn,
            unanswered=self.profile.unanswered,
        )

    def _repair(self, docs: list[str]) -> None:
        collection = Stepped(
            self.collection, self.moments, self.witness, durable=True, torn=self.profile.torn, unanswered=0.0
        )
        settling.repair(collection, docs)

    def _verify(self) -> None:
        """Verify what is applied by now, while everybody goes on, and repair what was found."""
        collection: Any = Stepped(
            self.collection, self.moments, self.witness, durable=True, torn=self.profile.torn, unanswered=0.0
        )
        documents = Documents(self.world, self.salt, lambda what: self.moments.wait(what, ""), self.random)
        end = applied(self.world, self.group.committed)
        with verified(documents, collection, end, wait=self._look_later) as verdict:
            found = told(verdict.findings)
            self.verifications += 1
            self.moments.note("finds", ", ".join(found))
            if found and self.profile.nothing_found:
                raise Diverged(f"verification up to {end} finds {found}")
            self.repairs += bool(found)
            repaired(documents, collection, verdict.findings, self.world.embed, end)

    def _begun(self) -> bool:
        """Whether a dead zombie has begun another run of a version: its chunks are above their head, where no
        walk takes them (it may be at work), and its event may be committed, so that nobody is told of it again.
        """
        heads = self.collection.heads([key.doc for key in self.world.keys])
        listed = {listed.id for head in heads.values() for listed in head.chunks}
        left = [one for one in all_chunks(self.collection) if one.doc in heads and one.id not in listed]
        return any(one.stamp > heads[one.doc].stamp and version_in(one.stamp) == heads[one.doc].version for one in left)

    def _mend(self, *, found: bool = False) -> None:
        """Nobody writes any more: what was spoilt is found, and one repair mends it."""
        documents = Documents(self.world, self.salt)
        with verified(documents, self.collection, wait=lambda _: None) as verdict:
            if found and verdict.ok:
                raise Diverged("chunks above their heads are left, and a verification does not find them")
            repaired(documents, self.collection, verdict.findings, self.world.embed)
        with verified(documents, self.collection, wait=lambda _: None) as verdict:
            if not verdict.ok or verdict.unexplained:
                raise Diverged(f"after the repair: {told(verdict.findings)}, {verdict.unexplained} cells unexplained")
        strangers = {chunk.doc for chunk in all_chunks(self.collection)} - {key.doc for key in self.world.keys}
        if strangers:
            raise Diverged(f"chunks of nobody are left: {sorted(strangers)}")

    def _look_later(self, seconds: float) -> None:
        for _ in range(self.random.randint(1, 30)):
            self.moments.wait("waits to look again", "")

    def _cut_power(self) -> None:
        assert self.power is not None
        self.cuts += 1
        for actor in (self.owner, *self.zombies, self.walk, self.verifier):
            if actor is not None and not actor.dead:
                self.moments.kill(actor)
        self.moments.note("POWER CUT", self.power.cut(self.random))
        self.witness.power_cut([key.doc for key in self.world.keys])
        self._take_over()

    def _replay_everything(self) -> None:
        self.world.broken.clear()
        self.world.replayed_last = True
        for key in self.world.keys:
            head = self.collection.heads([key.doc]).get(key.doc)
            for event in self.world.versions(key.doc).get(head.version, ()) if head is not None else ():
                if event.state == "chunked" and head is not None and head.state != "complete":
                    self.world.log.append(replace(event, replay=True))
                    break
        self.world.end = len(self.world.log)
        self._take_over()


def first_failure(profile: Profile, seeds: range, collection: Callable[[], Collection] | None = None) -> Result | None:
    """The first of the seeds whose schedule does not converge."""
    for seed in seeds:
        result = run(profile, seed, None if collection is None else collection())
        if result.failure:
            return result
    return None
