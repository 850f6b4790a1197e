"""A :class:`pipeline.ports.Source` over the pages of a site.

Nothing tells of a page that changed: each poll reads sitemaps and feeds, and asks for the pages that are due, most of
which answer that nothing has changed. The revision of a page is a hash of what would be published, so neither entity
tags that change with every answer nor servers without any publish anything.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from connectors.extraction import Extractor
from connectors.polling import Polling
from connectors.web.addresses import Address, Paths
from connectors.web.client import Client, Hosts
from connectors.web.discovery import WHOLE_SECONDS, Discovery
from connectors.web.ledger import Ledger
from connectors.web.pages import Pages
from connectors.web.reading import Reader
from connectors.web.robots import Robots
from connectors.web.settings import WebSettings
from pipeline.errors import SourceUnavailable, Transient
from pipeline.ports import Fetched, Hint, Listed, Skipped

log = logging.getLogger(__name__)

#: So many may be gone at once, however few pages there are.
_FEW: Final = 10
#: Where listings take long, the pages that are known have their turn so often, and for so long.
_TURN_SECONDS: Final = 15.0
#: What happens to a site on one day is seen page by page, as each is looked at or its time of grace is over.
_DAY_SECONDS: Final = 86400.0


@dataclass(slots=True)
class _Tally:
    """How far a scan has come."""

    before: int
    """Pages that were there when it began."""
    cursor: int = 0
    gone: list[str] = field(default_factory=list)
    folded: dict[str, str] = field(default_factory=dict)
    """Pages that were listed before, by those that stand for them now."""
    only: bool = False
    """True: what does not belong to the source is of no use to anybody."""
    left_out: int = 0
    """Pages that are named and were never there."""
    first_left_out: str = ""


class WebSource:
    """The pages of a site.

    Args:
        id: the source's.
        settings: of the source.
        limit_bytes: a larger text is not published.
        state: a folder for what is known of the pages; None: it is kept in memory.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        id: str,
        settings: WebSettings,
        limit_bytes: int,
        state: Path | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = id
        self._settings = settings
        self._clock = clock
        self._hosts = Hosts(settings)
        self._client = Client(settings, self._hosts)
        robots = Robots(self._client, settings.user_agent)
        self._extractor = Extractor(settings.extraction, limit_bytes)
        reader = Reader(self._client, robots, self._extractor, settings.page_limit_bytes, limit_bytes)
        self._ledger = Ledger(state, settings.pages_limit)
        self._paths = Paths(settings.seeds[0])
        self._include = GitIgnoreSpec.from_lines(settings.include) if settings.include else None
        self._exclude = GitIgnoreSpec.from_lines(settings.exclude) if settings.exclude else None
        self._discovery = Discovery(settings, self._client, robots, self._hosts, self._ledger, self._admitted, clock)
        self._pages = Pages(settings, reader, self._ledger, self._paths, self._admitted, self._discovery.probe, clock)
        self._within = 2 * max(_DAY_SECONDS, settings.recheck_seconds)
        """Seconds within which pages that go are held against the limit together."""
        self._lost: dict[str, tuple[float, str]] = {}
        """When documents went that the cache did not know, and what stands for them."""
        self._told = False
        self._closed = threading.Event()
        self._polling = Polling(settings.poll_seconds, self._closed)

    def scan(self) -> Iterator[Listed | None]:
        """Every page that there is; those that are due are asked for. Pauses with each listing, and with each page that
        is not listed.

        Raises:
            SourceUnavailable: a listing or the site cannot be read, or far too much of it is gone within a short time.
        """
        with self._polling.listing():
            yield from self._scanned()

    def hints(self, timeout: float) -> list[Hint]:
        """A scan whenever it is time for one."""
        return self._polling.hints(timeout)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        """The page now.

        Raises:
            SourceUnavailable: the site is away.
            Transient, Poison: this page cannot be read now, or as it is.
        """
        if (just_read := self._pages.just_read(path)) is not None:
            return just_read
        address = self._paths.address_of(path)
        if address is None or self._admitted(address) is None:
            return None
        known = self._ledger.page(path)
        found = self._pages.fetched(path, address)
        if found is None and (known is None or not known.revision):
            self._unheard(path)
        elif found is None and known is not None and known.listed:  # a scan sees what else is gone, and what is new
            raise Transient(f"{address.url}: it is gone since the last scan; the next one says so")
        return found

    def _unheard(self, path: str) -> None:
        """A document is gone that this cache has never seen, for it was lost: it counts against the limit, too.

        Raises:
            Transient: that is too much to believe.
        """
        now, limit = self._clock(), self._settings.removal_limit_percent
        page = self._ledger.page(path)
        self._lost = {one: said for one, said in self._lost.items() if said[0] >= now - self._within}
        lost = {**self._lost, path: (now, "" if page is None else page.target)}
        targets = [target for _, target in lost.values() if target]
        gone = len(lost) - len(set(targets))
        if gone > _FEW and limit < 100 and gone * 100 > limit * (self._ledger.count() + gone):
            if page is not None and page.state == "gone":
                page.state = "new"
                self._ledger.put(page)
            raise Transient(
                f"it is gone, as {gone - 1} others of which nothing is known here; it stays for now. If that is right, "
                "set removal_limit_percent = 100 until they are"
            )
        self._lost = lost

    def close(self) -> None:
        """Wake a waiting :meth:`hints`, let connections go, and end reading."""
        self._closed.set()
        self._extractor.close()
        self._client.close()
        self._ledger.close()

    # ---------------------------------------------------------------------------- listing

    def _scanned(self) -> Iterator[Listed | None]:
        # What is gone is remembered until listings are read as a whole: they may still name it.
        self._ledger.forget(self._clock() - max(WHOLE_SECONDS, self._within, 2 * self._settings.poll_seconds))
        tally = _Tally(self._ledger.count())
        # Listings that were read by other rules are forgotten first: else what was named by them is not known again.
        tally.only = not self._ledger.others(self._discovery.rules)
        turn = time.monotonic() + _TURN_SECONDS
        for _ in self._discovery.steps():
            yield None
            if time.monotonic() > turn:
                yield from self._listed(tally, time.monotonic() + _TURN_SECONDS)
                turn = time.monotonic() + _TURN_SECONDS
        yield from self._listed(tally)
        self._remove(tally)
        if tally.left_out and not self._told:
            self._told = True
            extra = {"source": self.id, "pages": tally.left_out, "first": tally.first_left_out}
            log.warning("pages that listings name are left out", extra=extra)

    def _listed(self, tally: _Tally, until: float = math.inf) -> Iterator[Listed | None]:
        """The next pages that there are, up to a time on the monotonic clock."""
        while time.monotonic() < until and (page := self._ledger.after(tally.cursor)) is not None:
            tally.cursor = page.id
            listed = None
            address = self._paths.address_of(page.path)
            if address is not None and self._admitted(address) is not None:
                page = self._pages.checked(page)
                match self._pages.verdict(page):
                    case "there":
                        if not page.listed:
                            page.listed = 1
                            self._ledger.put(page)
                        # What cannot be read now is said to the runner, which counts it and keeps what it has.
                        listed = Listed(page.path, page.revision + "!" * (page.failures > 0))
                    case "gone" if page.state != "gone":
                        tally.gone.append(page.path)
                    case "not there" if page.target and page.listed:
                        tally.folded[page.path] = page.target
                    case "not there" if page.missing_since:
                        tally.left_out += 1
                        tally.first_left_out = tally.first_left_out or f"{page.path}: {page.why}"
            elif tally.only:
                self._ledger.drop(page)
            elif page.listed:  # by other rules than these
                page.listed = 0
                self._ledger.put(page)
            if self._closed.is_set():
                raise SourceUnavailable("the source is closed")
            yield listed

    def _remove(self, tally: _Tally) -> None:
        """What is gone is gone, unless it is too much to believe.

        Raises:
            SourceUnavailable: it is.
        """
        limit, now = self._settings.removal_limit_percent, self._clock()
        left = self._ledger.left(now - self._within)
        # Many pages that all give way to the same few are lost as well: a template that names a wrong canonical page.
        folded = sum(left.folded.values())
        merged = folded + len(tally.folded) - len({*left.folded, *tally.folded.values()})
        earlier = left.gone + folded - len(left.folded)
        gone, before = left.gone + len(tally.gone) + merged, tally.before + earlier
        first = next(iter((*tally.gone, *tally.folded)), None)
        if first is not None and gone > _FEW and limit < 100 and gone * 100 > limit * max(before, gone):
            when = f"within {self._within / 3600:g} hours" if earlier else "at once"
            others = f", {merged} of them for others that they say they stand for or have moved to" if merged else ""
            raise SourceUnavailable(
                f"{gone} of {before} pages are gone {when}{others}, such as {first!r}; nothing is deleted"
                f"{' any more' if earlier else ''}. If that is right, set removal_limit_percent = 100 until they are"
            )
        for path in (*tally.gone, *tally.folded):
            page = self._ledger.page(path)
            if page is not None:
                page.listed, page.left_at = 0, now
                page.state = page.state if path in tally.folded else "gone"
                self._ledger.put(page)
        if limit == 100:
            self._ledger.settle()

    def _admitted(self, address: Address) -> str | None:
        """The path of a page, if it can be a document of this source."""
        if not self._hosts.has(address):
            return None
        path = self._paths.path_of(address)
        if path is None or (self._exclude is not None and self._exclude.match_file(path)):
            return None
        return None if self._include is not None and not self._include.match_file(path) else path
