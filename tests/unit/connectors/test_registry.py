"""Connectors by name, and settings that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.filesystem import FilesystemSettings
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError


def opened(**settings: object) -> str:
    return open_source("notes", SourceConfig.model_validate(settings), 1000).id


def test_the_filesystem_connector_is_found_by_its_name(tmp_path: Path) -> None:
    assert opened(connector="filesystem", path=str(tmp_path), include=["*.md"], gitignore=True) == "notes"


def test_making_a_source_touches_nothing(tmp_path: Path) -> None:
    """A folder that is not there yet is waited for, not an error of configuration."""
    assert opened(path=str(tmp_path / "absent")) == "notes"


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"connector": "filesytem", "path": "/"}, ["sources.notes.connector", "did you mean 'filesystem'?"]),
        ({"connector": "zzz", "path": "/"}, ["sources.notes.connector", "installed are filesystem"]),
        ({"path": "/", "inclde": ["*.md"]}, ["'sources.notes.inclde'", "did you mean 'include'?"]),
        ({"path": "/", "rescan_second": 5}, ["'sources.notes.rescan_second'", "did you mean 'rescan_seconds'?"]),
        ({"path": "/", "zzz": 1}, ["'sources.notes.zzz'", "follow_symlinks"]),
        ({}, ["sources.notes.path", "Field required"]),
        ({"path": "/", "hidden": "perhaps"}, ["sources.notes.hidden", "valid boolean"]),
        ({"path": "/", "include": "*.md"}, ["sources.notes.include", "valid tuple"]),
        ({"path": "/", "exclude": ["ok", "!"]}, ["sources.notes.exclude", "'!'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(settings: dict[str, object], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(**settings)
    for part in expected:
        assert part in str(caught.value)


def test_every_setting_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[3] / "docs" / "connectors.md").read_text()
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `")}
    for name, field in FilesystemSettings.model_fields.items():
        assert name in rows, name
        if isinstance(field.default, bool):
            assert f"`{str(field.default).lower()}`" in rows[name]
    assert "`600`" in rows["rescan_seconds"]
    assert SourceConfig().rescan_seconds == 600
