"""The chart, rendered as an operator would get it: without a cluster, by Helm's own library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

from tests.deploy.generate import CHART

Object = dict[str, Any]

RELEASE, NAMESPACE = "demo", "vectide"
#: Values files, and the oldest Kubernetes that has all of what they ask for.
MATRIX = {path.name.removesuffix("-values.yaml"): "1.29" for path in sorted((CHART / "ci").glob("*-values.yaml"))} | {
    "searchless": "1.33"  # image volumes
}

_RULES = """groups:
  - name: sample.rules
    interval: 30s
    rules:
      - record: vectide:lag:sum
        expr: sum(vectide_consumer_lag_records)
      - alert: VectideSample
        expr: vectide:lag:sum > 0
        for: 5m
        labels: {severity: warning, team: theirs}
        annotations: {summary: "{{ $value }} records"}
"""


@dataclass
class Rendered:
    """All objects of one render."""

    values: Mapping[str, Any]
    objects: list[Object]
    notes: str = ""
    external: frozenset[str] = field(default=frozenset({"labelled-queries"}))
    """ConfigMaps that are somebody else's."""

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """The object of this kind whose name ends so."""
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"].endswith(name)]
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Name of the owner, labels and spec of every pod."""
        for one in self.objects:
            template = one["spec"].get("jobTemplate", one)["spec"].get("template") if "spec" in one else None
            if template is not None:
                yield f"{one['kind']} {one['metadata']['name']}", template["metadata"]["labels"], template["spec"]


def with_samples(folder: Path) -> Path:
    """A copy of the chart that certainly has a file of rules and a dashboard."""
    made = folder / "vectide"
    shutil.copytree(CHART, made)
    for place, name, text in (("rules", "sample.yaml", _RULES), ("dashboards", "sample.json", '{"title": "{{ x }}"}')):
        (made / place).mkdir(exist_ok=True)
        (made / place / name).write_text(text)
    return made


def values_of(name: str) -> dict[str, Any]:
    """Of a file of the matrix."""
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return found


def render(chart: Path, values: Mapping[str, Any] | None = None, **options: Any) -> Rendered:
    """All objects; raises what Helm raises."""
    with Chart.load(chart) as loaded:
        given = {"name": RELEASE, "namespace": NAMESPACE, **options}
        texts = loaded.render(dict(values or {}), **given)
    notes = next((text for path, text in texts.items() if path.endswith("NOTES.txt")), "")
    objects = [one for path, text in texts.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    return Rendered(values or {}, objects, notes)


def pod(found: Rendered, name: str) -> dict[str, Any]:
    """The spec of the pod whose owner's name ends so."""
    return next(spec for owner, _, spec in found.pods() if owner.endswith(name))


def first(found: Rendered, name: str) -> dict[str, Any]:
    """The container of this pod."""
    container: dict[str, Any] = pod(found, name)["containers"][0]
    return container


def setting(found: Rendered, owner: str, name: str) -> dict[str, Any]:
    """A variable of this pod's container."""
    (one,) = [one for one in first(found, owner)["env"] if one["name"] == name]
    made: dict[str, Any] = one
    return made


def secrets_of(found: Rendered, name: str) -> list[Any]:
    """The sources of this pod's volume of secrets."""
    (volume,) = [one for one in pod(found, name)["volumes"] if one["name"] == "secrets"]
    sources: list[Any] = volume["projected"]["sources"]
    return sources
