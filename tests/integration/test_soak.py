"""A minute of the soak: real parts, a storm of faults, a migration, and the store is the writer's truth."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.soak.faults import storms
from tests.soak.report import last_line
from tests.soak.running import Settings, run
from tests.soak.truth import Truth, Writer, on_disk
from tests.support.absence import absent
from tests.support.kafka import Missing, check


@pytest.fixture
def kafka_jars() -> None:
    try:
        check()
    except Missing as missing:
        absent(missing)


@pytest.mark.kafka
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_minute_of_faults_breaks_nothing(kafka_jars: None, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}: python -m tests.soak --minutes 1 --seed {seed}")
    settings = Settings(0.7, seed, documents=50, per_second=2.0, storm_seconds=28.0, calm_seconds=4.0, rest_seconds=0.4)
    report = run(settings, tmp_path)
    print(last_line(report))
    assert report["violations"] == {}, report["examples"]
    assert report["storms"] == 1
    assert sum(report["operations"].values()) > 60
    assert sum(report["faults"].values()) > 4
    assert report["migrations"]["cutovers"] == 2
    assert report["searches"]["known documents asked for"] > 10


@pytest.mark.kafka
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_a_guard_that_is_off_is_found(kafka_jars: None, tmp_path: Path) -> None:
    """Given workers that write no head for a document that fails, then the first quiet point finds it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}: python -m tests.soak --minutes 1 --mutant failure-no-head --seed {seed}")
    settings = Settings(0.1, seed, documents=20, mutant="failure-no-head", sure_seconds=2.0)
    report = run(settings, tmp_path)
    print(last_line(report))
    assert report["violations"].get("store is not the truth"), report["violations"]
    assert any("poison-" in example for example in report["examples"])


def test_a_seed_decides_the_faults_and_what_is_written(tmp_path: Path) -> None:
    assert storms(5, 6, 75.0, 6.0, 3) == storms(5, 6, 75.0, 6.0, 3)
    assert storms(5, 6, 75.0, 6.0, 3) != storms(6, 6, 75.0, 6.0, 3)
    written = []
    for run_ in "ab":
        folder = tmp_path / run_ / "docs"
        folder.mkdir(parents=True)
        truth = Truth()
        writer = Writer(folder, truth, random.Random(5), 40)
        writer.fill()
        for _ in range(400):
            writer.change()
        written.append(on_disk(folder))
        assert written[-1] == {path: document.text for path, document in truth.documents.items()}
        # What is there now is recorded as not ended, and what has ended as ended.
        there = {(path, marker) for path, one in truth.documents.items() for marker in one.markers}
        assert {at for at, span in truth.texts.items() if span.until == float("inf")} == there
    assert written[0] == written[1]
