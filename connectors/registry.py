"""Connectors by name and by the schemes of their URIs, found through entry points: anyone's package
can add one.

``vectide.connectors`` names the function that makes a source. ``vectide.schemes`` names, by the scheme
of a URI (``git`` also stands for ``git+https``), the function that makes settings of one.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from connectors.mapping import rules_of, with_rules
from connectors.push.source import PushSource
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError
from pipeline.ports import Source

GROUP: Final = "vectide.connectors"
SCHEMES: Final = "vectide.schemes"
#: ``scheme:`` of RFC 3986, with what follows; one letter is a drive of Windows.
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9.+-]+)://.*", re.DOTALL)


class Connector(Protocol):
    """What an entry point names. One with a fourth parameter ``state`` is also told the folder that is its
    source's own, for what it would otherwise fetch again; None: there is none.
    """

    def __call__(
        self, source_id: str, settings: Mapping[str, Any], document_limit_bytes: int, **state: Path | None
    ) -> Source:
        """Make a source. Checks its settings and touches nothing else.

        Raises:
            ConfigError: a setting is unknown or wrong (:func:`connectors.settings.parse`).
        """
        ...


class SettingsOf(Protocol):
    """What an entry point of ``vectide.schemes`` names."""

    def __call__(self, uri: str) -> Mapping[str, Any]:
        """The table ``[sources.<id>]`` that says the same as a URI; ``connector`` in it is the scheme if not given.

        Raises:
            ConfigError, ValueError: it cannot be read; the text must not repeat a password.
        """
        ...


def open_source(source_id: str, config: SourceConfig, document_limit_bytes: int, state: Path | None = None) -> Source:
    """The source that the configuration describes under ``sources.<source_id>``.

    Args:
        source_id: its name.
        config: of the source.
        document_limit_bytes: a larger text is left out.
        state: the folder of connectors' state; None: they keep nothing.

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
    own = None if state is None else state / f"{config.connector}-{quote(source_id, safe='')}"
    also = {"state": own} if "state" in inspect.signature(connector).parameters else {}
    source = connector(source_id, config.settings, document_limit_bytes, **also)
    return source.with_rules(rules) if isinstance(source, PushSource) else with_rules(source, rules)


def scheme_of(argument: str) -> str | None:
    """The scheme of a URI, in lower case; None if this is none, but a path."""
    match = _URI.fullmatch(argument)
    return None if match is None else match.group(1).lower()


def source_of(uri: str) -> SourceConfig:
    """The settings of a source that a URI names.

    Raises:
        ConfigError: no connector that is installed knows its scheme, or it cannot be read.
    """
    scheme = scheme_of(uri) or ""
    found = {point.name: point for point in entry_points(group=SCHEMES)}
    point = found.get(scheme) or found.get(scheme.partition("+")[0])
    if point is None:
        raise ConfigError(
            f"no connector knows {scheme}://; installed are {', '.join(f'{name}://' for name in sorted(found))}",
            "install the package that has it, or give a folder",
        )
    settings_of: SettingsOf = point.load()
    try:
        table = dict(settings_of(uri))
    except ValueError as error:
        raise ConfigError(f"{scheme}://: {error}", "see docs/connectors.md for the URIs of each connector") from None
    return SourceConfig.model_validate({"connector": point.name} | table)
