"""The names of everything in Kafka and in the store; all start with ``<prefix>.<pipeline>.``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.errors import ConfigError
from pipeline.records import Stage

#: Kafka allows 249 characters in a topic's name; our longest suffix takes 40.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")


@dataclass(frozen=True, slots=True)
class Names:
    """Names for one pipeline, so that many share one cluster."""

    prefix: str
    pipeline: str

    def __post_init__(self) -> None:
        for field, value in (("prefix", self.prefix), ("name", self.pipeline)):
            if not _NAME.fullmatch(value):
                raise ConfigError(
                    f"pipeline.{field} = {value!r} cannot be part of a topic's name",
                    "use lower-case letters, digits, - and _, at most 80, no dots",
                )

    @property
    def root(self) -> str:
        """What every name starts with, the last dot included."""
        return f"{self.prefix}.{self.pipeline}."

    def documents(self, epoch: int) -> str:
        """Topic: whole documents, compacted."""
        return f"{self.root}documents.{epoch}"

    def chunks(self, generation: str) -> str:
        """Topic: chunked documents of one generation."""
        return f"{self.root}chunks.{generation}"

    @property
    def dead_letters(self) -> str:
        """Topic: dead letters."""
        return f"{self.root}dead-letters"

    @property
    def connector_state(self) -> str:
        """Topic: what connectors have published."""
        return f"{self.root}connector-state"

    @property
    def control(self) -> str:
        """Topic: generations and their transitions."""
        return f"{self.root}control"

    @property
    def reports(self) -> str:
        """Topic: what each worker says about itself."""
        return f"{self.root}reports"

    def group(self, stage: Stage, generation: str) -> str:
        """Consumer group of a stage of one generation."""
        return f"{self.root}{stage}.{generation}"

    def connector(self, source: str) -> str:
        """Transactional id of the one writer of a source's keys."""
        return f"{self.root}connector.{source}"

    @property
    def operator(self) -> str:
        """Transactional id of the one writer of ``control``."""
        return f"{self.root}operator"

    def collection(self, generation: str) -> str:
        """Collection of one generation."""
        return f"{self.root}{generation}"

    @property
    def alias(self) -> str:
        """Alias of the live collection, for clients that read the store directly."""
        return f"{self.root}live"
