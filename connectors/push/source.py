"""The seam between the one writer of a pushed source and what listens for its senders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from connectors.mapping import Rule
from connectors.push.intake import Intake, Limits
from connectors.push.ledger import Memory
from pipeline.deadline import Deadline
from pipeline.ports import Source


@runtime_checkable
class PushSource(Source, Protocol):
    """A source that is told its documents. It can list and fetch none: ``scan`` and ``fetch`` raise
    ``SourceUnavailable``, so that nobody takes it for an empty one.
    """

    limits: Limits
    memory: Memory
    lag_limit_records: int
    """The pipeline may be behind by so many records of the log before senders are asked to wait; 0: by any number."""
    rules: tuple[Rule, ...]

    def with_rules(self, rules: tuple[Rule, ...]) -> PushSource:
        """The same source, whose documents get metadata by these rules."""
        ...

    def listen(self, intake: Intake, epoch: int, count: Callable[[int], None]) -> None:
        """Begin to take requests; called once, from the writer's thread.

        Args:
            intake: where they wait to be written.
            epoch: of the documents topic.
            count: told the status of every answer.

        Raises:
            ConfigError: it cannot listen where it is told to.
        """
        ...

    def drain(self, deadline: Deadline) -> None:
        """Let those have their answers who wait for one, then close."""
        ...
