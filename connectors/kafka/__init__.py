"""The kafka connector: topics of any cluster as they are, each record's key a document.

See docs/adr/0008-topics-as-sources.md. The client is vectide's own (:mod:`pipeline.broker.kafka_topics`); this
package is ``connectors.kafka``, and what is imported as ``kafka`` is the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectors.kafka.settings import KafkaSettings, settings_of
from connectors.settings import parse, secrets_of
from pipeline.ports import Source

__all__ = ["KafkaSettings", "connector", "settings_of"]


def connector(source_id: str, settings: Mapping[str, Any], document_limit_bytes: int, state: Path | None) -> Source:
    """Make a kafka source.

    Raises:
        ConfigError: a setting is unknown or wrong, or a file that it names is.
    """
    checked = parse(KafkaSettings, source_id, settings)
    with secrets_of(source_id):
        checked.cluster()
    from connectors.kafka.source import KafkaSource

    return KafkaSource(source_id, checked, document_limit_bytes, state)
