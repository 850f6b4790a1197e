"""docker/: what the images and the compose file name is there, parses, validates and fits together.

There is no Docker engine here. Linters and schemas are their authors' own; the rest is held against the real command
line, configuration and HTTP server. Each check has a change that it must refuse.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.observe.health import Health
from pipeline.observe.http import HttpServer
from pipeline.observe.metrics import Metrics
from tests.deploy import compose, dockerfile
from tests.deploy.docker_mutants import MUTANTS
from tests.deploy.project import ROOT, Project, misused

TOOLS = Path(sys.executable).parent

DOCKERFILE, COMPOSE = dockerfile.FILE, compose.FILE


def found(project: Project) -> list[str]:
    """Of the services only if the images are right: they are held against these."""
    return list(dockerfile.problems(project)) or list(compose.problems(project))


def test_images_and_services_fit_the_project() -> None:
    assert found(Project()) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_wrong_is_refused(name: str) -> None:
    path, old, new, said = MUTANTS[name]
    text = Project().text(path)
    assert old in text, "the mutant changes nothing"
    problems = found(Project({path: text.replace(old, new)}))
    assert any(said in one for one in problems), problems


@pytest.mark.parametrize(
    "arguments", [["work"], ["works"], ["work", "chunk", "--all"], ["migrate", "run", "--cutover", "now"], ["connect"]]
)
def test_arguments_that_vectide_refuses_are_found(arguments: list[str]) -> None:
    assert misused(arguments)


def linted(text: str) -> subprocess.CompletedProcess[str]:
    command = [str(TOOLS / "hadolint"), "--failure-threshold", "style", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=150, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    text = Project().text(DOCKERFILE)
    clean = linted(text)
    assert clean.returncode == 0, clean.stdout
    assert "DL3020" in linted(text.replace("COPY docker/", "ADD docker/")).stdout
    assert "DL3025" in linted(text.replace('CMD ["--help"]', "CMD --help")).stdout


def test_compose_files_are_of_the_compose_specification(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(Project().text(COMPOSE).replace("    depends_on: *after-topics\n", "    dependson: {}\n"))
    command = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "--output-format", "json"]
    files = [ROOT / COMPOSE, ROOT / compose.GPU, wrong]
    checked = subprocess.run([*command, *files], capture_output=True, text=True, timeout=150, check=False)
    assert checked.returncode == 1
    assert "dependson" in checked.stdout
    assert f'"{ROOT / COMPOSE}"' not in checked.stdout.partition('"errors"')[2]
    assert str(ROOT / compose.GPU) not in checked.stdout.partition('"errors"')[2]


def test_prometheus_takes_its_configuration(promtool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    checked = promtool(["check", "config", "--syntax-only", str(ROOT / compose.PROMETHEUS)])
    assert checked.returncode == 0, checked.stderr
    wrong = promtool(["check", "config", "--syntax-only", str(ROOT / COMPOSE)])
    assert wrong.returncode != 0


def healthcheck(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(ROOT / "docker/healthcheck.py")]
    # A proxy would answer for the container, or not at all.
    environment = {"VECTIDE_HTTP__PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)


def test_the_healthcheck_says_what_livez_says() -> None:
    now = [0.0]
    health = Health(beat_limit_seconds=60.0, clock=lambda: now[0])
    server = HttpServer("0.0.0.0", 0, None, health, Metrics())
    server.start()
    try:
        health.beat("chunk")
        health.set_ready("broker", False, "kafka is away")
        assert healthcheck(server.port).returncode == 0, "an outage is waited out"
        now[0] = 61.0
        stuck = healthcheck(server.port)
        assert (stuck.returncode, "no beat for 61 s" in stuck.stdout) == (1, True)
    finally:
        server.close()
    gone = healthcheck(server.port)
    assert (gone.returncode, "ConnectionRefusedError" in gone.stdout) == (1, True)


WITHOUT_TORCH = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "sentence_transformers", "transformers", "safetensors", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import connectors, pipeline
for package in (pipeline, connectors):
    for one in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(one.name)

from importlib.metadata import entry_points
(filesystem,) = entry_points(group="vectide.connectors", name="filesystem")
filesystem.load()

from pipeline.chunking.documents import Chunk
from pipeline.config import load
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.models import located, tokenizer_of
config = load(None, {})
spec = generation_spec(config)
cut = chunker(spec, tokenizer_of(located(spec, config)))
print(spec.model.dimension, len(cut("# A heading\\n\\nWhat a document says.\\n" * 200, "text/markdown")))
"""


def test_what_the_base_image_is_for_runs_without_torch() -> None:
    """Given no torch, nor what comes with it, every module is imported and a document is cut by MiniLM's tokens."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    dimension, chunks = map(int, ran.stdout.split())
    assert (dimension, chunks > 1) == (384, True)
