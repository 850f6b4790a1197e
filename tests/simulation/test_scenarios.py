"""Step by step: each scenario holds, and no longer does when its guard is taken away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.requests import Diverged
from tests.simulation.scenarios import SCENARIOS

KILLS = [(scenario, mutant) for scenario, mutants in SCENARIOS for mutant in mutants]


@pytest.mark.parametrize("scenario", [one for one, _ in SCENARIOS], ids=lambda one: one.__name__)
def test_holds_with_all_guards(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize(("scenario", "mutant"), KILLS, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_diverges_without_the_guard(scenario: Callable[[], None], mutant: str) -> None:
    with MUTANTS[mutant].applied(), pytest.raises(Diverged):
        scenario()
