"""Sources given as arguments: folders and URIs, their names, and what is remembered of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from connectors.registry import scheme_of
from pipeline.cli.given import given_sources, no_longer_given, remember, remembered
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError


def test_folders_and_uris_are_named_by_their_last_parts(tmp_path: Path) -> None:
    for name in ("notes", "other/notes", "odd:name"):
        (tmp_path / name).mkdir(parents=True)
    found = given_sources([str(tmp_path / "notes"), "git+https://host/team/handbook.git#branch=main"])
    assert {id: one.connector for id, one in found.items()} == {"notes": "filesystem", "handbook": "git"}
    assert found["handbook"].settings == {"repository": "https://host/team/handbook.git", "branch": "main"}
    both = given_sources([str(tmp_path / "other/notes"), "git://host/team/notes.git"])
    assert set(both) == {"other-notes", "team-notes"}
    assert set(given_sources([str(tmp_path / "odd:name")])) == {"odd:name"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["https://h.example/sitemap.xml"], {"h.example"}),
        (["https://h.example", "https://i.example/sitemap.xml"], {"h.example", "i.example"}),
        (["HTTPS://H.example/guide/", "https://h.example/a/b/sitemap.xml"], {"h.example-guide", "h.example-a-b"}),
        (["https://h/sitemap.xml", "https://h/feed.xml", "https://h"], {"h-sitemap.xml", "h-feed.xml", "h"}),
        (["http://h:8080/s.xml", "http://h:8081/s.xml"], {"h:8080-s.xml", "h:8081-s.xml"}),
        (["http://h/s.xml", "https://h/s.xml"], {"http-h-s.xml", "https-h-s.xml"}),
        (["https://h/feed.xml?a", "https://h/feed.xml?b"], None),
        (["https://h-a/b.xml", "https://h/a/b.xml"], {"h-a-b.xml"}),
    ],
)
def test_a_site_is_named_by_its_host_and_two_sources_never_have_one_name(
    arguments: list[str], expected: set[str] | None
) -> None:
    if expected is None or len(expected) < len(arguments):
        with pytest.raises(ConfigError, match=r"\[sources.NAME\]"):
            given_sources(arguments)
    else:
        assert set(given_sources(arguments)) == expected


def test_a_folder_whose_name_is_not_utf_8_names_a_source_that_can_be_written(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xffoo"))
    folder.mkdir()
    (name,) = given_sources([str(folder)])
    assert name == "f\\xffoo"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["gopher://host/x"], "no connector knows gopher://; installed are git://"),
        (["git://host/x", "git://host/x"], "is given twice"),
        (["git://host/x", "git+https://host/x"], "the same name"),
        (["git+https://me:hunter2@host/x", "git+https://me:hunter2@host/x"], "is given twice"),
        (["/nowhere/at/all"], "is not a folder"),
        (["git+https://me:hunter2@[h/x"], "see docs/connectors.md"),
    ],
)
def test_what_is_wrong_is_named_without_its_password(arguments: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        given_sources(arguments)
    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_path_with_a_colon_is_no_uri() -> None:
    assert [scheme_of(one) for one in ("docs", "./a://b", "C://x", "git+SSH://h/x", "host:path")] == [
        None, None, None, "git+ssh", None,
    ]  # fmt: skip


def test_what_holds_a_secret_is_not_remembered(tmp_path: Path) -> None:
    plain = SourceConfig.model_validate({"path": "/srv/docs"})
    secret = {"connector": "git", "repository": "https://h/x", "password": "hunter2"}
    within = {"connector": "git", "repository": "https://me:hunter2@h/x"}
    sources = {"docs": plain} | {id: SourceConfig.model_validate(one) for id, one in (("a", secret), ("b", within))}
    remember(tmp_path, sources)
    assert remembered(tmp_path) == {"docs": plain}
    assert "hunter2" not in (tmp_path / "sources.json").read_text()


def test_a_source_that_is_not_given_any_more_is_told_with_what_deletes_it(tmp_path: Path) -> None:
    plain = SourceConfig.model_validate({"path": "/srv/docs"})
    assert no_longer_given(tmp_path, {"docs": plain}) == []
    remember(tmp_path, {"docs": plain, "my notes": plain})
    (line,) = no_longer_given(tmp_path, {"docs": plain, "new": plain})
    assert "source my notes is not given any more" in line
    assert "`vectide forget --source 'my notes'`" in line
    assert no_longer_given(tmp_path, ["docs", "my notes"]) == []


def test_a_folder_of_a_user_that_is_not_there_is_none_and_so_is_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for given in ("~nosuchuser/notes", str(tmp_path / "circle")):
        with pytest.raises(ConfigError, match=f"{given} is not a folder"):
            given_sources([given])


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', json.dumps({"a": {"rescan_seconds": -1}})])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.json").write_text(text)
    assert remembered(tmp_path) == {}
