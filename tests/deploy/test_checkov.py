"""checkov finds nothing in any render, with nothing skipped; and it finds what is planted.

It pins what vectide cannot live with, so it has an environment of its own: `make deploy-tools`.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import MATRIX, Object, Rendered, render, values_of
from tests.support.absence import absent

pytestmark = pytest.mark.timeout(400)

CHECKOV = Path(__file__).parents[2] / ".venv-deploy" / "bin" / "checkov"


def container(found: list[Object], name: str) -> dict[str, Any]:
    (one,) = [one for one in found if one["kind"] == "Deployment" and one["metadata"]["name"].endswith(name)]
    made: dict[str, Any] = one["spec"]["template"]["spec"]["containers"][0]
    return made


#: What is planted, and the check that must find it.
MUTANTS: dict[str, tuple[str, Callable[[list[Object]], object]]] = {
    "no-policy": (
        "CKV2_K8S_6",
        lambda found: found.remove(next(one for one in found if one["kind"] == "NetworkPolicy")),
    ),
    "root": (
        "CKV_K8S_22",
        lambda found: container(found, "chunk")["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "tag": ("CKV_K8S_43", lambda found: container(found, "chunk").update(image="vectide:1.0")),
    "limits": ("CKV_K8S_11", lambda found: container(found, "embed")["resources"]["limits"].pop("cpu")),
    "probe": ("CKV_K8S_8", lambda found: container(found, "search").pop("livenessProbe")),
}


@pytest.fixture(scope="module")
def failed(chart: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Ids of the checks that fail, by file. One run: checkov takes seconds to start."""
    if not CHECKOV.exists():
        absent(f"{CHECKOV} is missing: make deploy-tools")
    folder = tmp_path_factory.mktemp("checkov")

    def write(name: str, values: str, mutate: Callable[[list[Object]], object]) -> None:
        # Names and namespaces of its own: checkov looks at all files together.
        found: Rendered = render(chart, values_of(values), name=name, namespace=f"ns-{name}")
        objects = copy.deepcopy(found.objects)
        mutate(objects)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(objects))

    for name in MATRIX:
        write(name, name, lambda objects: None)
    for name, (_, mutate) in MUTANTS.items():
        write(f"mutant-{name}", "minimal", mutate)
    done = subprocess.run(
        [
            CHECKOV,
            "--framework",
            "kubernetes",
            "--skip-download",
            "--compact",
            "--directory",
            folder,
            "--output",
            "json",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "LOG_LEVEL": "ERROR"},
    )
    report = json.loads(done.stdout)
    assert report["summary"]["skipped"] == 0
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 2000
    found: dict[str, set[str]] = {name: set() for name in (*MATRIX, *(f"mutant-{name}" for name in MUTANTS))}
    for one in report["results"]["failed_checks"]:
        found[Path(one["file_path"]).stem].add(f"{one['check_id']} {one['resource']}")
    return found


@pytest.mark.parametrize("name", MATRIX)
def test_checkov_has_nothing_against_it(failed: dict[str, set[str]], name: str) -> None:
    assert failed[name] == set()


@pytest.mark.parametrize("name", MUTANTS)
def test_checkov_finds_what_is_planted(failed: dict[str, set[str]], name: str) -> None:
    assert MUTANTS[name][0] in {one.split()[0] for one in failed[f"mutant-{name}"]}
