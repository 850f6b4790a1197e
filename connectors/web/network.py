"""Connections that lead only where they may, and end when their time is over; with client.py the only file that
knows httpcore2.

A name is resolved here and nowhere else, and what is connected to is the very address that was checked: a name
server that gives another answer a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpcore2

from pipeline.deadline import Deadline

_CONNECT_SECONDS: Final = 5.0
#: A system asks a second name server after five.
_RESOLVE_SECONDS: Final = 10.0
#: Names that are asked for at the same time, those given up among them.
_QUESTIONS: Final = 4
#: Addresses of one name that are tried.
_ADDRESSES: Final = 4
#: Carriers of IPv4 in IPv6: what they lead to is what counts.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Forbidden(Exception):
    """This must not be asked for."""


class Astray(Forbidden):
    """It was moved for good to where this source has no business."""


class Resolver:
    """Addresses of names, by the system: it has an idea of its own of how long a name server may be silent, and cannot
    be interrupted. So each question has a thread, which is left alone once its time is over; of those there are a few.
    """

    def __init__(self) -> None:
        self._asking = threading.BoundedSemaphore(_QUESTIONS)

    def addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """All of a host, each once.

        Raises:
            httpcore2.ConnectError: it has none, or nobody knows in time.
        """
        if not self._asking.acquire(blocking=False):
            raise httpcore2.ConnectError(f"name servers do not answer: {_QUESTIONS} questions are open")
        found: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found.put(list(dict.fromkeys(str(one[4][0]) for one in rows)))
            except Exception as error:
                found.put(error)
            finally:
                self._asking.release()

        try:
            threading.Thread(target=ask, name="resolver", daemon=True).start()
        except RuntimeError as error:  # this process may have no further thread
            self._asking.release()
            raise httpcore2.ConnectError(f"{host} is not looked up: {error}") from None
        try:
            answer = found.get(timeout=seconds)
        except queue.Empty:
            raise httpcore2.ConnectError(f"no name server has answered for {host} in time") from None
        if isinstance(answer, Exception):
            raise httpcore2.ConnectError(f"{host} has no address: {answer}")
        return answer


class Guard(httpcore2.NetworkBackend):
    """Connects to addresses that may be connected to. Used by one thread.

    Args:
        may_be_private: whether the owner of the configuration has said that this host lies in a private network.
    """

    def __init__(self, may_be_private: Callable[[str], bool]) -> None:
        self.deadline = Deadline.never()
        """Of whatever is asked next."""
        self._may_be_private = may_be_private
        self._backend = httpcore2.SyncBackend()
        self._resolver = Resolver()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """A connection to an address of the host that was checked."""
        seconds = min(_RESOLVE_SECONDS, self.left(httpcore2.ConnectTimeout))
        addresses = self._resolver.addresses(host, port, seconds)[:_ADDRESSES]
        allowed = [one for one in addresses if public(one) or self._named(host, one)]
        if not allowed:
            raise Forbidden(
                f"{host} is {addresses[0]}, a private address; if that is right, name it in `private_hosts`"
            )
        last: Exception | None = None
        for address in allowed:
            try:
                seconds = min(_CONNECT_SECONDS, self.left(httpcore2.ConnectTimeout))
                return _Timed(self._backend.connect_tcp(address, port, seconds, None, socket_options), self)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                last = error
        assert last is not None  # there was an address
        raise last

    def _named(self, host: str, address: str) -> bool:
        """True if the settings say that this private address is right; those of this link, where clouds keep their
        credentials, must be given as they are.
        """
        if not self._may_be_private(host):
            return False
        return host == address or not ipaddress.ip_address(address.partition("%")[0]).is_link_local

    def left(self, error: type[Exception]) -> float:
        """Seconds until the deadline; raises ``error`` once there are none."""
        if self.deadline.expired:
            raise error("its time is over")
        return self.deadline.remaining()


class _Timed(httpcore2.NetworkStream):
    """A stream whose every step ends with the guard's deadline: an answer of one byte a second ends, too."""

    def __init__(self, stream: httpcore2.NetworkStream, guard: Guard) -> None:
        self._stream = stream
        self._guard = guard

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As the stream."""
        return self._stream.read(max_bytes, self._guard.left(httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As the stream."""
        self._stream.write(buffer, self._guard.left(httpcore2.WriteTimeout))

    def close(self) -> None:
        """As the stream."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        """As the stream; the certificate is held against the host's name."""
        left = self._guard.left(httpcore2.ConnectTimeout)
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, left), self._guard)

    def get_extra_info(self, info: str) -> Any:
        """As the stream."""
        return self._stream.get_extra_info(info)


def public(address: str) -> bool:
    """True if anybody may connect to it: neither private nor of this machine or link, wrapped or not."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast
