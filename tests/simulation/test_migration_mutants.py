"""Every guard of migrations is needed: without it some schedule violates something."""

from __future__ import annotations

import pytest

from tests.simulation.migration_mutants import MUTANTS
from tests.simulation.migration_scenarios import SCENARIOS
from tests.simulation.migration_schedules import first_failure

#: Most show in one of about 20 schedules.
COUNT = 150
#: Those that show in one of about 100, and where to begin with them.
RARE = {"gate-unexamined": 138, "rollback-anyway": 135}
#: Each of its schedules is long: a minute in all.
LONG = {"gate-unexamined": 300}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.timeout(LONG[name]) if name in LONG else ())
        for name, mutant in MUTANTS.items()
        if mutant.profile is not None
    ],
)
def test_random_schedules_kill(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.profile is not None
    with mutant.applied():
        found = first_failure(mutant.profile, range(RARE.get(name, 0), RARE.get(name, 0) + COUNT))
    assert found is not None, f"without {mutant.without}, {COUNT} schedules of {mutant.profile.name} go well"
    assert found.failure.startswith("Violated"), found.told()
    print(f"{name}: killed by schedule {found.seed} of {found.profile}: {found.failure}")


def test_every_mutant_is_killed_by_schedules_or_a_scenario() -> None:
    by_scenario = {mutant for _, mutants in SCENARIOS for mutant in mutants}
    assert {name for name, mutant in MUTANTS.items() if mutant.profile is None} <= by_scenario
    assert by_scenario <= MUTANTS.keys()
