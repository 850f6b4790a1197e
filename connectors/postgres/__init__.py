"""The postgres connector: rows of chosen tables, followed by logical replication.

A document's path is its table and its key. See docs/adr/0005-sources-with-a-log.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.postgres.settings import SCHEMES, PostgresSettings, settings_of
from connectors.settings import parse
from pipeline.errors import ConfigError
from pipeline.ports import Source

__all__ = ["SCHEMES", "PostgresSettings", "connector", "settings_of"]


def connector(source_id: str, settings: Mapping[str, Any], document_limit_bytes: int) -> Source:
    """Make a postgres source.

    Raises:
        ConfigError: a setting is unknown or wrong, or the client is not installed.
    """
    checked = parse(PostgresSettings, source_id, settings)
    try:
        from connectors.postgres.source import PostgresSource
    except ModuleNotFoundError as error:
        if error.name != "psycopg2":
            raise
        raise ConfigError(
            f"sources.{source_id}: connector postgres needs psycopg2", "pip install 'vectide[postgres]'"
        ) from None
    return PostgresSource(source_id, checked, document_limit_bytes)
