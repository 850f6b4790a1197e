"""The server: uvicorn in a thread of its own, with an end to every wait that a slow sender could cause."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from connectors.http.certificate import Certificate
from connectors.http.settings import HttpSettings
from pipeline.deadline import Deadline
from pipeline.errors import ConfigError
from pipeline.observe.listening import listening

_BACKLOG: Final = 256
_HEADER_BYTES: Final = 32 * 1024
_START_SECONDS: Final = 10.0
#: For what is left when the time to drain is over.
_END_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.02


class Server:
    """Serves an ASGI application until :meth:`close`.

    Args:
        settings: address, TLS and limits.
        application: what is served.

    Raises:
        ConfigError: the address or the certificate is wrong, or the port is taken.
    """

    def __init__(self, settings: HttpSettings, application: ASGIApp) -> None:
        logging.getLogger("uvicorn").propagate = True
        certificate, key = settings.tls_certificate_file, settings.tls_key_file
        config = uvicorn.Config(
            application,
            http=_timed(settings.receive_seconds),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",  # it warns of whatever a sender does wrong
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=settings.connections_limit,
            backlog=_BACKLOG,
            timeout_keep_alive=max(1, round(settings.idle_seconds)),
            timeout_graceful_shutdown=round(_END_SECONDS),
            h11_max_incomplete_event_size=_HEADER_BYTES,
        )
        config.load()
        if certificate is not None and key is not None:
            config.ssl = Certificate(certificate, key).context
        self._socket = listening(settings.host, settings.port, _BACKLOG)
        self.port = int(self._socket.getsockname()[1])
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http source", daemon=True)

    def start(self) -> None:
        """Begin to answer.

        Raises:
            ConfigError: it does not.
        """
        self._thread.start()
        deadline = Deadline.after(_START_SECONDS)
        while not self._server.started and self._thread.is_alive() and not deadline.expired:
            self._thread.join(_LOOK_SECONDS)
        if not self._server.started:
            raise ConfigError("the http source does not begin to serve", "see the log for why")

    def close(self) -> None:
        """Accept nothing more, let answers go out that are under way, and end; more than once."""
        self._server.should_exit = True
        if self._thread.ident is None:
            self._socket.close()
        else:
            self._thread.join(2 * _END_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._server.serve(sockets=[self._socket]))


def _timed(seconds: float) -> type[H11Protocol]:
    """The protocol, for senders that begin a request and never end its header, or never read an answer."""

    class Timed(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._header: asyncio.TimerHandle | None = self.loop.call_later(seconds, self._late)
            self._unread: asyncio.TimerHandle | None = None
            self._goodbye = self.loop.call_later(seconds, self._look)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            idle = self.cycle is None or self.cycle.response_complete
            if not idle:
                self._unset()
            elif self._header is None and not self.transport.is_closing():
                self._header = self.loop.call_later(seconds, self._late)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read()

        def _read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._unset()
            self._read()
            self._goodbye.cancel()
            super().connection_lost(exc)

        def _unset(self) -> None:
            if self._header is not None:
                self._header.cancel()
                self._header = None

        def _look(self) -> None:
            # One that is closed goes on until the last byte of its answer is read.
            closing = self.transport.is_closing()
            self._goodbye = self.loop.call_later(seconds, self.transport.abort if closing else self._look)

        def _late(self) -> None:
            self._header = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Timed
