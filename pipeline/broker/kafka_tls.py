"""TLS to Kafka: one context for all connections of a process, which keeps why a handshake failed.

kafka-python tries a refused handshake again until its time is over, and then says only that; what
it was refused for is kept here, by the broker's address, until a handshake with it succeeds.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import ConfigError

#: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_NAMES: Final = (62, 64)
#: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_TIMES: Final = (9, 10)


@dataclass(frozen=True, slots=True)
class Failure:
    """A handshake that failed."""

    text: str
    remedy: str
    """What a person can do; empty if it may pass by itself."""


class TlsContext(ssl.SSLContext):
    """Verifies brokers, and keeps each one's last failure."""

    place: str
    """Of the settings in the configuration, for the texts of errors."""
    _lock: threading.Lock
    _failures: dict[str, Failure]

    def failed(self, broker: str, failure: Failure) -> None:
        """A handshake with a broker failed."""
        with self._lock:
            self._failures[broker] = failure

    def succeeded(self, broker: str) -> None:
        """A handshake with a broker succeeded."""
        with self._lock:
            self._failures.pop(broker, None)

    def failures(self) -> list[Failure]:
        """Of the brokers with which no handshake has succeeded since."""
        with self._lock:
            return list(self._failures.values())


class _Socket(ssl.SSLSocket):
    """Tells its context how a handshake went."""

    _peer = ""

    def do_handshake(self, block: bool = False) -> None:
        self._broker()
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self._told(error)
            raise
        if isinstance(self.context, TlsContext):
            self.context.succeeded(self._broker())

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            # With TLS 1.3 a broker refuses our certificate when our side of the handshake is over.
            self._told(error)
            raise

    def _told(self, error: OSError) -> None:
        if isinstance(self.context, TlsContext):
            broker = self._broker()
            self.context.failed(broker, _failure(broker, error, self.context.place))

    def _broker(self) -> str:
        with suppress(OSError):  # it has none any more when it was cut off
            self._peer = f":{self.getpeername()[1]}"
        return f"{self.server_hostname}{self._peer}"


def tls_context(options: Mapping[str, Any], place: str = "kafka") -> TlsContext:
    """A context from kafka-python's ``ssl_*`` options, checked now and not at the first connection.

    Args:
        options: of kafka-python.
        place: of its settings in the configuration, for the texts of errors.

    Raises:
        ConfigError: a file is missing or is not what it must be.
    """
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context._lock, context._failures = threading.Lock(), {}  # noqa: SLF001 - SSLContext takes no further arguments
    context.place = place
    context.sslsocket_class = _Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = bool(options.get("ssl_check_hostname", True))
    authorities = options.get("ssl_cafile")
    if authorities:
        with _reading(place, "ssl_cafile", authorities):
            context.load_verify_locations(authorities)
    else:
        context.load_default_certs()
    if options.get("ssl_certfile"):
        with _reading(place, f"ssl_certfile and {place}.ssl_keyfile", options["ssl_certfile"]):
            # A password even if there is none: OpenSSL would ask for it on the terminal.
            password = options.get("ssl_password") or ""
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password)
    elif options.get("ssl_keyfile"):
        raise ConfigError(f"{place}.ssl_keyfile is given without {place}.ssl_certfile", "give both, or neither")
    if options.get("ssl_crlfile"):
        with _reading(place, "options.ssl_crlfile", options["ssl_crlfile"]):
            context.load_verify_locations(options["ssl_crlfile"])
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


@contextmanager
def _reading(place: str, setting: str, file: Any) -> Iterator[None]:
    """Name the setting and the file of what cannot be read."""
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigError(
            f"{place}.{setting}: {file}: {error.reason or 'not PEM, or the key has another password'}",
            f"give PEM files; a key that is encrypted needs {place}.ssl_key_password",
        ) from None
    except OSError as error:
        raise ConfigError(f"{place}.{setting}: {file}: {error.strerror}", "mount the files there") from None


def _failure(broker: str, error: OSError, place: str) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the certificate of {broker} is refused: {error.verify_message}"
        if error.verify_code in _NAMES:
            return Failure(
                text,
                f"name brokers in {place}.bootstrap_servers, and brokers themselves in advertised.listeners, as their "
                "certificates do",
            )
        if error.verify_code in _TIMES:
            return Failure(text, "renew it; or is this machine's clock wrong?")
        return Failure(text, f"set {place}.ssl_cafile to the certificate of the authority that signed it")
    reason = str(getattr(error, "reason", "") or "")
    if "ALERT" in reason:
        return Failure(
            f"{broker} refuses this client: {reason.replace('_', ' ').lower()}",
            f"set {place}.ssl_certfile and {place}.ssl_keyfile to a certificate that the brokers trust",
        )
    what = reason.replace("_", " ").lower() or error.strerror or type(error).__name__
    return Failure(f"the TLS handshake with {broker} failed: {what} (does that port speak TLS?)", "")
