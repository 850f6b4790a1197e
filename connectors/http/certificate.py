"""The certificate of the server: read again when its files change, for the connections that come then."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from connectors.http.files import Watch
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)


class Certificate:
    """A certificate and its key. A new connection gets the newest pair that fits together; a pair that does not, as
    while one of two files is written, changes nothing.

    Args:
        chain: the certificate and what signed it, PEM.
        key: of the certificate, PEM.

    Raises:
        ConfigError: a file cannot be read, or they do not fit together.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._files = (chain, key)
        self._watch = Watch(chain, key)
        try:
            self._newest = self._read()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"tls_certificate_file {chain}, tls_key_file {key}: {error}", "give a certificate and its key"
            ) from None
        self.context = self._newest
        """What a server is given, once and for all; each handshake takes the newest pair."""
        self.context.sni_callback = self._greeted

    def _greeted(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """A handshake begins, with the name of a host or without."""
        self._watch.refresh(self._read_again)
        connection.context = self._newest

    def _read_again(self) -> None:
        files = {"certificate": str(self._files[0]), "key": str(self._files[1])}
        try:
            self._newest = self._read()
        except (OSError, ssl.SSLError) as error:
            log.error("the certificate stays as it was", extra={**files, "error": str(error)})  # noqa: TRY400 - nobody needs the traceback
        else:
            log.info("the certificate was read again", extra=files)

    def _read(self) -> ssl.SSLContext:
        # A context of its own: one that has a certificate and is given another one's key is left with neither.
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.load_cert_chain(*self._files, password=_no_password)
        return found


def _no_password() -> str:
    """For a key with one: without this, OpenSSL asks at the terminal."""
    raise ssl.SSLError("the key has a password: give it without one")
