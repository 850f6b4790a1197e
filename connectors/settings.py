"""A connector's own settings, checked: a wrong one is named with its place and the right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.config import SourceConfig
from pipeline.errors import ConfigError

_Settings = TypeVar("_Settings", bound=BaseModel)


def parse(model: type[_Settings], source_id: str, settings: Mapping[str, Any]) -> _Settings:
    """The settings of a source.

    Raises:
        ConfigError: names ``sources.<id>.<key>`` and, for an unknown key, the nearest right one.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            keys = [str(key) for key in problem["loc"]]
            place = ".".join(["sources", source_id, *keys])
            if problem["type"] == "extra_forbidden":
                names = [*model.model_fields, *SourceConfig.model_fields]
                near = difflib.get_close_matches(keys[-1], names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names))}"
                lines.append(f"unknown key {place!r}; {hint}")
            else:
                # The input is not shown: it may be a secret.
                lines.append(f"{place}: {problem['msg'].removeprefix('Value error, ')}")
        raise ConfigError("\n".join(lines), "see docs/connectors.md for the settings of each connector") from None


@contextmanager
def secrets_of(source_id: str) -> Iterator[None]:
    """While secrets are read from the files that settings name.

    Raises:
        ConfigError: for the ValueError of a file that cannot be read, with the source's place.
    """
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"sources.{source_id}.{error}", "mount the secret there") from None


def secret_in(name: str, file: Path) -> str:
    """What a file holds, without the white space around it.

    Raises:
        ValueError: it cannot be read; begins with the setting's name.
    """
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        raise ValueError(f"{name}: {file}: {why}") from None
