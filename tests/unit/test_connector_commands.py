"""``vectide certify`` and ``vectide connect --dry-run`` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import cli
from pipeline.errors import ConfigError
from tests.support.repositories import Repository

CHECKS = ["--only", "an-empty-place-lists-nothing", "--only", "metadata-are-scalars-and-lists-of-text"]


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_a_place_is_certified_and_the_exit_code_says_it() -> None:
    passed = ran("certify", "tests.contract.places:MemoryPlace", *CHECKS)
    assert passed.exit_code == 0
    assert "certified: 2 passed, 0 failed, 0 not shown" in passed.output
    refused = ran("certify", "tests.contract.test_certification:NESTING", *CHECKS, "--json")
    assert refused.exit_code == 12
    report = json.loads(refused.stdout)
    assert (report["ok"], report["passed"], report["failed"], report["not_shown"]) == (False, 1, 1, 0)
    assert [one["verdict"] for one in report["checks"]] == ["passed", "failed"]
    assert "'author'" in report["checks"][1]["detail"]


def test_what_cannot_be_shown_alone_is_no_certificate() -> None:
    found = ran("certify", "tests.contract.test_certification:Bare", "--only", "secrets-are-not-shown")
    assert found.exit_code == 12
    assert "refused: 0 passed, 0 failed, 1 not shown" in found.output


def test_the_checks_are_listed() -> None:
    assert "metadata-are-scalars-and-lists-of-text\n" in ran("certify", "--list").output
    assert all(one["claim"] for one in json.loads(ran("certify", "--list", "--json").stdout))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["nowhere"], "not of the form MODULE:PLACE"),
        (["no.such.module:Place"], "cannot be imported"),
        (["tests.contract.places:Nothing"], "has no Nothing"),
        (["tests.contract.places:MemoryPlace", "--only", "x"], "there is no check x"),
        ([], "no place is named"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], expected: str) -> None:
    found = ran("certify", *arguments)
    assert isinstance(found.exception, ConfigError)
    assert expected in str(found.exception)


def test_a_dry_run_shows_what_would_be_published_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text("text")
    (folder / "x.png").write_bytes(b"\x89PNG")
    (tmp_path / "vectide.toml").write_text('[sources.docs]\npath = "docs"\n')
    shown = ran("connect", "filesystem", "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "source docs, nothing of which is published yet" in shown.output
    assert "would be created              5  docs:0.txt, docs:1.txt, docs:2.txt, ..." in shown.output
    assert "no document: binary" in shown.output
    (found,) = json.loads(ran("connect", "filesystem", "--dry-run", "--json").stdout)["sources"]
    assert (found["events"]["created"], found["text_bytes"], found["skipped"]) == (5, 20, {"binary": 1})
    assert not (tmp_path / ".vectide").exists()
    unknown = ran("connect", "filesystem", "--dry-run", "--source", "x")
    assert "there is no source 'x'" in str(unknown.exception)


def test_a_dry_run_of_git_leaves_the_copy_of_a_source_that_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    Repository(tmp_path / "handbook").put("a.txt", "text")
    (tmp_path / "vectide.toml").write_text('[sources.docs]\nconnector = "git"\nrepository = "handbook"\n')
    shown = ran("connect", "git", "--dry-run")
    assert "would be created              1  docs:a.txt" in shown.output
    assert not (tmp_path / ".vectide").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_a_dry_run_of_a_source_that_is_pushed_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vectide.toml").write_text('[sources.crm]\nconnector = "http"\n')
    found = ran("connect", "http", "--dry-run")
    assert isinstance(found.exception, ConfigError)
    assert "sources.crm: documents are pushed to it" in str(found.exception)
