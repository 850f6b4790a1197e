"""A source whose documents are pushed over HTTP: it puts server, tokens and parser together, and drains them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from connectors.http.settings import HttpSettings
from connectors.mapping import Rule
from connectors.push.intake import Intake, Limits
from connectors.push.ledger import Memory
from connectors.settings import parse
from pipeline.deadline import Deadline
from pipeline.errors import ConfigError, SourceUnavailable
from pipeline.ports import Fetched, Hint, Listed, Skipped

if TYPE_CHECKING:
    from connectors.http.serving import Running

_NOTHING: Final = "documents are pushed to it: there is nothing to list or to fetch"


def connector(source_id: str, settings: Mapping[str, Any], document_limit_bytes: int) -> HttpSource:
    """The source of ``[sources.<id>]``."""
    return HttpSource(source_id, parse(HttpSettings, source_id, settings), document_limit_bytes)


class HttpSource:
    """A :class:`connectors.push.source.PushSource`.

    Args:
        source_id: its id.
        settings: of the source.
        document_limit_bytes: a larger text is refused.
        rules: for metadata.
    """

    def __init__(
        self,
        source_id: str,
        settings: HttpSettings,
        document_limit_bytes: int,
        rules: tuple[Rule, ...] = (),
    ) -> None:
        self.id = source_id
        self.rules = rules
        self.limits = replace(Limits(), queue_bytes=settings.buffer_bytes)
        self.memory = Memory(
            settings.tombstone_seconds,
            settings.tombstone_limit,
            settings.idempotency_seconds,
            settings.idempotency_limit,
        )
        self.lag_limit_records = settings.lag_limit_records
        self.port = 0
        """That it listens on, once it does."""
        self._settings = settings
        self._document_limit = document_limit_bytes
        self._closed = threading.Event()
        self._running: Running | None = None

    def with_rules(self, rules: tuple[Rule, ...]) -> HttpSource:
        """The same source, whose documents get metadata by these rules."""
        return HttpSource(self.id, self._settings, self._document_limit, rules)

    # ------------------------------------------------------------------------ a PushSource

    def listen(self, intake: Intake, epoch: int, count: Callable[[int], None]) -> None:
        """Begin to take requests.

        Raises:
            ConfigError: a file, the address or the certificate is wrong, or the extra is not installed.
        """
        try:
            from connectors.http.serving import Running
        except ImportError as error:
            raise ConfigError(
                f"the http connector needs a package that is not installed: {error.name}",
                "pip install 'vectide[http]'",
            ) from None
        running = Running(self.id, epoch, self._settings, self._document_limit, intake, bool(self.rules), count)
        self._running = running
        self.port = running.port
        if self._closed.is_set():
            running.refuse()

    def drain(self, deadline: Deadline) -> None:
        """Let those have their answers who wait for one, then close."""
        running, self._running = self._running, None
        if running is not None:
            running.close(deadline)

    # ---------------------------------------------------------------------------- a Source

    def scan(self) -> Iterator[Listed]:
        """It cannot."""
        raise SourceUnavailable(_NOTHING)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        """It cannot."""
        raise SourceUnavailable(_NOTHING)

    def hints(self, timeout: float) -> list[Hint]:
        """None, ever; waits."""
        self._closed.wait(timeout)
        return []

    def close(self) -> None:
        """Refuse what is asked from now on; what is under way is answered."""
        self._closed.set()
        running = self._running
        if running is not None:
            running.refuse()
