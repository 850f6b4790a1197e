"""Options that commands share, and the configuration they lead to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.observe import logs

if TYPE_CHECKING:
    from pipeline.config import Config

F = TypeVar("F", bound=Callable[..., Any])

#: Taken from the current folder when neither --config nor VECTIDE_CONFIG names another.
DEFAULT_FILE = Path("vectide.toml")


class _Folder(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # it would be the current folder: of a variable that is not set
            self.fail("it is empty: name a folder", param, ctx)
        return super().convert(value, param, ctx)


def configured(command: F) -> F:
    """Add ``--config`` and ``--state``."""
    command = click.option(
        "--state",
        type=_Folder(path_type=Path),
        help="Folder of the embedded log and store.  [default: .vectide]",
    )(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="TOML file.  [default: VECTIDE_CONFIG, else vectide.toml if it is there]",
    )(command)


def as_json(command: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "json_", is_flag=True, help="JSON on standard output.")(command)


def configuration(config_file: Path | None, state: Path | None = None, **overrides: Any) -> Config:
    """The effective configuration.

    Raises:
        ConfigError: names the file or variable, the key and what would be right.
    """
    from pipeline.config import load  # not for `--help`

    path = config_file
    if path is None and os.environ.get("VECTIDE_CONFIG"):
        path = Path(os.environ["VECTIDE_CONFIG"])
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    return load(path, state=None if state is None else str(state), **overrides)


def configure_logs(config: Config) -> None:
    """Logs to standard error; lines for people where it is a terminal."""
    style = "text" if sys.stderr.isatty() else config.log.format
    logs.configure(config.log.level, style)


def print_json(value: Any) -> None:
    """One JSON document."""
    text = json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    click.echo(logs.printable_json(text))
