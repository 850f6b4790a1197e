"""Connections of the HTTP server that no client can wear out: slow ones end, probes never wait.

On waitress: one thread reads all connections, others answer. Its own time limit counts from the
last byte, so that a client which sends one byte now and then is never too slow.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from pipeline.deadline import Deadline

#: A query is at most a long paragraph.
_BODY_BYTES: Final = 64 * 1024
_HEADER_BYTES: Final = 16 * 1024
#: For a whole request to arrive, for an answer to be taken, and between two requests.
_REQUEST_SECONDS: Final = 20
_LOOK_SECONDS: Final = 2
_THREADS: Final = 4
_END_SECONDS: Final = 5.0
#: For the thread that reads to see what has arrived.
_SETTLE_SECONDS: Final = 0.05
#: Beyond it nothing is accepted, probes included; each may be open for _REQUEST_SECONDS without a request.
_CONNECTIONS: Final = 256
#: An answer that is ready after the end wakes nobody.
_NO_DESCRIPTOR: Final = -1


class Listener:
    """Serves a WSGI application in threads of its own.

    Args:
        application: WSGI.
        bound: listens already.
        probes: paths that are answered by a thread of their own.
        request_seconds: after which a connection without a whole request is closed.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        bound: socket.socket,
        probes: Collection[str],
        request_seconds: int = _REQUEST_SECONDS,
    ) -> None:
        self._server = create_server(
            application,
            _dispatcher=_Dispatcher(probes),
            sockets=[bound],
            connection_limit=_CONNECTIONS,
            asyncore_use_poll=True,  # select() fails at descriptors over 1,023
            channel_timeout=request_seconds,
            cleanup_interval=min(_LOOK_SECONDS, request_seconds),
            max_request_header_size=_HEADER_BYTES,
            max_request_body_size=_BODY_BYTES,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        self._server.channel_class = _Connection
        self._closed = False
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self, seconds: float = 0.0) -> None:
        """Accept nothing more, and stop answering once what has been asked is answered, or so many seconds
        are over.
        """
        if self._closed:
            return
        self._closed = True
        served = dict(self._server._map)  # noqa: SLF001 - all that its loop serves, before connections
        if self._thread.ident is not None:
            self._answer_the_last(Deadline.after(seconds))
            # Wakes its thread, which then runs it. What is closed there may be another file's descriptor
            # by the time that this thread, or one that answers, writes to the trigger: hence not there.
            self._server.trigger.pull_trigger(lambda: self._forget(served))
            self._thread.join(_END_SECONDS)
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        self._server.trigger.trigger = _NO_DESCRIPTOR
        wasyncore.close_all(served, ignore_all=True)

    def _forget(self, served: dict[int, Any]) -> None:
        """In the loop's thread, which ends when it has nothing to serve."""
        served.update(self._server._map)  # noqa: SLF001
        self._server._map.clear()  # noqa: SLF001

    def _answer_the_last(self, deadline: Deadline) -> None:
        if deadline.expired:
            return
        self._server.trigger.pull_trigger(lambda: wasyncore.dispatcher.close(self._server))  # its listening socket
        time.sleep(min(_SETTLE_SECONDS, deadline.remaining()))
        while self._answering() and not deadline.expired:
            time.sleep(_SETTLE_SECONDS)

    def _answering(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.requests or channel.total_outbufs_len for channel in channels)


class _Connection(HTTPChannel):  # type: ignore[misc] # the library has no types
    """Only a whole request counts as activity."""

    requested = 0
    last_activity: float
    _begun: float | None = None

    def received(self, data: bytes) -> bool:
        """Some bytes of a request, at ``last_activity``."""
        if self._begun is None:
            self._begun = self.last_activity
        before = self.requested
        done = bool(super().received(data))
        if self.requested == before:
            self.last_activity = self._begun
        else:
            self._begun = None
        return done


class _Dispatcher:
    """Threads for the routes, and one for probes: however long a search takes, a probe is answered."""

    def __init__(self, probes: Collection[str]) -> None:
        self._paths = frozenset(probes)
        self._pools = {False: ThreadedTaskDispatcher(), True: ThreadedTaskDispatcher()}
        self._pools[False].set_thread_count(_THREADS)
        self._pools[True].set_thread_count(1)

    def add_task(self, connection: _Connection) -> None:
        """A request has arrived as a whole."""
        connection.requested += 1
        probe = getattr(connection.requests[0], "path", "") in self._paths
        self._pools[probe].add_task(connection)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> None:
        """End the threads."""
        for pool in self._pools.values():
            pool.shutdown(cancel_pending, timeout)
