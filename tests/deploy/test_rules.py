"""Prometheus's rules: valid, proven both ways, and about metrics that there are."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.deploy.expressions import ROOT, RULES, RUNBOOKS, alerts, rules, undeclared
from tests.deploy.mutants import MUTANTS

pytestmark = pytest.mark.timeout(400)

Promtool = Callable[..., subprocess.CompletedProcess[str]]
TESTS = sorted((ROOT / "tests" / "deploy" / "rules").glob("*.yaml"))
#: Where the runbooks are for those who read an alert; docs/observability.md says how to change it.
BASE = "https://github.com/vectide/vectide/blob/main/docs/runbooks/"
ROUNDS = max(len(mutants) for mutants in MUTANTS.values())
#: `make test` has time for the first ones of each alert; `make simulate` runs all.
RUN = ROUNDS if os.environ.get("VECTIDE_SIM_SCHEDULES") else min(2, ROUNDS)


def page(alert: str) -> str:
    """VectideDeadLetters: dead-letters."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert.removeprefix("Vectide")).lower()


def test_promtool_takes_the_rules(promtool: Promtool) -> None:
    done = promtool(["check", "rules", *map(str, RULES)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(RULES) == 4


def test_every_alert_fires_and_does_not_in_the_near_miss(promtool: Promtool) -> None:
    done = promtool(["test", "rules", *map(str, TESTS)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(TESTS)


def test_no_alert_lacks_a_test_of_either_kind() -> None:
    assert {path.stem for path in TESTS} == {page(alert) for alert in alerts()}
    for alert in alerts():
        cases = [
            case
            for one in yaml.safe_load((ROOT / "tests" / "deploy" / "rules" / f"{page(alert)}.yaml").read_text())[
                "tests"
            ]
            for case in one["alert_rule_test"]
        ]
        assert {case["alertname"] for case in cases} == {alert}
        assert {bool(case["exp_alerts"]) for case in cases} == {True, False}, alert


def test_no_alert_lacks_a_mutant() -> None:
    assert MUTANTS.keys() == alerts().keys()


@pytest.mark.parametrize("number", range(RUN))
def test_the_tests_kill_every_mutant(promtool: Promtool, tmp_path: Path, number: int) -> None:
    """One mutant of every alert at a time: each is looked at by its own tests alone."""
    (tmp_path / "rules").mkdir()
    chosen = {alert: mutants[number] for alert, mutants in MUTANTS.items() if number < len(mutants)}
    for path in RULES:
        document = yaml.safe_load(path.read_text())
        for rule in (rule for group in document["groups"] for rule in group["rules"]):
            mutant = chosen.get(rule.get("alert", ""))
            if mutant is None:
                continue
            if mutant.old == "for":
                assert "for" in rule, rule["alert"]
                rule["for"] = mutant.new
            else:
                assert mutant.old in rule["expr"], f"{rule['alert']}: {mutant.old}"
                rule["expr"] = rule["expr"].replace(mutant.old, mutant.new)
        (tmp_path / "rules" / path.name).write_text(yaml.safe_dump(document))
    copies = []
    for alert in chosen:
        copy = tmp_path / f"{page(alert)}.yaml"
        text = (ROOT / "tests" / "deploy" / "rules" / copy.name).read_text()
        copy.write_text(text.replace("../../../helm/rules/", "rules/"))
        copies.append(str(copy))
    done = promtool(["test", "rules", *copies])
    verdicts = re.findall(
        r"Unit Testing:\s+\S*?([\w-]+)\.yaml\n(.*?)(?=\nUnit Testing|\Z)", done.stdout + done.stderr, re.DOTALL
    )
    assert len(verdicts) == len(chosen), done.stdout + done.stderr
    survivors = [name for name, verdict in verdicts if "SUCCESS" in verdict]
    assert not survivors, f"they survive: {' '.join(survivors)}"


def test_every_metric_and_label_of_a_rule_is_declared() -> None:
    assert {
        rule.get("alert", rule.get("record")): wrong for _, rule in rules() if (wrong := undeclared(rule["expr"]))
    } == {"vectide:freshness_objective:ratio": ["no metric at all"]}


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("vectide_ready == 0", []),
        ("vectide_reddy == 0", ["vectide_reddy"]),
        ("pipeline:vectide_nothing:sum > 0", ["pipeline:vectide_nothing:sum"]),
        ('vectide_dead_letters_total{cause="x"} > 0', ["vectide_dead_letters_total{cause}"]),
        ("sum by (cause) (vectide_dead_letters_total)", ["by cause"]),
        ("vectide_search_duration_seconds", ["vectide_search_duration_seconds"]),
        ("sum by (le) (vectide_search_duration_seconds_bucket)", []),
    ],
)  # fmt: skip
def test_what_is_not_declared_is_found(expression: str, wrong: list[str]) -> None:
    assert undeclared(expression) == wrong


def test_every_alert_says_what_how_bad_and_what_to_do() -> None:
    for alert, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning"), alert
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, alert
        assert re.search(r"\$value|\$labels|\d", rule["annotations"]["description"]), f"{alert}: of what, how much?"
        assert rule["annotations"]["runbook_url"] == f"{BASE}{page(alert)}.md"
        text = (RUNBOOKS / f"{page(alert)}.md").read_text()
        assert text.startswith(f"# {alert}\n\n{rule['labels']['severity'].title()}. ")
        assert "\n## Look\n" in text
        assert "\n## Do\n" in text
    assert BASE in (ROOT / "docs" / "observability.md").read_text()


def test_every_recorded_name_says_by_what_it_is_summed() -> None:
    """level:metric:operation, where the level's labels are those that the expression keeps."""
    for _, rule in rules():
        if "record" in rule and not rule["record"].startswith("vectide:"):
            level = rule["record"].split(":")[0]
            kept = ", ".join(level.split("_"))
            assert f"by ({kept})" in rule["expr"] or f"{level}:vectide_" in rule["expr"], rule["record"]
