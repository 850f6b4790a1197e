"""The documents that are made from the code: ``python -m tests.docs.generate`` writes them."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config import PREFIX, Config
from pipeline.observe.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs"


def metrics() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Made from `pipeline/observe/metrics.py` by `make docs`; every process serves them at `/metrics`.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, labels, text in Metrics().declared():
        lines.append(f"| `{name}` | {kind} | {', '.join(labels)} | {text} |")
    return "\n".join(lines) + "\n"


def config() -> str:
    """docs/config.md."""
    lines = [
        "# Configuration",
        "",
        "Made from `pipeline/config.py` by `make docs`. A TOML file; `VECTIDE_*` in the environment wins over it:",
        "`kafka.bootstrap_servers` is `VECTIDE_KAFKA__BOOTSTRAP_SERVERS`. Lists and tables are written as in TOML.",
        "`vectide config check` shows what is in effect. A `*_file` key names a file that holds the secret.",
        "",
    ]
    own = [(name, field) for name, field in Config.model_fields.items() if not _section(field.annotation)]
    lines += ["## Top level", "", *_table(own, "")]
    for name, field in Config.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            lines += [
                "",
                f"## [{name}]",
                "",
                (section.__doc__ or "").strip(),
                "",
                *_table(section.model_fields.items(), name),
            ]
    lines += [
        "",
        "## [sources.NAME]",
        "",
        "One table for each source; `NAME` is the source id of its document keys. `connector` names the connector,",
        "`rescan_seconds` the time between two full scans; the other keys are the connector's own:",
        "[connectors.md](connectors.md).",
    ]
    return "\n".join(lines) + "\n"


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _table(fields: Any, section: str) -> list[str]:
    lines = ["| key | default | environment | meaning |", "|---|---|---|---|"]
    for name, field in fields:
        variable = PREFIX + (f"{section}__{name}" if section else name).upper()
        text = field.description or ""
        choices = _choices(field.annotation)
        lines.append(f"| `{name}` | `{_shown(field)}` | `{variable}` | {'; '.join(filter(None, (text, choices)))} |")
    return lines


def _choices(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{one}`" for one in typing.get_args(annotation))
    return ""


def _shown(field: Any) -> str:
    default = field.get_default(call_default_factory=True)
    return "-" if default is None else str(default)


PAGES = {"metrics.md": metrics, "config.md": config}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make())
