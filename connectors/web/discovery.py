"""Which pages there are: what sitemaps and feeds name.

They only lead to pages. What they name no more, and what has left a feed's window, is still known: whether a page is
gone, only the page itself says.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from connectors.web.addresses import Address
from connectors.web.client import Answer, Broken, Client, Hosts, Paused
from connectors.web.ledger import Ledger, Listing
from connectors.web.listings import LIMIT_BYTES, Entry, Garbled, entries
from connectors.web.network import Forbidden
from connectors.web.robots import Robots
from connectors.web.settings import WebSettings
from pipeline.errors import SourceUnavailable
from pipeline.identity import content_hash

log = logging.getLogger(__name__)

#: An index that names indexes; and pieces of one feed (RFC 5005).
_DEPTH: Final = 2
_PIECES: Final = 10
_LISTINGS: Final = 2000
#: A listing whose index says that it did not change is asked for all the same from time to time.
_HINT_SECONDS: Final = 3600.0
#: So often a listing is read as a whole, unchanged or not: what the cache has forgotten of it is known again.
WHOLE_SECONDS: Final = 7 * 86400.0
_BATCH: Final = 500
_IN_MEMORY_BYTES: Final = 1 << 20
_PART_BYTES: Final = 1 << 16
_TOLD: Final = 1000


class _Named(NamedTuple):
    address: Address
    depth: int
    hint: str
    piece: int


class Discovery:
    """Reads the listings of one source. Used by one thread.

    Args:
        settings: of the source.
        client: of the source.
        robots: of its hosts; the first one's names sitemaps.
        hosts: of the source.
        ledger: is told of every page.
        path_of: the path of a page that the source admits; None: it does not.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        settings: WebSettings,
        client: Client,
        robots: Robots,
        hosts: Hosts,
        ledger: Ledger,
        path_of: Callable[[Address], str | None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._client = client
        self._robots = robots
        self._hosts = hosts
        self._ledger = ledger
        self._path_of = path_of
        self._clock = clock
        self._told: set[str] = set()
        # Under other rules other pages count, also of a listing that did not change.
        rules = settings.model_dump_json(include={"site", "sitemaps", "feeds", "hosts", "include", "exclude"})
        self.rules = content_hash(rules)[:16]
        """Tells the listings that were read by these settings."""

    def steps(self) -> Iterator[None]:
        """Reads all listings, one a step, those first that are named in the settings.

        Raises:
            SourceUnavailable: one of those cannot be read now.
        """
        seen: set[str] = set()
        queue: list[_Named] = []
        for address in self._seeds():
            queue += self._read(_Named(address, 0, "", 0))
            seen.add(address.url)
            yield
        while queue:
            # Those first that were not read for the longest time: where there is no time for all, all get their turn.
            waiting = [one for one in queue if one.address.url not in seen]
            waiting.sort(key=lambda one: self._read_at(one.address))
            queue = []
            for one in waiting:
                if one.address.url in seen or len(seen) >= _LISTINGS:
                    continue
                seen.add(one.address.url)
                queue += self._inner(one)
                yield

    def probe(self) -> None:
        """Asks whether the site is there at all.

        Raises:
            SourceUnavailable: it is not.
        """
        self._read(_Named(self._seeds()[0], 0, "", 0))

    def _seeds(self) -> list[Address]:
        found = [Address.parse(url) for url in (*self._settings.sitemaps, *self._settings.feeds)]
        if not self._settings.site:
            return found
        site = Address.parse(self._settings.site)
        try:
            named = self._robots.sitemaps(site)
        except (Broken, Paused) as error:
            raise SourceUnavailable(f"{site.url}: {error}") from None
        for url in named:
            try:
                address = Address.parse(url, site)
            except ValueError:
                continue
            if self._hosts.has(address):
                found.append(address)
            else:
                self._tell(f"a sitemap in robots.txt lies on a host that is not in `hosts`: {address.authority}", url)
        return found or [site.at("/sitemap.xml")]

    def _inner(self, one: _Named) -> list[_Named]:
        """A listing that another one names: without it, the others are read all the same."""
        known = self._known(one.address)
        if known is not None and one.hint and known.hint == one.hint and self._clock() - known.read_at < _HINT_SECONDS:
            return self._named(json.loads(known.names), one)
        try:
            return self._read(one)
        except SourceUnavailable as error:
            if self._client.closed:
                raise
            self._tell(str(error), one.address.url)
            return []

    def _read(self, one: _Named) -> list[_Named]:
        url = one.address.url
        known, whole, whole_at = self._known(one.address), True, self._clock()
        if known is not None and not 0 <= whole_at - known.whole_at < WHOLE_SECONDS:
            known = None
        headers = {"accept": "application/xml,application/rss+xml,application/atom+xml,text/xml,text/plain,*/*;q=0.5"}
        if known is not None and known.etag:
            headers["if-none-match"] = known.etag
        if known is not None and known.modified:
            headers["if-modified-since"] = known.modified
        try:
            with self._client.get(one.address, headers) as answer:
                if answer.status == 304 and known is not None:
                    names, whole_at = known.names, known.whole_at
                elif answer.status != 200:
                    remedy = "; check the credentials" if answer.status in (401, 403) else ""
                    raise SourceUnavailable(f"{url} answers {answer.status}{remedy}")
                else:
                    found, whole = self._taken(answer)
                    names = json.dumps(found)
                etag, modified = answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
        except (Broken, Paused, Forbidden, Garbled, OSError) as error:  # the last: no room for it on the disk
            raise SourceUnavailable(f"{url}: {error}") from None
        if not whole:  # to be read again, as it is, once there is room
            etag, modified = "", ""
        self._ledger.put_listing(
            Listing(self._key(one.address), etag, modified, one.hint, self._clock(), names, whole_at)
        )
        return self._named(json.loads(names), one)

    def _taken(self, answer: Answer) -> tuple[list[list[str]], bool]:
        """The listings that it names, and whether all pages that it names are noted."""
        names: list[list[str]] = []
        whole = True
        batch: list[tuple[str, str, str]] = []
        # Kept first: what becomes of 50,000 entries is not to count as the server's time.
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            for part in answer.parts(LIMIT_BYTES):
                file.write(part)
            file.seek(0)
            for entry in entries(iter(lambda: file.read(_PART_BYTES), b"")):
                if entry.kind == "page":
                    if (one := self._row(entry, answer.address)) is not None:
                        batch.append(one)
                elif len(names) < _LISTINGS:
                    names.append([entry.kind, self._absolute(entry.url, answer.address), entry.hint])
                if len(batch) >= _BATCH:
                    whole = self._ledger.note(batch) and whole
                    batch = []
        return names, self._ledger.note(batch) and whole

    def _row(self, entry: Entry, base: Address) -> tuple[str, str, str] | None:
        try:
            address = Address.parse(entry.url, base)
        except ValueError:
            return None
        path = self._path_of(address)
        return None if path is None else (path, address.url, entry.hint.replace("\n", " "))

    def _absolute(self, url: str, base: Address) -> str:
        try:
            return Address.parse(url, base).url
        except ValueError:
            return ""

    def _named(self, names: list[list[str]], by: _Named) -> list[_Named]:
        found = []
        for kind, url, hint in names:
            depth, piece = (by.depth, by.piece + 1) if kind == "next" else (by.depth + 1, 0)
            if url and depth <= _DEPTH and piece < _PIECES:
                address = Address.parse(url)
                if self._hosts.has(address):
                    found.append(_Named(address, depth, hint, piece))
        return found

    def _key(self, address: Address) -> str:
        return f"{self.rules} {address.url}"

    def _known(self, address: Address) -> Listing | None:
        return self._ledger.listing(self._key(address))

    def _read_at(self, address: Address) -> float:
        known = self._known(address)
        return 0.0 if known is None else known.read_at

    def _tell(self, why: str, url: str) -> None:
        if url not in self._told and len(self._told) < _TOLD:
            self._told.add(url)
            log.warning("a listing cannot be read", extra={"url": url, "error": why})
