"""The documents that are made from the code: ``python -m tests.docs.generate`` writes them."""

from __future__ import annotations

import re
import shlex
import types
import typing
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from pydantic import BaseModel, SecretStr

from connectors.http.settings import HttpSettings
from connectors.kafka.settings import KafkaSettings, TopicSettings
from connectors.postgres.settings import PostgresSettings, TableSettings
from connectors.web.settings import WebSettings
from pipeline.broker.rights import ROLES
from pipeline.broker.rights import rights as rules
from pipeline.cli.main import cli
from pipeline.config import PREFIX, Config, SourceConfig
from pipeline.naming import Names
from pipeline.observe.metrics import Metrics
from pipeline.sizing import FIGURES

DOCS = Path(__file__).parents[2] / "docs"


def metrics() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Made from `pipeline/observe/metrics.py` by `make docs`; every process serves them at `/metrics`, and beside",
        "them `process_*` of Prometheus's client. Every series has the label `pipeline` as well: the first two parts",
        "of every name in Kafka and in the store. [observability.md](observability.md) has alerts and dashboards.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, labels, text in Metrics().declared():
        lines.append(f"| `{name}` | {kind} | {', '.join(labels)} | {text} |")
    return "\n".join(lines) + "\n"


def rights() -> str:
    """docs/rights.md."""
    lines = [
        "# Rights in Kafka",
        "",
        "Made from `pipeline/broker/rights.py` by `make docs`: the ACLs of each role, and no more than it uses. A real",
        "broker holds a pipeline to them in `make test`. [security.md](security.md) has the roles and Qdrant's rights.",
        "`vectide topics rights` prints them for a configuration, as commands for kafka-acls.sh.",
        "",
        'Names are those of `pipeline.prefix = "vectide"`, `pipeline.name = "default"` and a source `docs`; `*` is for',
        "every name that begins so. Read, Write and Delete include Describe.",
    ]
    for role in ROLES:
        lines += ["", f"## {role}", "", "| resource | name | operation | for |", "|---|---|---|---|"]
        for one in rules(role, Names("vectide", "default"), 0, ["docs"]):
            lines.append(f"| {one.kind} | `{one.name}{'*' if one.prefixed else ''}` | {one.operation} | {one.why} |")
    return "\n".join(lines) + "\n"


def sizing() -> str:
    """docs/sizing.md: what its commands print, and the figures that these rest on; the rest is written by hand."""
    text = (DOCS / "sizing.md").read_text()
    text = re.sub(r"```text\n\$ (vectide size (?:.*\\\n)*.*)\n(?:(?!```).*\n)*```", _printed, text)
    table = ["| figure | value | | from |", "|---|---|---|---|"]
    for name, one in FIGURES.items():
        table.append(f"| {name.replace('_', ' ')} | {one.value:,g} {one.unit} | {one.source} | {one.where} |")
    begin, end = "<!-- figures -->\n", "\n<!-- end of figures -->"
    return text[: text.index(begin)] + begin + "\n".join(table) + text[text.index(end) :]


def _printed(found: re.Match[str]) -> str:
    _, *arguments = shlex.split(found[1].replace("\\\n", " "))
    ran = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return f"```text\n$ {found[1]}\n{ran.output}```"


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
        "One table for each source; `NAME` is the source id of its document keys. Further keys are the connector's",
        "own: [connectors.md](connectors.md).",
        "",
        *_table(SourceConfig.model_fields.items(), "sources__NAME"),
    ]
    return "\n".join(lines) + "\n"


def connectors() -> str:
    """docs/connectors.md: the settings of connectors between its markers; the rest is written by hand."""
    page = (DOCS / "connectors.md").read_text()
    for name, tables in SETTINGS.items():
        rows = ["| key | default | meaning |", "|---|---|---|"]
        for prefix, model in tables.items():
            for key, field in model.model_fields.items():
                default = "" if field.is_required() else f"`{_plain(field)}`"
                rows.append(f"| `{prefix}{key}` | {default} | {field.description or ''} |")
        begin, end = f"<!-- settings of {name} -->\n", "<!-- end -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n".join(rows) + "\n" + end + rest.partition(end)[2]
    return page


def _plain(field: Any) -> str:
    """A default as TOML has it."""
    default = field.get_default(call_default_factory=True)
    if default is None or isinstance(default, BaseModel) or default in ("", (), {}):
        return "-"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _table(fields: Any, section: str) -> list[str]:
    lines = ["| key | type | default | environment | meaning |", "|---|---|---|---|---|"]
    for name, field in fields:
        variable = PREFIX + (f"{section}__{name}" if section else name).upper()
        kind = ", ".join([_type(field.annotation), *_limits(field.metadata)])
        lines.append(f"| `{name}` | {kind} | `{_shown(field)}` | `{variable}` | {field.description or ''} |")
    return lines


_TYPES = {
    str: "text", int: "integer", float: "number", bool: "true or false",
    SecretStr: "secret", Path: "path", Any: "any value", list[str]: "list of texts",
}  # fmt: skip


def _type(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is typing.Annotated:
        return ", ".join([_type(inner[0]), *_limits(inner[1].metadata)])
    if origin is dict:
        return f"table of {'tables' if _section(inner[1]) else _type(inner[1])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in inner if one is not type(None))
    return _TYPES[annotation]


def _limits(constraints: list[Any]) -> list[str]:
    words = {"gt": "over", "ge": "from", "lt": "below", "le": "up to"}
    return [
        f"{word} {getattr(one, name)}"
        for one in constraints
        for name, word in words.items()
        if getattr(one, name, None) is not None
    ]


def _shown(field: Any) -> str:
    default = field.get_default(call_default_factory=True)
    return "-" if default is None else str(default)


SETTINGS: dict[str, dict[str, type[BaseModel]]] = {
    "http": {"": HttpSettings},
    "kafka": {"": KafkaSettings, "topics.NAME.": TopicSettings},
    "postgres": {"": PostgresSettings, "tables.NAME.": TableSettings},
    "web": {"": WebSettings},
}
PAGES = {
    "metrics.md": metrics,
    "config.md": config,
    "rights.md": rights,
    "sizing.md": sizing,
    "connectors.md": connectors,
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make())
