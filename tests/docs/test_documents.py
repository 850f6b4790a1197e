"""Documents that cannot rot: generated ones are fresh, named commands and keys exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import _COMMANDS, cli
from pipeline.config import load
from pipeline.observe.metrics import Metrics
from tests.docs.generate import DOCS, PAGES

ROOT = DOCS.parent


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_fresh(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `make docs`"


def test_every_declared_metric_is_used_by_the_code() -> None:
    source = "\n".join(
        path.read_text()
        for folder in ("pipeline", "connectors")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "metrics.py"
    )
    own = {"build_info"}  # set where it is declared
    names = (re.sub(r"^vectide_|_total$", "", name) for name, *_ in Metrics().declared())
    assert [name for name in names if name not in own and f"metrics.{name}" not in source] == []


def test_every_command_is_documented_and_has_help() -> None:
    page = (DOCS / "commands.md").read_text()
    for name in _COMMANDS:
        assert f"vectide {name}" in page
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0
        assert len(result.output) > 80


def test_the_readme_s_configuration_is_valid(tmp_path: Path) -> None:
    (found,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    text = re.sub(r'_file = "[^"]*"', f'_file = "{secret}"', found)
    (tmp_path / "vectide.toml").write_text(text)
    config = load(tmp_path / "vectide.toml", {})
    assert config.broker == "kafka"
    assert config.sources["handbook"].connector == "filesystem"


def test_links_between_documents_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("docker/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
