"""Grafana's dashboards: they provision, fit, say what they show, and ask for what there is."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import DASHBOARDS, RUNBOOKS, filled_in, panels, undeclared

Promtool = Callable[..., subprocess.CompletedProcess[str]]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)


def overlaps(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Panels that lie on one another, or beyond the grid."""
    wrong, taken = [], {}
    for panel in found:
        place = panel["gridPos"]
        if place["x"] < 0 or place["x"] + place["w"] > COLUMNS:
            wrong.append((panel["title"], "beyond the grid"))
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    wrong.append((panel["title"], taken[x, y]))
                taken[x, y] = panel["title"]
    return wrong


def asked(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every target of a dashboard, with its panel's title."""
    return [(panel["title"], target) for panel in panels(path) for target in panel.get("targets", [])]


@each_dashboard
def test_it_provisions_into_any_grafana(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["id"] is None
    assert "uid" not in board, "two installations in one Grafana must not overwrite each other's"
    assert board["schemaVersion"] >= 41
    first, second = board["templating"]["list"][:2]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert second["name"] == "pipeline"
    assert all(source == SOURCE for source in sources(board))


def sources(part: Any) -> list[Any]:
    """Every data source that a dashboard names."""
    if isinstance(part, list):
        return [source for one in part for source in sources(one)]
    if not isinstance(part, dict):
        return []
    here = [part["datasource"]] if "datasource" in part else []
    return here + [source for one in part.values() for source in sources(one)]


def test_titles_are_their_own() -> None:
    titles = [json.loads(path.read_text())["title"] for path in DASHBOARDS]
    assert len(set(titles)) == len(titles) == 3


@each_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(path: Path) -> None:
    found = panels(path)
    ids = [panel["id"] for panel in found]
    assert len(set(ids)) == len(ids)
    assert overlaps(found) == []
    moved = [{**panel, "gridPos": {**panel["gridPos"], "x": panel["gridPos"]["x"] + 1}} for panel in found[1:2]]
    assert overlaps([*found, *moved]) != [], "an overlap is found"


@each_dashboard
def test_every_panel_says_what_it_shows_and_in_what_unit(path: Path) -> None:
    rows = [panel for panel in panels(path) if panel["type"] == "row"]
    assert len(rows) >= 3
    for panel in panels(path):
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["type"] == "table" or all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@each_dashboard
def test_every_metric_and_label_of_a_panel_is_declared(path: Path) -> None:
    wrong = {
        title: found
        for title, target in asked(path)
        if (found := undeclared(filled_in(target["expr"]), target["legendFormat"]))
    }
    assert wrong == {}


def test_promtool_takes_every_expression_of_dashboards_and_runbooks(promtool: Promtool, tmp_path: Path) -> None:
    """As recording rules: that is how this promtool parses an expression."""
    expressions = [filled_in(target["expr"]) for path in DASHBOARDS for _, target in asked(path)]
    runbooks = [line for path in RUNBOOKS.glob("*.md") for line in queries(path.read_text())]
    assert len(expressions) > 50
    assert len(runbooks) > 20
    everything = [*expressions, *runbooks]
    assert [line for line in everything if "$" in line] == [], "a variable that is not filled in"
    assert checked(promtool, tmp_path / "rules.yaml", everything) == 0
    assert checked(promtool, tmp_path / "wrong.yaml", [*everything, "sum by (x (up)"]) != 0


def test_every_metric_and_label_of_a_runbook_is_declared() -> None:
    wrong = {
        path.stem: found
        for path in RUNBOOKS.glob("*.md")
        for line in queries(path.read_text())
        if (found := undeclared(line))
    }
    assert wrong == {}


def queries(text: str) -> list[str]:
    """The lines of a page's blocks of PromQL."""
    return [line for block in re.findall(r"```promql\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def checked(promtool: Promtool, path: Path, expressions: list[str]) -> int:
    """promtool's exit code for a file that records these."""
    rules = [{"record": f"test:number_{number}:x", "expr": one} for number, one in enumerate(expressions)]
    path.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}))
    return promtool(["check", "rules", str(path)]).returncode
