"""Some of the schedules on the real engine: it judges the conditions as the memory store does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.ports import Collection
from pipeline.store.edge import EdgeStore
from tests.simulation.mutants import MUTANTS
from tests.simulation.profiles import CALM, CRASHES, CROWD, FAILURES, GRANTS, PERMISSIONS, ZOMBIES, Profile
from tests.simulation.schedules import first_failure, run
from tests.simulation.world import SPEC

#: Documents and texts carry profile and seed in their names, so all schedules share one collection.
SEEDS = range(25)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    directory: Path = tmp_path_factory.mktemp("edge")
    store = EdgeStore(directory)
    yield store.create(SPEC)
    store.close()


@pytest.mark.parametrize(
    "profile", [CALM, CRASHES, ZOMBIES, CROWD, FAILURES, PERMISSIONS, GRANTS], ids=lambda profile: profile.name
)
def test_engine_and_log_agree(profile: Profile, collection: Collection) -> None:
    print(f"profile {profile.name}, seeds {SEEDS.start} to {SEEDS.stop - 1}, on qdrant-edge")
    found = first_failure(profile, SEEDS, lambda: collection)
    assert found is None, found.told() if found else ""


def test_the_engine_shows_a_missing_guard(collection: Collection) -> None:
    """Given heads before chunks, when schedules run on the engine, then one diverges."""
    with MUTANTS["head-first"].applied():
        assert any(run(CRASHES, 1_000 + seed, collection).failure.startswith("Diverged") for seed in range(5))
