"""The project's files as the deployment files name them, some of them changed: a check must refuse what is wrong."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.cli.main import cli

ROOT = Path(__file__).parents[2]


class Project:
    """Reads files of the repository.

    Args:
        changed: text by path, in place of what is there; an empty text is a file that is gone.
    """

    def __init__(self, changed: Mapping[str, str] | None = None) -> None:
        self._changed = dict(changed or {})
        self.metadata: dict[str, Any] = tomllib.loads(self.text("pyproject.toml"))

    def text(self, path: str) -> str:
        """A file's text."""
        return self._changed[path] if path in self._changed else (ROOT / path).read_text()

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._changed[path]) if path in self._changed else (ROOT / path).exists()

    @property
    def scripts(self) -> set[str]:
        """The programs that installing the project makes."""
        return set(self.metadata["project"]["scripts"])

    @property
    def weights(self) -> set[str]:
        """Packages with weights, by name."""
        return {one.partition("==")[0] for one in self.metadata["dependency-groups"]["models"]}


def misused(arguments: Sequence[str]) -> str:
    """Why ``vectide`` would refuse these arguments; empty if it would not. Runs nothing."""
    command: click.Command = cli
    context = click.Context(cli, info_name="vectide")
    rest = list(arguments)
    try:
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            name = rest.pop(0)
            found = command.get_command(context, name)
            if found is None:
                return f"there is no command {name!r} of {context.info_name}"
            if isinstance(found, click.Group):
                context = click.Context(found, parent=context, info_name=name)
            command = found
        if isinstance(command, click.Group) and not rest:
            return f"{context.info_name} needs a command"
        with contextlib.redirect_stdout(io.StringIO()):  # --help is an answer, too
            command.make_context(command.name or "", rest, parent=context)
    except click.exceptions.Exit:
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


def seconds(text: str) -> float:
    """A duration as Docker writes it: ``45s``, ``1m30s``."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", text))
