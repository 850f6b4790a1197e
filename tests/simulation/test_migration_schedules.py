"""Random schedules of migrations: whatever goes wrong, one generation is live, searches find what is there, and
every generation that is followed equals the log in the end.

``VECTIDE_SIM_MIGRATIONS`` sets how many schedules each profile runs (else it is derived from
``VECTIDE_SIM_SCHEDULES``), ``VECTIDE_SIM_SEED`` the first seed (make simulate). A failure prints its seed, the
command that runs it alone, and every request it made.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.migration_mutants import MUTANTS
from tests.simulation.migration_schedules import JOBS, OPERATORS, PROFILES, TOGETHER, Profile, run

#: A schedule of migrations takes as long as so many of the store protocol.
_AS_LONG_AS = 50
SCHEDULES = int(os.environ.get("VECTIDE_SIM_SCHEDULES", "0")) // _AS_LONG_AS
SCHEDULES = int(os.environ.get("VECTIDE_SIM_MIGRATIONS", SCHEDULES))
#: Fixed in make test, so that a failure there is of the change at hand; new ones in a soak.
FIRST = int(os.environ.get("VECTIDE_SIM_SEED") or (secrets.randbelow(1 << 40) if SCHEDULES else 0))

#: What the schedules of a profile must contain: none of the chances is dead.
CONTENTS = {
    OPERATORS.name: {"crash of an operator", "operator abort: done", "operator retire: done", "operator pause: done"},
    JOBS.name: {"crash of a job", "job migrate: done", "job migrate: Refused"},
    TOGETHER.name: {"operator cutover: Transient", "operator throttle: done", "ready -> building"},
}
EVERYWHERE = {
    *("crash of a worker", "freeze", "answers", "quiet", "switches"),
    *("operator rollback: done", "operator force: done", "operator cutover: done", "operator gate: done"),
    *("None -> live", "None -> building", "building -> ready", "building -> live", "building -> aborted"),
    *("building -> failed", "ready -> ready", "ready -> live", "ready -> aborted"),
    *("live -> previous", "live -> ready", "previous -> live", "previous -> retired"),
}


@pytest.mark.timeout(0 if SCHEDULES else 300)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_nothing_is_ever_violated(profile: Profile) -> None:
    seeds = range(FIRST, FIRST + (SCHEDULES or 40))
    print(f"profile {profile.name}, seeds {seeds.start} to {seeds.stop - 1}")
    found: Counter[str] = Counter()
    for seed in seeds:
        result = run(profile, seed)
        assert not result.failure, result.told()
        found.update(result.found)
    assert SCHEDULES or found.keys() >= EVERYWHERE | CONTENTS[profile.name]
    # Most searches meet documents that nobody is writing: those must all be found.
    assert found["quiet"] > 0.9 * found["answers"] > 0


def test_a_schedule_is_its_seed() -> None:
    """Given another hash seed of the interpreter, when a schedule runs again, then it makes the same requests."""
    script = (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "from tests.simulation.migration_schedules import PROFILES, Schedule\n"
        "for profile in PROFILES.values():\n"
        "    schedule = Schedule(profile, 3); schedule.play()\n"
        "    print([(at, who, what) for at, who, what, _ in schedule.timeline.trace])\n"
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
    assert len(traces[0].splitlines()) == len(PROFILES)


def test_a_failure_says_how_to_see_it_again() -> None:
    """Given a mutant, when a schedule violates something, then the text has profile, seed and requests, and the
    seed fails in the same way again.
    """
    with MUTANTS["two-live"].applied():
        found = next(result for seed in range(100) if (result := run(OPERATORS, seed)).failure)
        again = run(OPERATORS, found.seed)
    assert f"--profile operators --seed {found.seed}" in found.told()
    assert "commit transaction" in found.told()
    assert again.told() == found.told()
