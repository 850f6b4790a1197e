"""What the deployment's rules, dashboards and runbooks name: expressions, and the metrics and labels in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.observe.metrics import Metrics

ROOT: Final = Path(__file__).parents[2]
RULES: Final = sorted((ROOT / "helm" / "rules").glob("*.yaml"))
DASHBOARDS: Final = sorted((ROOT / "helm" / "dashboards").glob("*.json"))
RUNBOOKS: Final = ROOT / "docs" / "runbooks"

#: What Prometheus itself, a scrape and Prometheus's client for Python give.
GIVEN: Final[Mapping[str, frozenset[str]]] = {
    "up": frozenset(),
    "process_start_time_seconds": frozenset({"pipeline"}),
    "process_cpu_seconds_total": frozenset({"pipeline"}),
    "process_resident_memory_bytes": frozenset({"pipeline"}),
}
#: Every target has them.
TARGET: Final = frozenset({"job", "instance"})

_WORD: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{([^}]*)\}")
_MATCHER: Final = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")
_GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_LEGEND: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def rules() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every rule and its file."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield path, rule


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert, by name."""
    return {rule["alert"]: rule for _, rule in rules() if "alert" in rule}


def panels(path: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard, rows included."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["panels"]
    return found


def filled_in(expression: str) -> str:
    """A panel's expression as Grafana would ask it."""
    for name, value in (
        ("$__rate_interval", "2m"), ("$__range", "6h"), ("$pipeline", ".+"), ("$source", ".+"),
    ):  # fmt: skip
        expression = expression.replace(name, value)
    return expression


def declared() -> dict[str, frozenset[str]]:
    """Every metric that can be asked for, with its labels: ours, what is recorded, and what is given."""
    found = dict(GIVEN)
    for name, kind, labels, _ in Metrics().declared():
        own = frozenset({"pipeline", *labels})
        if kind == "histogram":
            found |= {f"{name}_sum": own, f"{name}_count": own, f"{name}_bucket": own | {"le"}}
        else:
            found[name] = own
    for _, rule in rules():
        if "record" in rule:
            level = rule["record"].split(":", 1)[0]
            found[rule["record"]] = frozenset() if level == "vectide" else frozenset(level.split("_"))
    return found


def undeclared(expression: str, legend: str = "") -> list[str]:
    """Metrics and labels of an expression (and of a legend) that nothing has; empty if all is declared."""
    known = declared()
    bare = _STRING.sub('""', expression)
    named = {word for word in _WORD.findall(bare) if word.startswith(("vectide_", "process_")) or ":" in word}
    named |= {word for word in _WORD.findall(bare) if word in GIVEN}
    wrong = sorted(named - known.keys())
    wrong += [] if named else ["no metric at all"]
    here = TARGET.union(*(known.get(name, frozenset()) for name in named))
    for metric, matchers in _SELECTOR.findall(bare):
        labels = set(_MATCHER.findall(matchers))
        wrong += sorted(f"{metric}{{{label}}}" for label in labels - known.get(metric, frozenset()) - TARGET)
    for grouping in _GROUPING.findall(bare):
        labels = {one.strip() for one in grouping.split(",") if one.strip()}
        wrong += sorted(f"by {label}" for label in labels - here - set(_made(expression)))
    wrong += sorted(f"legend {label}" for label in set(_LEGEND.findall(legend)) - here)
    return wrong


def _made(expression: str) -> list[str]:
    """Labels that label_replace makes."""
    return re.findall(r'"(\w+)",\s*"[^"]*",\s*"[^"]*",\s*"[^"]*"\)', expression)
