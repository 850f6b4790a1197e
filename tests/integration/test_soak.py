"""A minute of the soak: real parts, a storm of faults, a migration, and the store is the writer's truth."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.soak.running import Settings, last_line, run
from tests.support.kafka import Missing, check

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def _kafka() -> None:
    try:
        check()
    except Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def test_a_minute_of_faults_breaks_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}: python -m tests.soak --minutes 1 --seed {seed}")
    report = run(Settings(0.9, seed, documents=60, per_second=3.0, storm_seconds=35.0, calm_seconds=5.0), tmp_path)
    print(last_line(report))
    assert report["violations"] == {}, report["examples"]
    assert report["storms"] == 1
    assert sum(report["operations"].values()) > 60
    assert sum(report["faults"].values()) > 4
    assert report["migrations"]["cutovers"] == 2
    assert report["searches"]["known documents asked for"] > 10
