"""Step by step: each scenario holds, and no longer does when its guard is taken away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.migration_history import Violated
from tests.simulation.migration_mutants import MUTANTS
from tests.simulation.migration_scenarios import SCENARIOS

KILLS = [(scenario, mutant) for scenario, mutants in SCENARIOS for mutant in mutants]


def _name(one: object) -> str:
    return one if isinstance(one, str) else one.__name__  # type: ignore[attr-defined]


@pytest.mark.parametrize("scenario", [one for one, _ in SCENARIOS], ids=_name)
def test_holds_with_all_guards(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize(("scenario", "mutant"), KILLS, ids=_name)
def test_is_violated_without_the_guard(scenario: Callable[[], None], mutant: str) -> None:
    with MUTANTS[mutant].applied(), pytest.raises(Violated):
        scenario()
