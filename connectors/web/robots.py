"""What robots.txt allows (RFC 9309): one file a host, kept for an hour."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from protego import Protego

from connectors.web.addresses import Address
from connectors.web.client import Broken, Client
from connectors.web.network import Forbidden

#: Until it is asked for again; the standard allows a day.
_AGE_SECONDS: Final = 3600.0
#: The same while it cannot be read.
_AGAIN_SECONDS: Final = 60.0
#: Rules that could be read once stand for so long while the file cannot be read any more.
_STALE_SECONDS: Final = 86400.0
#: The standard's: what lies behind is not heeded.
_LIMIT_BYTES: Final = 500 * 1024


@dataclass(frozen=True, slots=True)
class _Rules:
    rules: Protego
    read_at: float
    until: float
    unreadable: str = ""


class Robots:
    """The rules of all hosts of a source. Used by one thread.

    Args:
        client: of the source.
        user_agent: as it is sent; its first word is the name that rules are looked up by.
    """

    def __init__(self, client: Client, user_agent: str) -> None:
        self.name = user_agent.partition("/")[0].split()[0]
        """What robots.txt, ``X-Robots-Tag`` and ``<meta name=...>`` call this reader."""
        self._client = client
        self._hosts: dict[str, _Rules] = {}

    def disallows(self, address: Address) -> bool:
        """True if the page must not be asked for.

        Raises:
            Broken: the file cannot be read now, so that nothing of the host may be.
            Paused: the host is to be left alone.
        """
        return not self._readable(address).can_fetch(address.url, self.name)

    def sitemaps(self, address: Address) -> list[str]:
        """The URLs that it names.

        Raises:
            Broken, Paused: as above.
        """
        return [str(url) for url in self._readable(address).sitemaps]

    def _readable(self, address: Address) -> Protego:
        found = self._of(address)
        if found.unreadable:
            raise Broken(f"robots.txt of {address.authority} cannot be read: {found.unreadable}")
        return found.rules

    def _of(self, address: Address) -> _Rules:
        host = f"{address.scheme}://{address.authority}"
        known, now = self._hosts.get(host), time.monotonic()
        if known is not None and now < known.until:
            return known
        try:
            rules = self._read(address.at("/robots.txt"))
            found = _Rules(rules, now, now + _AGE_SECONDS)
        except (Broken, Forbidden) as error:
            if known is not None and not known.unreadable and now < known.read_at + _STALE_SECONDS:
                found = _Rules(known.rules, known.read_at, now + _AGAIN_SECONDS)
            else:
                found = _Rules(Protego.parse(""), now, now + _AGAIN_SECONDS, str(error))
        self._client.delay(address, float(found.rules.crawl_delay(self.name) or 0.0))
        self._hosts[host] = found
        return found

    def _read(self, address: Address) -> Protego:
        with self._client.get(address) as answer:
            if answer.status >= 500 or answer.status == 429:
                raise Broken(f"it answers {answer.status}")
            if answer.status != 200:
                return Protego.parse("")  # there is none: everything is allowed
            text = answer.read(_LIMIT_BYTES)[:_LIMIT_BYTES].decode("utf-8", "replace")
        try:
            return Protego.parse(text.removeprefix("\ufeff"))
        except Exception as error:  # of the library, on one file: what it says is not known
            raise Broken(f"{type(error).__name__}: {error}") from None
