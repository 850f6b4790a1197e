"""Connectors by name, found through the entry-point group ``vectide.connectors``: anyone's package
can add one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from connectors.mapping import Mapped, rules_of
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError
from pipeline.ports import Source

GROUP: Final = "vectide.connectors"


class Connector(Protocol):
    """What an entry point names."""

    def __call__(self, source_id: str, settings: Mapping[str, Any], document_limit_bytes: int) -> Source:
        """Make a source. Checks its settings and touches nothing else.

        Raises:
            ConfigError: a setting is unknown or wrong (:func:`connectors.settings.parse`).
        """
        ...


def open_source(source_id: str, config: SourceConfig, document_limit_bytes: int) -> Source:
    """The source that the configuration describes under ``sources.<source_id>``.

    Raises:
        ConfigError: there is no such connector, or a setting of it or a rule for metadata is unknown or wrong.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    point = found.get(config.connector)
    if point is None:
        near = difflib.get_close_matches(config.connector, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed are {', '.join(sorted(found)) or 'none'}"
        raise ConfigError(
            f"sources.{source_id}.connector: there is no connector {config.connector!r}; {hint}",
            "install the package that has it, or correct the name",
        )
    connector: Connector = point.load()
    rules = rules_of(source_id, config.metadata)
    source = connector(source_id, config.settings, document_limit_bytes)
    return Mapped(source, rules) if rules else source
