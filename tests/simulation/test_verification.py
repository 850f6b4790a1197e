"""Verification and repair among the schedules: what converged is in order, what diverged is found and mended,
and those who verify and repair while others write find nothing that is not there, and break nothing.
"""

from __future__ import annotations

import os
import secrets
from importlib import import_module
from typing import Any

import pytest

from pipeline.store.memory import MemoryCollection
from pipeline.sync import guards
from pipeline.verification import comparison, judging
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.profiles import PROFILES, VERIFIED, Profile
from tests.simulation.requests import Diverged
from tests.simulation.schedules import Schedule, first_failure, run
from tests.simulation.verdicts import check
from tests.simulation.verification import Documents, possible, repaired, told, verified
from tests.simulation.world import SPEC

SCHEDULES = int(os.environ.get("VECTIDE_SIM_SCHEDULES", "0"))
FIRST = int(os.environ.get("VECTIDE_SIM_SEED") or (secrets.randbelow(1 << 40) if SCHEDULES else 0))


def played(profile: Profile, seed: int) -> tuple[Schedule, str]:
    """A schedule at its end, and in what its store differs from its log then (empty: in nothing)."""
    schedule = Schedule(profile, seed, MemoryCollection(SPEC))
    try:
        schedule.play()
    except Diverged as error:
        return schedule, str(error)
    return schedule, ""


@pytest.mark.timeout(0 if SCHEDULES else 180)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_what_has_converged_is_in_order(profile: Profile) -> None:
    """Given any schedule that came to rest as the log says, then verification finds nothing, and explains all."""
    print(f"profile {profile.name}, seeds from {FIRST}")
    for seed in range(FIRST, FIRST + (SCHEDULES // 50 or 60)):
        schedule, failure = played(profile, seed)
        assert failure == ""
        if not possible(schedule.world):
            continue
        documents = Documents(schedule.world, schedule.salt, random_=schedule.random)
        with verified(documents, schedule.collection, wait=lambda _: None) as verdict:
            assert (told(verdict.findings), verdict.unexplained) == ([], 0), (profile.name, seed)


#: Those without which a schedule soon comes to rest with a store that is not the log; the others are seen on the way.
LEAVE = (
    *("absent-overwrites", "align-any-stamp", "align-no-stamp", "delete-unswept", "failure-keeps-fields"),
    *("failure-no-head", "last-of-batch", "listed-is-enough", "loss-is-done", "no-fence", "own-event"),
    *("own-event-align", "own-event-sweep", "sweep-any-stamp"),
)


@pytest.mark.parametrize("name", LEAVE)
def test_what_has_diverged_is_found_and_mended(name: str) -> None:
    """Given a protocol without one of its guards, when a schedule comes to rest with a store that is not the log, then
    verification finds it; and the whole protocol repairs it.
    """
    mutant, found = MUTANTS[name], 0
    assert mutant.profile is not None
    for seed in range(400):
        with mutant.applied():
            schedule, failure = played(mutant.profile, seed)
        if not failure or not _at_rest(schedule) or not possible(schedule.world):
            continue
        found += 1
        documents = Documents(schedule.world, schedule.salt)
        with verified(documents, schedule.collection, wait=lambda _: None) as verdict:
            assert not verdict.ok, f"schedule {seed} of {mutant.profile.name}: {failure}"
            repaired(documents, schedule.collection, verdict.findings, schedule.world.embed)
        check(schedule.world, schedule.collection, power_was_cut=schedule.cuts > 0)
        if found == 2:
            return
    pytest.fail(f"without {mutant.without}, {found} schedules at rest diverged")


@pytest.mark.timeout(0 if SCHEDULES else 180)
@pytest.mark.parametrize("profile", VERIFIED.values(), ids=lambda profile: profile.name)
def test_who_verifies_and_repairs_meanwhile_does_no_harm(profile: Profile) -> None:
    print(f"profile {profile.name}, seeds from {FIRST}")
    verifications = repairs = 0
    for seed in range(FIRST, FIRST + (SCHEDULES // 50 or 60)):
        result = run(profile, seed)
        assert not result.failure, result.told()
        verifications += result.verifications
        repairs += result.repairs
    print(f"{verifications} verifications, {repairs} of them found something")
    assert verifications > 10


def _at_rest(schedule: Schedule) -> bool:
    """Nobody is at work any more, so it was the last look that saw it."""
    actors = (schedule.owner, *schedule.zombies, schedule.walk)
    return schedule.group.committed == len(schedule.world.log) and all(one is None or one.dead for one in actors)


def _no_newer_record_counts(known: Any, head: Any, chunks: Any, reach: Any, superseded: bool, replayed: bool) -> Any:
    return _wrong_with(known, head, chunks, reach, superseded=False, replayed=replayed)


def _the_same_stamp(head: Any) -> int:
    return head.stamp


def _nothing_is_other(head: Any, document: Any, lost: bool, begun: bool, other: bool) -> bool:
    return _reruns(head, document, lost, begun, other=False)


_wrong_with = judging.wrong_with
_reruns = guards.reruns

#: What verification or repair would lack, and schedules that show it.
WEAKER = {
    "look-once": Mutant("a second look", VERIFIED["verified-busy"], ((comparison, "LOOKS", 0),)),
    "log-read-once": Mutant(
        "the newer records beyond the ends",
        VERIFIED["verified-busy"],
        ((comparison, "wrong_with", _no_newer_record_counts),),
    ),
    "repair-same-stamp": Mutant(
        "attempt + 1 for a repair", VERIFIED["spoilt-calm"], ((guards, "rerun_stamp", _the_same_stamp),)
    ),
    "repair-only-losses": Mutant(
        "a replay that runs again as its head is another",
        VERIFIED["spoilt-calm"],
        ((guards, "reruns", _nothing_is_other),),
    ),
    "repair-no-sweep": Mutant(
        "the sweep of chunks that nobody knows",
        VERIFIED["spoilt-calm"],
        ((import_module("pipeline.verification.repair"), "sweep_headless", lambda collection, stamps: set(stamps)),),
    ),
}


#: Where to begin with those that one of a hundred schedules shows.
RARE = {"look-once": 85, "repair-same-stamp": 40}


@pytest.mark.parametrize("name", WEAKER)
def test_schedules_kill_a_weaker_verification(name: str) -> None:
    mutant = WEAKER[name]
    assert mutant.profile is not None
    first = RARE.get(name, 0)
    with mutant.applied():
        found = first_failure(mutant.profile, range(first, first + 150))
    assert found is not None, f"without {mutant.without}, 150 schedules of {mutant.profile.name} show nothing"
    assert found.failure.startswith("Diverged"), found.told()
    print(f"{name}: killed by schedule {found.seed}: {found.failure}")
