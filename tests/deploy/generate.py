"""What of the chart is made: its README from the comments of values.yaml, and the schema of ``config`` from the real
models. ``python -m tests.deploy.generate`` writes them; ``make docs`` does, too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.config import Config

CHART = Path(__file__).parents[2] / "helm"

#: What the chart sets itself, for every role its own way.
_OWN_SECTIONS = {"broker", "store", "state", "receipt_key", "receipt_key_file", "sources", "http"}
_OWN_KEYS = {
    "kafka": {"ssl_cafile", "ssl_certfile", "ssl_keyfile"},
    "qdrant": {"ca_file"},
}
#: Secrets, and the files of secrets: only ever by `existingSecret`.
_SECRET = re.compile(r"(password|api_key|token|receipt_key)(_file)?$")


def schema() -> str:
    """helm/values.schema.json: the part for `config` is of the real models, the rest as it stands."""
    tree = json.loads((CHART / "values.schema.json").read_text())
    tree["$defs"]["config"] = {
        "description": "Made from pipeline/config.py by `make docs`.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: _section(name, field.annotation)
            for name, field in Config.model_fields.items()
            if name not in _OWN_SECTIONS
        },
    }
    return json.dumps(tree, indent=2) + "\n"


def _section(name: str, model: Any) -> dict[str, Any]:
    assert issubclass(model, BaseModel)
    made = model.model_json_schema()
    defs = made.pop("$defs", {})
    own = _OWN_KEYS.get(name, set())
    properties = {
        key: _plain(one, defs) for key, one in made["properties"].items() if key not in own and not _SECRET.search(key)
    }
    assert made["additionalProperties"] is False
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _plain(tree: Any, defs: dict[str, Any]) -> Any:
    """Without titles and defaults, and with what is referred to in its place."""
    if isinstance(tree, list):
        return [_plain(one, defs) for one in tree]
    if not isinstance(tree, dict):
        return tree
    if "$ref" in tree:
        return _plain(defs[tree["$ref"].rpartition("/")[2]], defs)
    return {key: _plain(value, defs) for key, value in tree.items() if key not in ("title", "default", "format")}


def readme() -> str:
    """helm/README.md: the text above the table stays, the table is of values.yaml."""
    text = (CHART / "README.md").read_text()
    head, _, _ = text.partition("## Values\n")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = [
        "## Values",
        "",
        "Made from `values.yaml` by `make docs`.",
        "",
        "| value | default | meaning |",
        "|---|---|---|",
    ]
    for path, meaning in documented():
        lines.append(f"| `{path}` | `{_shown(_at(values, path))}` | {meaning} |")
    return head + "\n".join(lines) + "\n"


def documented() -> list[tuple[str, str]]:
    """Path and meaning of every value that has a `# --` comment."""
    found: list[tuple[str, str]] = []
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped[5:]]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif key := re.match(r"( *)([A-Za-z_]+):", line):
            indent = len(key[1])
            stack = [one for one in stack if one[0] < indent] + [(indent, key[2])]
            if comment:
                found.append((".".join(name for _, name in stack), " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else "see values.yaml"


PAGES = {"values.schema.json": schema, "README.md": readme}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (CHART / page).write_text(make())
