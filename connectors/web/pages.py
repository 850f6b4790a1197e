"""When a page is asked for, and what becomes of what it answers.

A page is a document from the first time that it can be read until it says itself that it is gone. What lies between,
errors, login pages, an empty body, a host that is away, keeps the last version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from connectors.web.addresses import Address, Paths
from connectors.web.ledger import Ledger, Page
from connectors.web.reading import Before, Failed, Missing, Moved, Outcome, Read, Reader, Unchanged
from connectors.web.settings import WebSettings
from pipeline.errors import Poison, Transient
from pipeline.ports import Fetched, Skipped

#: Pages in a row that cannot be read: it may be the site, and not the pages.
_IN_A_ROW: Final = 5
#: Of pages that each name another one that they stand for.
_CHAIN: Final = 5
_RETRY_SECONDS: Final = 3600.0
#: So many pages that have one text may be right; another one that takes it on is waited with.
_TWINS: Final = 3
#: A page that is missing is asked for so often within the time of grace.
_LOOKS: Final = 8
#: Doublings of the wait for a page that was said to have changed, and had not, again and again.
_FALSE_HINTS: Final = 10


class Pages:
    """The pages of one source, by what is known of them. Used by one thread.

    Args:
        settings: of the source.
        reader: asks for pages.
        ledger: remembers them.
        paths: of the source.
        admitted: the path of a page that can be a document of the source.
        probe: raises SourceUnavailable if the site is away.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        settings: WebSettings,
        reader: Reader,
        ledger: Ledger,
        paths: Paths,
        admitted: Callable[[Address], str | None],
        probe: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._ledger = ledger
        self._paths = paths
        self._admitted = admitted
        self._probe = probe
        self._clock = clock
        self._in_a_row = 0
        self._just_read: tuple[str, Read] | None = None

    def checked(self, page: Page) -> Page:
        """A page as it is known after it was asked for, if it was due.

        Raises:
            SourceUnavailable: the site is away.
        """
        self._at_home(page)
        if self._due(page, self._clock()):
            # A page that a listing names again after it was gone is read whatever it says.
            known = page.state == "live" and page.extraction == self._reader.extraction(page.name)
            before = Before(page.etag, page.modified, page.body, page.name) if known else None
            self._asked(page, before)
        return page

    def verdict(self, page: Page) -> Literal["there", "gone", "not there"]:
        """``there``: it is a document, or may be. ``gone``: it was one. Else it is none."""
        now, grace = self._clock(), self._settings.grace_seconds
        if page.target and self._stands_for(page) is not None:
            return "not there"
        if page.state == "gone":
            return "gone"
        if page.state == "moved" and not page.missing_since:
            page.missing_since, page.why = now, f"it was moved to {page.target!r}, which cannot be read"
            self._ledger.put(page)
        if not page.missing_since:
            return "there" if page.revision or page.failures else "not there"
        if not page.revision:
            return "not there"
        return "gone" if page.final or page.checked_at >= page.missing_since + grace else "there"

    def just_read(self, path: str) -> Fetched | Skipped | None:
        """What the check before this call has read, once; None if it was another page."""
        just_read, self._just_read = self._just_read, None
        return _given(just_read[1]) if just_read is not None and just_read[0] == path else None

    def fetched(self, path: str, address: Address) -> Fetched | Skipped | None:
        """A page as it is now; None if it is gone, or another one stands for it.

        Raises:
            SourceUnavailable: the site is away.
            Transient, Poison: this page cannot be read now, or as it is.
        """
        page = self._ledger.page(path)
        if page is not None and page.failures and page.retry_at > self._clock():
            raise Transient(page.why)
        page = page or Page(0, path, address.url)
        self._at_home(page)
        outcome = self._asked(page, None)
        self._just_read = None
        if isinstance(outcome, Failed):
            self._probe()
            raise Transient(f"{address.url}: {outcome.why}")
        if isinstance(outcome, Missing) and not page.id:
            return None
        match self.verdict(page):
            case "there" if isinstance(outcome, Read):
                return _given(outcome)
            case "there":
                raise Transient(f"{address.url}: {page.why}; it stays for now")
            case "not there" if page.missing_since and not page.final and not self._waited(page):
                raise Transient(f"{address.url}: {page.why}; it stays for now")
        if page.id and page.state == "new":  # only noted for its time of grace
            page.state = "gone"
            self._ledger.put(page)
        return None

    def _at_home(self, page: Page) -> None:
        """Ask the source's own host for what another one had before the settings were changed."""
        home = self._paths.address_of(page.path)
        if home is not None and self._paths.path_of(Address.parse(page.url)) != page.path:
            page.url, page.etag, page.modified, page.checked_at = home.url, "", "", 0.0

    def _waited(self, page: Page) -> bool:
        return page.checked_at >= page.missing_since + self._settings.grace_seconds

    # ---------------------------------------------------------------------------- when

    def _due(self, page: Page, now: float) -> bool:
        recheck, poll = self._settings.recheck_seconds, self._settings.poll_seconds
        age = now - page.checked_at
        if page.failures:
            return now >= page.retry_at or page.retry_at > now + 2 * _RETRY_SECONDS
        if age < 0 or not page.checked_at:
            return True
        if page.state == "live" and page.extraction != self._reader.extraction(page.name):
            return True
        if page.missing_since and page.revision and page.state != "gone":
            return age >= min(recheck, max(poll, self._settings.grace_seconds / _LOOKS))
        if page.fresh and age >= (poll * 2**page.false_hints if page.false_hints else 0.0):
            return True
        return age >= recheck

    # ----------------------------------------------------------------------- what of it

    def _asked(self, page: Page, before: Before | None) -> Outcome:
        address = Address.parse(page.url)
        outcome = self._reader.look(page.path, address, before)
        if isinstance(outcome, Moved) and self._admitted(outcome.to) == page.path:
            page.url = outcome.to.url  # https instead of http: the same document
            outcome = self._reader.look(page.path, outcome.to, before)
            if isinstance(outcome, Moved):
                outcome = Failed("it leads back and forth")
        if isinstance(outcome, Moved) and self._admitted(outcome.to) is None:
            outcome = Missing(f"it was moved to {outcome.to.url}, which is no page of this source", at_once=False)
        if isinstance(outcome, Moved) and outcome.login and not self._named(outcome.to):
            outcome = Failed(
                f"it was moved to {outcome.to.url}, which looks like a login page, and no listing names it"
            )
        if isinstance(outcome, Read):
            outcome = self._believed(page, outcome)
        self._note(page, outcome)
        return outcome

    def _named(self, address: Address) -> bool:
        """True if a listing names a page."""
        path = self._admitted(address)
        known = None if path is None else self._ledger.page(path)
        return known is not None and bool(known.named)

    def _believed(self, page: Page, found: Read) -> Read | Failed:
        """A page that was read, unless what is there now is probably no word of this page, but a form to log in, a
        question to agree to, a notice of maintenance.
        """
        landing = "" if found.landing is None or self._named(found.landing) else found.landing.url
        same, page.landing, now = landing == page.landing, landing, self._clock()
        if same and not page.doubted:
            landing = ""  # it led there when it was last taken
        canonical = None if found.canonical is None else self._admitted(found.canonical)
        if page.revision and found.text == page.text:  # as it was taken before
            return found
        if not landing and (not page.revision or not found.text or canonical not in (None, page.path)):
            return found
        twins = self._ledger.twins(page.path, found.text, landing)
        if landing and twins:
            page.doubted = found.text
            return Failed(f"it leads to {landing}, which no listing names, as other pages do")
        if not page.revision or not (landing or twins >= _TWINS):
            return found
        # Where it leads to may be edited meanwhile.
        if not page.doubted_at or not (page.doubted == found.text or (landing and same)):
            page.doubted_at = now
        page.doubted = found.text
        if now >= page.doubted_at + self._settings.grace_seconds:
            return found
        why = f"it leads to {landing}, which no listing names" if landing else "it has the text of several others now"
        return Failed(f"{why}; that is believed once it is so for {self._settings.grace_seconds:g} s")

    def _note(self, page: Page, outcome: Outcome) -> None:
        """Keep what a page has answered."""
        now = self._clock()
        self._just_read = None
        if isinstance(outcome, Failed):
            self._failed(page, outcome, now)
            return
        self._in_a_row = 0
        hinted, same = bool(page.fresh), isinstance(outcome, Unchanged)
        page.failures, page.retry_at, page.why, page.fresh, page.checked_at = 0, 0.0, "", 0, now
        match outcome:
            case Unchanged(etag, modified, redirected):
                page.landing, page.doubted, page.doubted_at = page.landing if redirected else "", "", 0.0
                page.etag, page.modified = etag or page.etag, modified or page.modified
                page.missing_since, page.final = 0.0, 0
            case Read():
                same = page.revision == outcome.revision
                self._read(page, outcome)
            case Moved(to):
                page.landing, page.doubted, page.doubted_at = "", "", 0.0
                page.state, page.target = "moved", self._admitted(to) or ""
                self._ledger.found(page.target, to.url)
            case Missing(why, at_once):
                page.missing_since, page.final, page.why = page.missing_since or now, int(at_once), why
        page.false_hints = min(page.false_hints + 1, _FALSE_HINTS) if hinted and same else 0
        self._put(page)

    def _read(self, page: Page, outcome: Read) -> None:
        page.revision, page.body, page.name = outcome.revision, outcome.body, outcome.name
        page.extraction = self._reader.extraction(outcome.name)
        page.etag, page.modified = outcome.etag, outcome.modified
        page.text, page.doubted, page.doubted_at = outcome.text, "", 0.0
        page.state, page.missing_since, page.final, page.target = "live", 0.0, 0, ""
        canonical = outcome.canonical
        target = None if canonical is None else self._admitted(canonical)
        if canonical is not None and target not in (None, page.path) and _plausible(page.path, canonical):
            assert target is not None  # just looked at
            page.target = target if self._ledger.found(target, canonical.url) is not None else ""
        self._just_read = (page.path, outcome)

    def _failed(self, page: Page, outcome: Failed, now: float) -> None:
        page.failures += 1
        doubled = self._settings.poll_seconds * 2 ** min(page.failures - 1, 20)
        page.retry_at = now + max(outcome.retry_after, min(doubled, _RETRY_SECONDS))
        page.why = f"{page.url}: {outcome.why}"
        self._put(page)
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            self._probe()

    def _put(self, page: Page) -> None:
        if page.id:
            self._ledger.put(page)
        elif page.state in ("live", "moved") or (
            page.missing_since and not page.final and self._settings.grace_seconds
        ):
            # Named by no listing: it was known before this cache was. One that is missing has its time of grace, too.
            known = self._ledger.found(page.path, page.url)
            if known is not None:
                page.id = known.id
                self._ledger.put(page)

    def _stands_for(self, page: Page) -> Page | None:
        """The page at the end of a chain of canonical or moved ones; None if there is none that can be read."""
        just_read = self._just_read
        seen, path = {page.path}, page.target
        while path and path not in seen and len(seen) <= _CHAIN:
            seen.add(path)
            other = self._ledger.page(path)
            if other is not None:
                self._at_home(other)
            if other is None or self._admitted(Address.parse(other.url)) is None:  # under other rules than then
                break
            if not other.checked_at and not other.failures:
                self._asked(other, None)
            if other.state not in ("live", "moved") or other.missing_since or not (other.revision or other.target):
                break
            if not other.target:
                self._just_read = just_read
                return other
            path = other.target
        self._just_read = just_read
        return None


def _plausible(path: str, canonical: Address) -> bool:
    """False for a mistake that many sites make: the front page as the canonical one of every page."""
    if canonical.target != "/":
        return True
    name = path.rpartition("//" + canonical.authority)[2].strip("/").partition("?")[0]
    return name == "" or name.startswith(("index.", "default."))


def _given(read: Read) -> Fetched | Skipped:
    if isinstance(read.content, Poison):
        raise read.content
    return replace(read.content, revision=read.revision)
