"""``vectide up`` as a user runs it, and as a machine that fails under it does."""

from __future__ import annotations

import json
import random
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pipeline.store.edge import EdgeStore
from tests.contract.postgres_place import server
from tests.support.deployment import Deployment
from tests.support.object_store import KEY_ID, SECRET, object_store
from tests.support.postgres import PostgresServer
from tests.support.probing import until, until_said
from tests.support.repositories import Repository
from tests.support.website import Website

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

CONFIGURATION = """
[model]
provider = "hashing"
name = "hashing"
[embed]
delete_grace_seconds = 0.5
flush_seconds = 0.3
"""


#: Where each document is to be found, by a word that stands in no other.
WORDS = {"folder": "lighthouse", "git": "harbour", "postgres": "estuary", "s3": "mudflat", "web": "breakwater"}
CHANGED = ("pier", "quay", "delta", "shoal")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, CONFIGURATION)
    yield made
    made.end()


@pytest.fixture
def database() -> Iterator[tuple[PostgresServer, str]]:
    found, name = server(), f"up_{uuid.uuid4().hex[:10]}"
    found.execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
    found.execute(name, "CREATE TABLE articles (id int PRIMARY KEY, body text)")
    yield found, name
    found.drop_database(name)


def text(word: str) -> str:
    return f"# A note\n\nThis one is about the {word}, and about nothing else.\n"


def first(made: Deployment, word: str) -> str:
    """The text of the best hit."""
    hits = made.look("search", word)["hits"]
    return str(hits[0]["text"]) if hits else ""


def fill(folder: Path, count: int, random_: random.Random) -> None:
    for number in range(count):
        words = " ".join(f"w{random_.randrange(3000)}" for _ in range(120))
        (folder / f"d{number}.md").write_text(f"# Document {number}\n\n{words}\n\nThe end of {number}.\n")


def test_a_folder_is_searchable_while_up_runs_and_after(made: Deployment) -> None:
    (made.documents / "tide.md").write_text("# Tide\n\nThe lighthouse keeper records the tide.\n")
    (made.documents / "bread.md").write_text("# Bread\n\nKnead the dough and let it rest.\n")
    up = made.start("up", "docs")
    status = made.quiet(2)
    names = ("documents", "chunks", "lag", "dead_letters", "chunks_embedded", "chunks_reused")
    assert all(isinstance(status[name], int) for name in names)
    assert isinstance(status["oldest_unprocessed_event_age_seconds"], float | int)
    assert status["generation"]["model"] == "hashing"
    assert [worker["role"] for worker in status["workers"]] == ["up"]
    live = json.loads(made.ask("search", "lighthouse keeper", "--json"))
    assert live["hits"][0]["key"] == "docs:tide.md"
    assert live["hits"][0]["text"] == "# Tide\n\nThe lighthouse keeper records the tide."
    assert live["hits"][0]["span"] == [0, 47]
    only = json.loads(made.ask("search", "lighthouse", "--json", "--filter", "media_type=text/plain"))
    assert only["hits"] == []
    assert up.stop() == 0
    after = json.loads(made.ask("search", "lighthouse keeper", "--json"))
    assert [hit["key"] for hit in after["hits"]] == [hit["key"] for hit in live["hits"]]
    assert made.status()["chunks_embedded"] == status["chunks_embedded"], "counters survive the process"


def test_one_up_keeps_sources_of_five_kinds_in_step(made: Deployment, database: tuple[PostgresServer, str]) -> None:
    """Given a folder, a repository, a table, a bucket and a site with a document each, when one command is told of
    all, then each is found, a change of each but the site is followed, and a restart publishes nothing again.
    """
    (made.documents / "note.md").write_text(text(WORDS["folder"]))
    repository = Repository(made.folder / "repository")
    repository.write("note.md", text(WORDS["git"]))
    repository.commit()
    postgres, name = database
    postgres.execute(name, f"INSERT INTO articles VALUES (1, '{text(WORDS['postgres'])}')")
    store = object_store()
    bucket = store.bucket()
    queue = store.queue(bucket)
    store.client().put_object(Bucket=bucket, Key="notes/note.md", Body=text(WORDS["s3"]).encode())
    site = Website()
    site.put("/note.md", text(WORDS["web"]), type="text/markdown")
    s3 = urlencode({"region": "us-east-1", "endpoint_url": store.url, "queue_url": queue})
    uris = (
        "docs",
        f"git+file://{repository.folder}",
        f"{postgres.url(name)}?{urlencode({'table': 'articles', 'text': '{body}'})}",
        f"s3://{bucket}/notes#{s3}",
        f"{site.url}/sitemap.xml",
    )
    secrets = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    up = made.start("up", *uris, **secrets)
    made.quiet(5)
    for word in WORDS.values():
        assert word in first(made, word)
    (made.documents / "note.md").write_text(text("pier"))
    repository.write("note.md", text("quay"))
    repository.commit()
    postgres.execute(name, f"UPDATE articles SET body = '{text('delta')}'")
    store.client().put_object(Bucket=bucket, Key="notes/note.md", Body=text("shoal").encode())
    for word in CHANGED:
        until(partial(lambda word: word in first(made, word), word), up.errors)
    (made.documents / "note.md").unlink()
    repository.git("rm", "--quiet", "note.md")
    repository.commit()
    postgres.execute(name, "DELETE FROM articles")
    store.client().delete_object(Bucket=bucket, Key="notes/note.md")
    before = made.quiet(1)
    for word in CHANGED:
        assert word not in first(made, word)
    assert up.stop() == 0, up.errors()
    up = made.start("up", *uris, **secrets)
    until_said(up, "Watching.")
    after = made.quiet(1)
    for counter in ("documents_published", "chunks_embedded"):
        assert after[counter] == before[counter]
    assert up.stop() == 0, up.errors()
    assert not up.said(SECRET)
    assert json.loads(made.ask("search", WORDS["web"], "--json"))["hits"][0]["text"] == text(WORDS["web"]).strip()


def test_an_up_that_is_killed_twenty_times_ends_with_the_store_as_the_files(made: Deployment) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    fill(made.documents, 150, random_)
    for turn in range(20):
        up = made.begin("up", "docs")
        # From before its first read on; each other time in the sync, however long a start takes here.
        if turn % 2:
            up.ready()
        time.sleep(random_.uniform(0.0, 0.8) if turn % 2 else random_.uniform(0.2, 1.6))
        up.kill()
        number = random_.randrange(150)
        (made.documents / f"d{number}.md").write_text(f"# Again {random_.random()}\n\nedited {number}\n")
        (made.documents / f"d{random_.randrange(150)}.md").unlink(missing_ok=True)
    up = made.start("up", "docs")
    until_said(up, "Watching.")  # until it has scanned, there may be as many documents
    made.quiet(len(made.truth()))
    assert up.stop() == 0
    store = EdgeStore(made.folder / ".vectide" / "store")
    (name,) = store.names("vectide.default.")
    assert made.differences(store.open(name), "docs") == []
    # The check itself must be able to fail.
    (made.documents / "d0.md").write_text("another text\n")
    assert len(made.differences(store.open(name), "docs")) == 1
    store.close()


def test_a_restart_with_nothing_changed_does_nothing(made: Deployment) -> None:
    fill(made.documents, 20, random.Random(1))
    made.start("up", "docs")
    before = made.quiet(20)
    assert made.running[-1].stop() == 0
    up = made.start("up", "docs")
    until_said(up, "Watching.")  # it has scanned again
    after = made.quiet(20)
    for name in ("chunks_embedded", "documents_published", "chunks_reused"):
        assert after[name] == before[name]


def test_a_document_over_the_limit_that_replaces_a_small_one_is_seen(made: Deployment) -> None:
    (made.folder / "vectide.toml").write_text(CONFIGURATION + "[pipeline]\ndocument_limit_bytes = 10000\n")
    path = made.documents / "grows.md"
    path.write_text("# Small\n\nsearchable for now\n")
    made.start("up", "docs")
    made.quiet(1)
    path.write_text("# Large\n\n" + "word " * 5000)
    deadline = time.monotonic() + 60
    while made.status()["omitted"] != 1:
        assert time.monotonic() < deadline
        time.sleep(0.7)
    hit = json.loads(made.ask("search", "searchable for now", "--json"))["hits"][0]
    assert hit["state"] == "omitted", "readers can tell that the text is older"


def test_bad_starts_say_what_to_do(made: Deployment) -> None:
    assert "is not a folder" in made.ask("up", "nowhere", code=2)
    assert "no index" in made.ask("search", "x", code=2)
    (made.documents / "a.md").write_text("text")
    up = made.start("up", "docs")
    assert "in use by process" in made.ask("up", "docs", code=6)
    up.kill()
    assert made.ask("status"), "what a killed process left of its endpoint is no obstacle"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (made.folder / "vectide.toml").write_text(CONFIGURATION + f"[http]\nport = {port}\n")
        assert f"cannot listen on 127.0.0.1:{port}" in made.ask("up", "docs", code=2)
    (made.folder / "vectide.toml").write_text("[pipelin]\nname = 'x'\n")
    assert "did you mean 'pipeline'" in made.ask("up", "docs", code=2)


def test_another_model_than_the_live_one_is_refused(made: Deployment) -> None:
    (made.documents / "a.md").write_text("text")
    made.start("up", "docs")
    made.quiet(1)
    assert made.running[-1].stop() == 0
    (made.folder / "vectide.toml").write_text(
        CONFIGURATION.replace('name = "hashing"', 'name = "hashing"\ndimension = 64')
    )
    assert "model.dimension is 256, configured is 64" in made.ask("up", "docs", code=5)


def test_a_lost_state_folder_is_built_again(made: Deployment) -> None:
    fill(made.documents, 5, random.Random(2))
    made.start("up", "docs")
    made.quiet(5)
    assert made.running[-1].stop() == 0
    shutil.rmtree(made.folder / ".vectide")
    made.start("up", "docs")
    made.quiet(5)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"made_by": "somebody else"}, "vectide did not make it"), ({"dimension": 64}, "dimension 64, not 256")],
)
def test_a_collection_that_is_not_this_index_s_is_never_written(
    made: Deployment, change: dict[str, object], says: str
) -> None:
    (made.documents / "a.md").write_text("text")
    made.start("up", "docs")
    made.quiet(1)
    assert made.running[-1].stop() == 0
    (described,) = (made.folder / ".vectide" / "store").glob("*/collection.json")
    described.write_text(json.dumps({**json.loads(described.read_text()), **change}))
    assert says in made.ask("up", "docs", code=5)


def test_a_collection_that_is_gone_is_said_and_never_replaced_by_an_empty_one(made: Deployment) -> None:
    """Given a filled store whose folder was deleted, then `up` stops with what to do, and that works."""
    (made.documents / "tide.md").write_text("# Tide\n\nThe lighthouse keeper records the tide.\n")
    up = made.start("up", "docs")
    made.quiet(1)
    time.sleep(1)
    assert up.stop() == 0
    shutil.rmtree(made.folder / ".vectide" / "store")
    told = made.ask("up", "docs", code=5)
    assert "was filled before, and is gone" in told
    assert "delete the state folder" in told
    shutil.rmtree(made.folder / ".vectide")
    up = made.start("up", "docs")
    made.quiet(1)
    assert up.stop() == 0
