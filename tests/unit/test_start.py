"""What commands import: who asks for help, or asks a running pipeline, does not wait for what makes one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.access import Endpoint, reached
from pipeline.cli.main import cli
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.observe.health import Health
from pipeline.observe.http import HttpServer
from pipeline.observe.metrics import Metrics

#: `size` shows the configured model in its help.
_HELP = """
import sys
from pipeline.cli.main import _COMMANDS, cli
for name in _COMMANDS:
    if name != "size":
        cli.main([name, "--help"], standalone_mode=False)
print([name for name in (*sys.modules,) if name in {heavy}], file=sys.stderr)
"""
_ASKED = """
import sys
from pipeline.cli.main import cli
cli.main(sys.argv[1:], standalone_mode=False)
print([name for name in (*sys.modules,) if name in {heavy}], file=sys.stderr)
"""
_OF_A_PIPELINE = (
    "numpy", "tokenizers", "kafka", "qdrant_client", "qdrant_edge", "prometheus_client", "msgspec", "torch", "waitress",
    "pipeline.ports", "connectors.registry",
)  # fmt: skip


def _imported(code: str, heavy: tuple[str, ...], folder: Path, *arguments: str) -> tuple[str, str]:
    made = [sys.executable, "-c", code.format(heavy=heavy), *arguments]
    done = subprocess.run(made, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr.strip()


def test_help_of_no_command_waits_for_libraries(tmp_path: Path) -> None:
    shown, found = _imported(_HELP, (*_OF_A_PIPELINE, "pydantic", "ssl", "rich"), tmp_path)
    assert shown.count("Usage:") > 15
    assert found == "[]"


def test_a_command_that_is_mistyped_is_told_the_near_one() -> None:
    found = CliRunner().invoke(cli, ["serch", "x"])
    assert found.exit_code == 2
    assert "'search'" in found.output


@pytest.mark.parametrize(
    ("folder", "why"), [("none", "there is no index in"), ("x" * 300, "File name too long"), ("plain", "there is no")]
)
def test_a_state_folder_that_cannot_be_looked_into_is_told_as_what_it_is(tmp_path: Path, folder: str, why: str) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(ConfigError, match=why), reached(Config(state=tmp_path / folder)):
        pass


def test_who_asks_a_running_pipeline_imports_none_of_its_own(tmp_path: Path) -> None:
    state = tmp_path / ".vectide"
    state.mkdir()
    endpoint = Endpoint(state)
    letters = {"dead_letters": [], "more": False}
    routes = {("POST", "/dead-letters"): lambda given: letters}
    server = HttpServer("127.0.0.1", 0, None, Health(), Metrics(), routes)
    server.mount("GET", "/instance", endpoint.route(), public=True)
    server.start()
    try:
        endpoint.announce("127.0.0.1", server.port)
        shown, found = _imported(_ASKED, _OF_A_PIPELINE, tmp_path, "dead-letters", "list", "--json")
    finally:
        server.close()
    assert json.loads(shown) == letters
    assert found == "[]"
