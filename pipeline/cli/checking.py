"""What is wrong with a configuration that each key of it does not say: settings of connectors, of Kafka, and what is
not on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pipeline.config import Config, SourceConfig
from pipeline.errors import ConfigError
from pipeline.naming import Names


def checked(config: Config) -> None:
    """Raise what would refuse to start.

    Raises:
        ConfigError: names every mistake, not the first alone.
    """
    mistakes = [error for check in _checks(config) if (error := _mistake(check)) is not None]
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        raise ConfigError(
            "\n".join(str(error) for error in mistakes), "docs/config.md and docs/connectors.md have all keys"
        )


def remarks(config: Config) -> Iterator[str]:
    """What may be right elsewhere, and is not on this machine; lines for people."""
    yield from _state(config.state)
    folders = {
        id: Path(os.path.realpath(os.path.expanduser(str(source.settings["path"]))))  # noqa: PTH111 - of no such user, too
        for id, source in config.sources.items()
        if source.connector == "filesystem" and "path" in source.settings
    }
    for id, folder in folders.items():
        # Not Path's own: they have an error where this user may not look.
        if not os.path.isdir(folder):  # noqa: PTH112
            why = "is not a folder" if os.path.exists(folder) else "is not there"  # noqa: PTH110
            yield f"sources.{id}.path: {folder} {why} on this machine"
        for other, outer in folders.items():
            if id != other and folder.is_relative_to(outer) and (folder != outer or id > other):
                yield f"sources.{id}.path: {folder} lies inside sources.{other}, or is the same: it is indexed twice"
    if config.http.token is None and config.http.host != "127.0.0.1":
        from pipeline.observe.http import refuse_open

        try:
            refuse_open(config.http.host, None)
        except ConfigError as error:
            yield f"`up` and `serve` will refuse: {str(error).partition(chr(10))[0]}"


def _checks(config: Config) -> Iterator[Callable[[], object]]:
    yield lambda: Names(config.pipeline.prefix, config.pipeline.name)
    if config.broker == "kafka":
        from pipeline.broker.kafka_connection import Connection

        yield lambda: Connection(config.kafka)
    limit = config.pipeline.document_limit_bytes
    for id, source in config.sources.items():
        yield partial(_opened, id, source, limit)


def _opened(id: str, source: SourceConfig, limit_bytes: int) -> None:
    from connectors.registry import open_source

    open_source(id, source, limit_bytes).close()


def _mistake(check: Callable[[], object]) -> ConfigError | None:
    try:
        check()
    except ConfigError as error:
        return error
    return None


def _state(state: Path) -> Iterator[str]:
    there = next(folder for folder in (state, *state.absolute().parents) if os.path.exists(folder))  # noqa: PTH110 - as above
    if not there.is_dir():
        yield f"state: {there} is not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"state: {there} cannot be written by this user"
