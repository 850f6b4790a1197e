"""The client of a site: polite, bounded, and only for the hosts of the source."""

from __future__ import annotations

import logging
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from typing import Any, Final

import httpcore2

from connectors.web.addresses import Address
from connectors.web.network import Astray, Forbidden, Guard
from connectors.web.settings import WebSettings
from pipeline.deadline import Deadline
from pipeline.errors import SourceUnavailable

log = logging.getLogger(__name__)

_REDIRECTS: Final = (301, 302, 303, 307, 308)
PERMANENT: Final = (301, 308)
_HOPS: Final = 5
#: What is worth another attempt at once; the others are tried again by a later scan.
_PASSING: Final = (500, 502, 504)
_PAUSE_SECONDS: Final = 0.3
#: Attempts beyond the first ones that may be saved up, and what a page that can be read adds to them.
_SPARE: Final = (10.0, 0.1)
#: A host that asks to be left alone is, up to an hour.
_RETRY_AFTER_SECONDS: Final = (60.0, 3600.0)
_CRAWL_DELAY_SECONDS: Final = 10.0
_PART_BYTES: Final = 1 << 16
#: An answer without interest, as 304 or a redirect, is read to its end up to here: a new connection costs more.
_LEFT_BYTES: Final = 16 * 1024
_IDLE_SECONDS: Final = 30.0
_HEADER_BYTES: Final = 4096
_LOCAL: Final = frozenset({"localhost", "localhost."})


class Broken(Exception):
    """There was no answer, or it broke off."""


class Paused(Exception):
    """The host has asked to be left alone.

    Args:
        seconds: for so long.
    """

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"{host} has asked to be left alone for {seconds:.0f} s more")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is on its way."""

    address: Address
    """Where it came from, after all redirects."""
    settled: Address
    """Where it was sent to for good: after the permanent redirects that came first."""
    status: int
    headers: Mapping[str, str]
    """By name in lower case; the values of one name are joined by commas, those of ``x-robots-tag`` by line ends."""
    parts: Callable[[int], Iterator[bytes]]
    """The body, unpacked, piece by piece: no more than so many bytes, and one byte more if there are more."""

    def read(self, limit: int) -> bytes:
        """All of the body, or one byte more than ``limit``.

        Raises:
            Broken: it breaks off, or takes too long.
        """
        return b"".join(self.parts(limit))


class Hosts:
    """Which hosts belong to a source, and which of them are told its secrets.

    Args:
        settings: of the source.
    """

    def __init__(self, settings: WebSettings) -> None:
        seeds = settings.seeds
        self._own = {(one.host, one.port) for one in seeds} | {
            (one.host, port) for one in seeds if one.by_default for port in (80, 443)
        }
        self._others = settings.hosts
        self._private = settings.private_hosts
        self._named = {one.host for one in seeds}
        self._plain = {(one.host, one.port) for one in seeds if one.scheme == "http"}

    def own(self, address: Address) -> bool:
        """True for the hosts of what the settings name."""
        return (address.host, address.port) in self._own

    def has(self, address: Address) -> bool:
        """True for these and the further ones."""
        return self.own(address) or any(_matches(address, one) for one in self._others)

    def trusted(self, address: Address) -> bool:
        """True if secrets may be sent there: never unencrypted, unless the settings say ``http`` of this very host."""
        return self.own(address) and (address.scheme == "https" or (address.host, address.port) in self._plain)

    def may_be_private(self, host: str) -> bool:
        """True if the settings say so: by an address, which no name server gives, or in ``private_hosts``."""
        literal = host in self._named and (host in _LOCAL or ":" in host or host.replace(".", "").isdigit())
        return literal or any(fnmatchcase(host, _hostname(one)) for one in self._private)


class Client:
    """Asks the hosts of one source, one request after the other. Used by one thread, but for :meth:`close`.

    Args:
        settings: of the source.
        hosts: of the source.
    """

    def __init__(self, settings: WebSettings, hosts: Hosts) -> None:
        self._settings = settings
        self._hosts = hosts
        self._guard = Guard(hosts.may_be_private)
        self._closed = threading.Event()
        self._pool: httpcore2.ConnectionPool | None = None
        self._next: dict[str, float] = {}
        self._paused: dict[str, float] = {}
        self._delays: dict[str, float] = {}
        self._spare = _SPARE[0]
        self._authorization: str | None = None

    @property
    def closed(self) -> bool:
        """True once it is."""
        return self._closed.is_set()

    def close(self) -> None:
        """Wake whoever waits, and let connections go; from any thread, more than once."""
        self._closed.set()
        self._let_go()

    def _let_go(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def delay(self, address: Address, seconds: float) -> None:
        """What the host's robots.txt asks for between two requests, as far as that is heard."""
        self._delays[address.authority] = min(max(0.0, seconds), _CRAWL_DELAY_SECONDS)

    @contextmanager
    def get(
        self,
        address: Address,
        headers: Mapping[str, str] | None = None,
        permits: Callable[[Address], str] = lambda address: "",
    ) -> Iterator[Answer]:
        """The answer for an address, after redirects within the hosts of the source.

        Args:
            address: of a host of the source.
            headers: besides the usual ones; not sent on to where a redirect leads.
            permits: why an address may not be asked for; empty: it may.

        Raises:
            Broken: no answer, or not in time; after another attempt if any are left.
            Paused: the host is to be left alone.
            Forbidden: where it leads, this source has no business; Astray if it was moved there for good.
            SourceUnavailable: closed, or the secret cannot be read.
        """
        settled, permanent = address, True
        deadline = Deadline.never()
        for _ in range(_HOPS + 1):
            if not self._hosts.has(address):
                why = f"it leads to {address.authority}, which is not in `hosts`"
                raise Astray(why) if permanent else Forbidden(why)
            if why := permits(address):
                raise Forbidden(why)
            self._wait(address)
            if deadline == Deadline.never():
                deadline = Deadline.after(self._settings.timeout_seconds)  # waiting for one's turn is no fault
            response = self._sent(address, headers or {}, deadline)
            try:
                found = _headers(response)
                location = found.get("location", "")
                if response.status not in _REDIRECTS or not location:
                    yield Answer(address, settled, response.status, found, self._reading(response, found))
                    return
            finally:
                self._closing(response)
            try:
                address = Address.parse(location, address)
            except ValueError as error:
                raise Forbidden(f"it leads to no address: {error}") from None
            permanent = permanent and response.status in PERMANENT
            settled = address if permanent else settled
            headers = None
        raise Forbidden(f"it leads on and on: more than {_HOPS} redirects")

    # ------------------------------------------------------------------------ one request

    def _sent(self, address: Address, headers: Mapping[str, str], deadline: Deadline) -> httpcore2.Response:
        """One answer, with another attempt where that may help and is left."""
        response = None
        try:
            response = self._asked(address, headers, deadline)
            failed = response.status in _PASSING
        except Broken:
            failed = True
            if self._spare < 1 or deadline.remaining() < _PAUSE_SECONDS:
                raise
        if not failed:
            self._spare = min(_SPARE[0], self._spare + _SPARE[1])
        elif self._spare >= 1 and deadline.remaining() > _PAUSE_SECONDS:
            self._spare -= 1
            if response is not None:
                self._closing(response)
            self._rest(_PAUSE_SECONDS)
            response = self._asked(address, headers, deadline)
        assert response is not None  # else it was raised
        if response.status in (429, 503):
            asked = response.status == 429 or "retry-after" in _headers(response)
            if asked:
                seconds = _retry_after(_headers(response).get("retry-after", ""))
                self._paused[address.authority] = time.monotonic() + seconds
        if response.status == 401:
            self._authorization = None  # it may be another one by now
        return response

    def _asked(self, address: Address, headers: Mapping[str, str], deadline: Deadline) -> httpcore2.Response:
        self._guard.deadline = deadline
        sent = {
            "host": address.authority,
            "user-agent": self._settings.user_agent,
            "accept": "text/html,application/xhtml+xml,*/*;q=0.8",
            "accept-encoding": "gzip",
            **headers,
        }
        if self._hosts.trusted(address) and (secret := self._secret()):
            sent["authorization"] = secret
        url = httpcore2.URL(
            scheme=address.scheme.encode(),
            host=address.host.encode(),
            port=address.port,
            target=address.target.encode(),
        )
        request = httpcore2.Request(
            "GET", url, headers=[(name.encode(), value.encode()) for name, value in sent.items()]
        )
        try:
            return self._connections().handle_request(request)
        except Forbidden:
            raise
        except Exception as error:  # of httpcore2, of TLS, of h11: nobody has answered
            if self._settings.ca_file is not None and "CERTIFICATE_VERIFY_FAILED" in str(error):
                self._let_go()  # what is to be trusted may be something else by now
            raise self._broken(error) from None

    def _reading(self, response: httpcore2.Response, headers: Mapping[str, str]) -> Callable[[int], Iterator[bytes]]:
        encoding = headers.get("content-encoding", "").strip().lower()

        def parts(limit: int) -> Iterator[bytes]:
            left = limit + 1
            unpacking = zlib.decompressobj(wbits=31) if encoding in ("gzip", "x-gzip") else None
            if unpacking is None and encoding not in ("", "identity", "utf-8"):
                raise Broken(f"it answers in the content encoding {encoding[:20]!r}, which nobody asked for")
            try:
                for raw in response.iter_stream():
                    for start in range(0, len(raw), _PART_BYTES):
                        part = raw[start : start + _PART_BYTES]
                        while part and left > 0:
                            piece = unpacking.decompress(part, left) if unpacking else part[:left]
                            part = unpacking.unconsumed_tail if unpacking else b""
                            left -= len(piece)
                            if piece:
                                yield piece
                    if left <= 0:
                        return
            except zlib.error as error:
                raise Broken(f"its gzip is broken: {error}") from None
            except (Forbidden, Broken, GeneratorExit):
                raise
            except Exception as error:
                raise self._broken(error) from None
            if unpacking is not None and not unpacking.eof:
                raise Broken("its gzip breaks off")

        return parts

    def _closing(self, response: httpcore2.Response) -> None:
        """Let an answer go. Its connection can be used again if little of the body was left."""
        try:
            size = 0
            for part in response.iter_stream():
                size += len(part)
                if size > _LEFT_BYTES:
                    break
        except Exception:
            log.debug("what was left of an answer is not read")  # it was read, or breaks off
        try:
            response.close()
        except Exception as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> Exception:
        if self._closed.is_set():
            return SourceUnavailable("the source is closed")
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, httpcore2.TimeoutException):
            text = f"no answer in time ({type(error).__name__})"
        return Broken(text)

    def _connections(self) -> httpcore2.ConnectionPool:
        if self._closed.is_set():
            raise httpcore2.ConnectError("closed")
        if self._pool is None:
            context = httpcore2.default_ssl_context()
            if self._settings.ca_file is not None:
                try:
                    context = ssl.create_default_context(cafile=str(self._settings.ca_file))
                except (OSError, ssl.SSLError) as error:
                    raise SourceUnavailable(f"ca_file: {error}") from None
            self._pool = httpcore2.ConnectionPool(
                ssl_context=context, max_connections=8, keepalive_expiry=_IDLE_SECONDS, network_backend=self._guard
            )
        return self._pool

    def _secret(self) -> str:
        if self._authorization is None:
            try:
                self._authorization = self._settings.authorization()
            except ValueError as error:
                raise SourceUnavailable(str(error)) from None
        return self._authorization

    # ------------------------------------------------------------------------------- pace

    def _wait(self, address: Address) -> None:
        """For the host's turn."""
        host, now = address.authority, time.monotonic()
        paused = self._paused.get(host, 0.0)
        if paused > now:
            raise Paused(host, paused - now)
        at = max(now, self._next.get(host, 0.0))
        self._next[host] = at + max(1 / self._settings.pages_per_second, self._delays.get(host, 0.0))
        self._rest(at - now)

    def _rest(self, seconds: float) -> None:
        if self._closed.wait(max(0.0, seconds)) if seconds > 0 else self._closed.is_set():
            raise SourceUnavailable("the source is closed")


def _headers(response: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in response.headers:
        key, text = name.decode("ascii", "replace").lower(), value.decode("latin-1")[:_HEADER_BYTES]
        # Of X-Robots-Tag a reader's name counts to the end of its own header only.
        separator = "\n" if key == "x-robots-tag" else ", "
        found[key] = f"{found[key]}{separator}{text}" if key in found else text
    return found


def _retry_after(value: str) -> float:
    """Seconds, from a number or a date; a minute if it says nothing."""
    least, most = _RETRY_AFTER_SECONDS
    if value.strip().isascii() and value.strip().isdigit():  # a superscript is a digit, too
        return min(float(value.strip()[:9]), most)
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), most)
    except (ValueError, TypeError, OverflowError):
        return least


def _matches(address: Address, pattern: str) -> bool:
    host = _hostname(pattern)
    port = pattern[len(host) + 1 :] if not pattern.startswith("[") else pattern.partition("]:")[2]
    right = str(address.port) == port if port else address.by_default
    return right and fnmatchcase(address.host, host)


def _hostname(pattern: str) -> str:
    if pattern.startswith("["):
        return pattern[1:].partition("]")[0]
    return pattern.partition(":")[0]
