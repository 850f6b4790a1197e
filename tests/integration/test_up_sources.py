"""``vectide up`` with a source of every kind that a URI says, each of them real."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.contract.postgres_place import server
from tests.integration.test_up import CONFIGURATION
from tests.support.deployment import Deployment
from tests.support.object_store import KEY_ID, SECRET, object_store
from tests.support.postgres import PostgresServer
from tests.support.probing import until
from tests.support.repositories import Repository
from tests.support.website import Website

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

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
    until(lambda: up.said("Watching."), up.errors)
    after = made.quiet(1)
    for counter in ("documents_published", "chunks_embedded"):
        assert after[counter] == before[counter]
    assert up.stop() == 0, up.errors()
    assert not up.said(SECRET)
    assert json.loads(made.ask("search", WORDS["web"], "--json"))["hits"][0]["text"] == text(WORDS["web"]).strip()
