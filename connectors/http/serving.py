"""A running push API: what :class:`connectors.http.source.HttpSource` opens and closes. It imports the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from connectors.extraction import Extractor
from connectors.http.app import Api, Reading
from connectors.http.openapi import pages
from connectors.http.parsing import Parser
from connectors.http.server import Server
from connectors.http.settings import HttpSettings
from connectors.http.tokens import Tokens
from connectors.push.intake import Intake
from pipeline.deadline import Deadline

_LOOK_SECONDS: Final = 0.02


class Running:
    """Serves from its making until :meth:`close`.

    Args:
        source: its id.
        epoch: of the documents topic.
        settings: of the source.
        document_limit_bytes: a larger text is refused.
        intake: where requests wait for the writer.
        nested: metadata may nest, for rules that look into them.
        count: told the status of every answer.

    Raises:
        ConfigError: a file, the address or the certificate is wrong.
    """

    def __init__(
        self,
        source: str,
        epoch: int,
        settings: HttpSettings,
        document_limit_bytes: int,
        intake: Intake,
        nested: bool,
        count: Callable[[int], None],
    ) -> None:
        tokens = None if settings.tokens_file is None else Tokens(settings.tokens_file, source)
        self._extractor = Extractor(settings.extraction, document_limit_bytes)
        self._threads = (ThreadPoolExecutor(1, "http texts"), ThreadPoolExecutor(1, "http documents"))
        self._api = Api(
            source=source,
            epoch=epoch,
            settings=settings,
            tokens=tokens,
            intake=intake,
            parser=Parser(self._extractor, document_limit_bytes, settings.batch_limit, nested=nested),
            reading=Reading(*self._threads),
            page=pages(source, settings),
            count=count,
        )
        try:
            self._server = Server(settings, self._api.application())
            self.port = self._server.port
            self._server.start()
        except BaseException:
            self._end()
            raise

    def refuse(self) -> None:
        """Take nothing more; from any thread."""
        self._api.gate.draining = True

    def close(self, deadline: Deadline) -> None:
        """Let requests end that are under way, as long as there is time."""
        self.refuse()
        while self._api.gate.requests and not deadline.expired:
            time.sleep(_LOOK_SECONDS)
        self._server.close()
        self._end()

    def _end(self) -> None:
        self._extractor.close()
        for one in self._threads:
            one.shutdown(wait=True, cancel_futures=True)
