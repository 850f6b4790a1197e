"""``vectide verify`` as an operator runs it: beside ``up``, alone, over planted faults, and after a repair."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.cli.verify import report_lines
from pipeline.codec import encode_event
from pipeline.deadline import Deadline
from pipeline.identity import DocumentKey
from pipeline.naming import Names
from pipeline.ports import NewRecord
from pipeline.records import DocumentChanged, Provenance
from pipeline.store.collection import PointCollection
from pipeline.store.edge import EdgeStore
from tests.support.deployment import Deployment
from tests.support.probing import until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

CONFIGURATION = """
[model]
provider = "hashing"
name = "hashing"
dimension = 32
[chunking]
max_tokens = 24
[embed]
delete_grace_seconds = 0.5
flush_seconds = 0.3
"""
SEED = 20260101
DOCUMENTS = 40
DIFFERS = 11


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents and their index, in step, with nothing running."""
    made = Deployment(tmp_path_factory.mktemp("built"), CONFIGURATION)
    random_ = random.Random(SEED)
    for number in range(DOCUMENTS):
        paragraphs = [" ".join(f"w{random_.randrange(3000)}" for _ in range(18)) + "." for _ in range(4)]
        (made.documents / f"d{number}.md").write_text(f"# Document {number}\n\n" + "\n\n".join(paragraphs) + "\n")
    try:
        made.start("up", "docs")
        made.quiet(DOCUMENTS)
        assert made.running[-1].stop() == 0
    finally:
        made.end()
    return made.folder


@pytest.fixture
def made(built: Path, tmp_path: Path) -> Iterator[Deployment]:
    """A copy of it."""
    made = Deployment(tmp_path, CONFIGURATION)
    for name in ("docs", ".vectide"):
        shutil.copytree(built / name, tmp_path / name, dirs_exist_ok=True)
    yield made
    made.end()


def verified(made: Deployment, *arguments: str, code: int = 0) -> dict[str, Any]:
    """``vectide verify --json``: its report."""
    found: dict[str, Any] = made.report("verify", *arguments, code=code)
    assert found["equal"] == (code == 0)
    return found


def kinds(report: dict[str, Any]) -> dict[str, tuple[int, list[str]]]:
    return {kind: (one["count"], one["examples"]) for kind, one in report["findings"].items() if one["count"]}


class Planting:
    """The store of a pipeline that has stopped, open for a forger."""

    def __init__(self, made: Deployment) -> None:
        self.store = EdgeStore(made.folder / ".vectide" / "store")
        (name,) = self.store.names("")
        self.collection: PointCollection = self.store.open(name)
        self.engine = self.collection._engine

    def chunks(self, path: str) -> list[Any]:
        """Points of a document's chunks with payload and vector, in reading order."""
        doc = DocumentKey("docs", path).doc
        listed = self.collection.heads([doc])[doc].chunks
        found = {one.id: one for one in self.engine.retrieve([one.id for one in listed], payload=True, vector=True)}
        return [found[one.id] for one in listed]

    def write(self, point: Any, vector: Any, **payload: Any) -> None:
        self.engine.upsert([(point.id, np.asarray(vector, np.float32), {**point.payload, **payload})], None, "upsert")

    def delete(self, *ids: str) -> None:
        self.engine.delete({"must": [{"has_id": list(ids)}]})


def test_an_index_is_verified_while_up_runs_and_after(made: Deployment) -> None:
    made.start("up", "docs")
    status = made.quiet(DOCUMENTS)
    assert list(status["verified"].values()) == [None]
    live = verified(made, "--sample", "30", "--seed", "7", "--source")
    assert (live["documents"], live["unserved"]["count"], kinds(live)) == (DOCUMENTS, 0, {})
    assert "none of 30 random chunks is wrong" in live["sample"]["statement"]
    assert "seed 7" in live["sample"]["statement"]
    assert [(one["source"], one["ok"], one["documents"]) for one in live["sources"]] == [("docs", True, 40)]
    (last,) = made.status()["verified"].values()
    assert (last["ok"], last["by"], last["documents"], last["vectors"]) == (True, "command", 40, 30)
    assert "ago, 40 documents, 30 vectors: equal to the log" in made.ask("status")
    assert made.running[-1].stop() == 0
    alone = verified(made, "--full")
    assert (alone["full"]["documents"], alone["full"]["resumed"]) == (40, False)
    assert alone["full"]["chunks"] == status["chunks"]
    told = made.ask("verify")
    assert "verdict       the collection equals the log" in told
    # What `up` was given is known after it has ended.
    assert [(one["source"], one["ok"]) for one in verified(made, "--source")["sources"]] == [("docs", True)]
    (made.folder / ".vectide" / "sources.json").unlink()
    assert "no source is configured" in made.ask("verify", "--source", code=2)
    assert "there is no generation gx that is kept in step" in made.ask("verify", "--generation", "gx", code=8)


#: The command, in small steps, of which it does not end the one after twelve documents: so that it is killed in the
#: middle, not at an end.
HANGING = """
import json
import pathlib
import time
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.verification import full, log
embed = HashingEmbedder.embed_documents
def hanging(self, texts):
    for point in pathlib.Path(".vectide").glob("verify-*.json"):
        if json.loads(point.read_text())["documents"] >= 12:
            time.sleep(600)
    return embed(self, texts)
HashingEmbedder.embed_documents = hanging
log._PAGE, full._SAVE_SECONDS = 4, 0.0
from pipeline.cli import main
main()
"""


def test_a_full_verification_that_is_killed_goes_on_where_it_was(made: Deployment) -> None:
    with subprocess.Popen([sys.executable, "-c", HANGING, "verify", "--full"], cwd=made.folder) as killed:
        try:
            until(lambda: killed.poll() is not None or any(looked_at(one) >= 12 for one in checkpoints(made)))
            assert killed.poll() is None
        finally:
            killed.kill()
    left = checkpoints(made)
    assert 12 <= looked_at(left[0]) < 40
    kept = json.loads(left[0].read_text())
    report = verified(made, "--full")
    chunks = report["points"] - DOCUMENTS
    assert report["full"] == {"documents": DOCUMENTS, "chunks": chunks, "resumed": True, "more": 0, "unchecked": 0}
    assert not left[0].exists()
    # One of another generation is refused, and nothing is thrown away.
    left[0].write_text(json.dumps({**kept, "generation": "gx"}))
    assert "is of generation gx" in made.ask("verify", "--full", code=8)


def checkpoints(made: Deployment) -> list[Path]:
    return [*(made.folder / ".vectide").glob("verify-*.json")]


def looked_at(checkpoint: Path) -> int:
    """Documents."""
    try:
        return int(json.loads(checkpoint.read_text())["documents"])
    except FileNotFoundError:
        return 0  # it is over


def test_planted_faults_are_found_named_repaired_and_gone(made: Deployment) -> None:
    """Given faults of every kind that a hand can make, then each is found as what it is, by a look that
    can see it, repaired without touching anything else, and not found again.
    """
    planting = Planting(made)
    planting.delete(DocumentKey("docs", "d1.md").doc)
    planting.delete(planting.chunks("d2.md")[1].id)
    one, other = planting.chunks("d3.md")[0], planting.chunks("d4.md")[0]
    planting.write(one, other.vector["text"])
    planting.write(other, np.full(32, np.nan))
    forged = planting.chunks("d5.md")[2]
    planting.write(forged, forged.vector["text"], text="Something else stands here.")
    before = planting.collection.heads([DocumentKey("docs", "d9.md").doc])
    planting.store.close()
    # By counts: what is not there
    counted = verified(made, code=DIFFERS)
    assert kinds(counted) == {"missing": (1, ["docs:d1.md"]), "unfinished": (1, ["docs:d2.md"])}
    # By looking at every point: what is wrong in them as well
    looked = verified(made, "--full", code=DIFFERS)
    assert kinds(looked) == {
        "missing": (1, ["docs:d1.md"]),
        "unfinished": (1, ["docs:d2.md"]),
        "wrong vector": (3, sorted(looked["findings"]["wrong vector"]["examples"])),
        "wrong text": (1, ["docs:d5.md"]),
    }
    assert set(looked["findings"]["wrong vector"]["examples"]) == {"docs:d3.md", "docs:d4.md", "docs:d5.md"}
    repaired = verified(made, "--full", "--fix")
    assert kinds(repaired) == kinds(looked)
    assert kinds(repaired["again"]) == {}
    assert sum(repaired["repaired"]["documents"].values()) == 5
    told = "\n".join(report_lines(repaired))
    assert "verified again none" in told
    assert "verdict       the collection equals the log, after the repair" in told
    assert made.embedded_differences("docs") == []
    planting = Planting(made)
    assert planting.collection.heads([DocumentKey("docs", "d9.md").doc]) == before, "what was right was not touched"
    planting.store.close()


def test_what_the_store_has_not_applied_is_not_wrong(made: Deployment) -> None:
    broker = EmbeddedBroker(made.folder / ".vectide" / "log")
    event = DocumentChanged(DocumentKey("docs", "new.md"), "text", {}, "text/markdown", "d", Provenance(1.0))
    topic = Names("vectide", "default").documents(0)
    broker.publisher("t").publish([NewRecord(topic, *encode_event(event))], Deadline.after(5))
    broker.close()
    told = made.ask("verify", "--wait", "1", code=7)
    assert "1 records behind the log" in told
    assert "is a worker running?" in told


def test_a_source_that_differs_from_the_log_is_named_and_left_to_its_connector(made: Deployment) -> None:
    (made.folder / "vectide.toml").write_text(
        CONFIGURATION + '[sources.docs]\nconnector = "filesystem"\npath = "docs"\n'
    )
    (made.documents / "d0.md").write_text("# Another text\n")
    (made.documents / "d1.md").unlink()
    (made.documents / "new.md").write_text("# New\n")
    report = verified(made, "--source", code=DIFFERS)
    (source,) = report["sources"]
    assert {kind: one["examples"] for kind, one in source["findings"].items()} == {
        "missing from the log": ["docs:new.md"],
        "forgotten, and in the log": [],
        "stale in the log": ["docs:d0.md"],
        "deleted at the source": ["docs:d1.md"],
    }
    assert report["ok"], "the store equals the log all the same"
    told = "\n".join(report_lines(report))
    assert "source docs   40 documents" in told
    assert "the connector's next scan mends" in told
    assert "verdict       different" in told
