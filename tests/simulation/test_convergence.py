"""Random schedules of the real protocol: whatever goes wrong, store and log agree in the end.

``VECTIDE_SIM_SCHEDULES`` sets how many schedules each profile runs, ``VECTIDE_SIM_SEED`` the first seed
(make simulate). A failure prints its seed, the command that runs it alone, and every request it made.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from pipeline.store.memory import MemoryCollection
from tests.simulation.mutants import MUTANTS
from tests.simulation.profiles import CRASHES, CROWD, POWER, PROFILES, Profile
from tests.simulation.schedules import Schedule, first_failure, run
from tests.simulation.world import SPEC

SCHEDULES = int(os.environ.get("VECTIDE_SIM_SCHEDULES", "0"))
#: Fixed in make test, so that a failure there is of the change at hand; new ones in a soak.
FIRST = int(os.environ.get("VECTIDE_SIM_SEED") or (secrets.randbelow(1 << 40) if SCHEDULES else 0))


@pytest.mark.timeout(0 if SCHEDULES else 180)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_store_and_log_agree(profile: Profile) -> None:
    seeds = range(FIRST, FIRST + (SCHEDULES or 800))
    print(f"profile {profile.name}, seeds {seeds.start} to {seeds.stop - 1}")
    found = first_failure(profile, seeds)
    assert found is None, found.told() if found else ""


def test_a_schedule_is_its_seed() -> None:
    """Given another hash seed of the interpreter, when a schedule runs again, then it makes the same requests."""
    script = (
        "from tests.simulation.schedules import Schedule; from tests.simulation.profiles import CROWD\n"
        "from tests.simulation.world import SPEC; from pipeline.store.memory import MemoryCollection\n"
        "for seed in range(20):\n"
        "    schedule = Schedule(CROWD, seed, MemoryCollection(SPEC)); schedule.play()\n"
        "    print([(who, what) for who, what, _ in schedule.moments.trace])\n"
    )
    traces = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) == 20


def test_schedules_contain_what_they_are_about() -> None:
    """Given the profile with everything, when some schedules run, then zombies, deaths, torn requests, losses
    by compaction, failures and the repair walk all occur: none of the chances is dead.
    """
    seen: set[str] = set()
    for profile in (CROWD, POWER):
        for seed in range(60):
            schedule = Schedule(profile, seed, MemoryCollection(SPEC))
            schedule.play()
            seen |= {what for _, what, _ in schedule.moments.trace}
            seen |= {who.rstrip("0123456789") for who, _, _ in schedule.moments.trace}
            seen |= {"zombie"} if schedule.zombies else set()
            seen |= {"compacted"} if schedule.world.compacted else set()
            seen |= {"broken"} if schedule.world.ever_broken else set()
            seen |= {head.state for head in schedule.collection.scan_heads()[0]}
    assert seen >= {
        *("zombie", "DIES", "POWER CUT", "no answer", "repair", "compacted", "broken", "flush", "commit"),
        *("complete", "incomplete", "failed", "omitted", "deleted"),
        *("upsert chunks", "insert heads", "replace heads", "sweep", "align", "which are misaligned"),
    }


def test_a_failure_says_how_to_see_it_again() -> None:
    """Given a mutant, when a schedule diverges, then the text has profile, seed and requests, and the seed
    fails in the same way again.
    """
    with MUTANTS["head-first"].applied():
        found = first_failure(CRASHES, range(100))
        assert found is not None
        again = run(CRASHES, found.seed)
    assert f"--profile crashes --seed {found.seed}" in found.told()
    assert "insert heads" in found.told()
    assert again.told() == found.told()
