"""From settings to a source; what it is built of is loaded only then, and may be missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from connectors.settings import parse, secrets_of
from connectors.web.settings import WebSettings
from pipeline.errors import ConfigError
from pipeline.ports import Source

_NEEDED: Final = ("httpcore2", "protego", "lxml")


def connector(
    source_id: str, settings: Mapping[str, Any], document_limit_bytes: int, state: Path | None = None
) -> Source:
    """Make a web source.

    Raises:
        ConfigError: a setting is unknown or wrong, or a library is missing.
    """
    found = parse(WebSettings, source_id, settings)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"sources.{source_id}: {', '.join(missing)} is not installed", "pip install 'vectide[web]'")
    with secrets_of(source_id):
        found.authorization()
    from connectors.web.source import WebSource

    return WebSource(source_id, found, document_limit_bytes, state)
