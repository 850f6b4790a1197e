"""An upgrade of what reads documents: all of them are read again, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.extraction import formats
from connectors.extraction.formats import Extracted
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.ports import Fetched
from tests.support.object_store import KEY_ID, SECRET, object_store
from tests.support.repositories import Repository
from tests.support.website import Website
from tests.unit.connectors.test_git import listed

PAGE = "<html><body><h1>Tides</h1></body></html>"


@pytest.fixture
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, object]]:
    """Settings of a source that has one page of HTML."""
    place, path = tmp_path / "place", request.getfixturevalue("path")
    match request.param:
        case "filesystem":
            place.mkdir()
            (place / path).write_text(PAGE)
            yield {"path": str(place)}
        case "git":
            repository = Repository(place)
            repository.put(path, PAGE)
            yield {"repository": str(repository.folder)}
        case "s3":
            server = object_store()
            bucket = server.bucket()
            server.client().put_object(Bucket=bucket, Key=path, Body=PAGE.encode(), ContentType="text/html")
            yield {"bucket": bucket, "endpoint_url": server.url, "access_key_id": KEY_ID, "secret_access_key": SECRET}
        case _:
            with closing(Website()) as site:
                site.put(f"/{path}", PAGE)
                yield {"sitemaps": [f"{site.url}/sitemap.xml"], "pages_per_second": 1000}


@pytest.mark.parametrize(
    ("connector", "table", "path"),
    [
        ("filesystem", "filesystem", "a.html"),
        ("git", "git", "a.html"),
        ("s3", "s3", "a.html"),
        ("s3", "s3", "by its content type"),
        ("web", "web", "a.html"),
    ],
    indirect=["table"],
)
def test_a_better_reader_is_another_revision_and_what_is_there_is_read_with_it(
    connector: str, table: dict[str, object], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SourceConfig.model_validate({"connector": connector, **table})

    def looked() -> tuple[str, str | None]:
        """As after a restart: its revision in the listing, and its text."""
        with closing(open_source("s", config, 64 * 1024, tmp_path / "state")) as source:
            revisions = listed(source)
            found = source.fetch(path)
        assert isinstance(found, Fetched)
        assert revisions == {path: found.revision}
        return found.revision, found.text

    before = looked()
    assert before[1] == "# Tides\n"
    assert looked() == before, "nothing has changed"
    better = replace(formats.HTML, version=99, extract=lambda text, path: Extracted("better", "text/markdown"))
    monkeypatch.setitem(formats.FORMATS, ".html", better)
    after = looked()
    assert after[0] != before[0]
    assert after[1] == "better"
