"""Long scans of the web connector, and pages whose site changes while it looks."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from connectors.web import source as module
from connectors.web.addresses import Address, Paths
from connectors.web.ledger import Ledger
from connectors.web.pages import Pages
from connectors.web.reading import Before, Failed, Moved, Outcome, Read
from connectors.web.settings import WebSettings
from connectors.web.source import WebSource
from pipeline.errors import SourceUnavailable
from pipeline.identity import content_hash
from pipeline.ports import Fetched, without_pauses
from tests.support.website import Website


@pytest.fixture
def site() -> Iterator[Website]:
    made = Website()
    yield made
    made.close()


def opened(site: Website, folder: Path) -> WebSource:
    table = {"sitemaps": [f"{site.url}/sitemap.xml"], "pages_per_second": 1000, "recheck_seconds": 3600}
    return WebSource("w", WebSettings.model_validate(table), 10_000, folder / "state")


def test_a_site_that_goes_away_amid_a_scan_is_noticed_after_a_few_pages(
    site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.web.client._PAUSE_SECONDS", 0.001)
    for number in range(40):
        site.page(f"/{number:02}", "x")
    source = opened(site, tmp_path)
    scan = without_pauses(source.scan())
    for _ in range(3):
        next(scan)
    site.fault = "down"
    with pytest.raises(SourceUnavailable, match=r"sitemap\.xml"):
        list(scan)
    assert site.asked("/03") > 0
    assert site.asked("/10") == 0, "nor are all the others tried"
    site.fault = None
    assert len(list(without_pauses(source.scan()))) == 40, "what failed is listed, for the runner to count"
    source.close()


def test_a_scan_pauses_with_every_listing_and_page(site: Website, tmp_path: Path) -> None:
    """Given 30 dead links before the only page, then no two requests are without a pause between, and nothing is listed
    twice.
    """
    for number in range(30):
        site.put(f"/dead/{number:02}", b"", status=404)
    site.page("/live", "x")
    source = opened(site, tmp_path)
    asked, found = [site.requests.total()], []
    for one in source.scan():
        asked.append(site.requests.total())
        if one is not None:
            found.append(one.path)
    source.close()
    assert found == ["live"]
    assert max(after - before for before, after in itertools.pairwise(asked)) <= 2, "robots.txt comes with the first"
    assert asked[-1] >= 32


def test_known_pages_have_their_turn_where_listings_take_long(
    site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.page("/known", "x")
    source = opened(site, tmp_path)
    assert len(list(without_pauses(source.scan()))) == 1
    names = "".join(f"<sitemap><loc>{site.url}/{number}.xml</loc></sitemap>" for number in range(40))
    site.put("/sitemap.xml", f"<sitemapindex>{names}</sitemapindex>", listed=False)
    for number in range(40):
        site.put(f"/{number}.xml", "<urlset></urlset>", listed=False)
    clock = SimpleNamespace(monotonic=lambda: float(site.requests.total()), time=time.time)
    monkeypatch.setattr(module, "time", clock)
    first = next(without_pauses(source.scan()))
    assert first.path == "known"
    assert site.asked("/39.xml") == 0, "before the last listing"
    source.close()


class Script:
    """A reader that answers as a test says, by URL."""

    def __init__(self, answers: dict[str, Outcome]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def extraction(self, name: str) -> str:
        return "1"

    def look(self, path: str, address: Address, before: Before | None = None) -> Outcome:
        self.asked.append(address.url)
        return self.answers[address.url]


def _read(path: str) -> Read:
    content = Fetched(path, "", "text", content_hash("text"), "text/plain", {}, 0.0, 4)
    return Read(content, "r", "b", "page.txt", "", "", None)


def _pages(reader: Script, ledger: Ledger) -> Pages:
    settings = WebSettings.model_validate({"site": "https://h", "recheck_seconds": 0})
    paths = Paths(Address.parse("https://h/"))
    return Pages(settings, reader, ledger, paths, paths.path_of, lambda: None, lambda: 1e9)  # type: ignore[arg-type]


def test_a_page_that_is_moved_to_https_is_the_same_document() -> None:
    http, https = "http://h/a", "https://h/a"
    reader = Script({http: Moved(Address.parse(https)), https: _read("a")})
    ledger = Ledger(None, 10)
    page = ledger.found("a", http)
    assert page is not None
    pages = _pages(reader, ledger)
    assert pages.verdict(pages.checked(page)) == "there"
    kept = ledger.page("a")
    assert kept is not None
    assert (kept.url, kept.state, kept.revision) == (https, "live", "r")
    pages.checked(kept)
    assert reader.asked == [http, https, https], "it is asked for there from now on"
    ledger.close()


def test_a_page_that_leads_back_and_forth_is_no_page_that_has_gone() -> None:
    http, https = "http://h/a", "https://h/a"
    reader = Script({http: _read("a"), https: Moved(Address.parse(http))})
    ledger = Ledger(None, 10)
    page = ledger.found("a", http)
    assert page is not None
    pages = _pages(reader, ledger)
    pages.checked(page)
    reader.answers = {http: Moved(Address.parse(https)), https: Moved(Address.parse(http))}
    assert pages.verdict(pages.checked(page)) == "there"
    assert page.failures == 1
    assert page.revision == "r"
    ledger.close()


def test_a_page_that_fails_again_and_again_is_asked_for_ever_more_rarely() -> None:
    reader = Script({"https://h/a": Failed("it answers 500")})
    ledger = Ledger(None, 10)
    page = ledger.found("a", "https://h/a")
    assert page is not None
    pages = _pages(reader, ledger)
    waits = []
    for _ in range(8):
        page.retry_at = 0.0
        pages.checked(page)
        waits.append(page.retry_at - 1e9)
    assert waits == [300, 600, 1200, 2400, 3600, 3600, 3600, 3600]
    asked = len(reader.asked)
    pages.checked(page)
    assert len(reader.asked) == asked
    reader.answers = {"https://h/a": Failed("it asks to be left alone", 9000.0)}
    page.retry_at = 0.0
    pages.checked(page)
    assert page.retry_at == 1e9 + 9000
    ledger.close()


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "state" / "pages.db")) as file:
        return file.execute(query).fetchall()


def test_what_no_rule_names_is_dropped_from_the_cache_and_is_back_with_its_rule(site: Website, tmp_path: Path) -> None:
    """Given pages and listings of rules that are changed, then a week later they are no more, and can come back."""
    for target in ("/docs/a", "/blog/b"):
        site.page(target, target)
    now = [time.time()]

    def found(**settings: object) -> list[str]:
        table = {"sitemaps": [f"{site.url}/sitemap.xml"], "pages_per_second": 1000, **settings}
        source = WebSource("w", WebSettings.model_validate(table), 10_000, tmp_path / "state", lambda: now[0])
        try:
            return sorted(one.path for one in without_pauses(source.scan()))
        finally:
            source.close()

    everything = "SELECT path FROM pages ORDER BY path"
    assert found() == ["blog/b", "docs/a"]
    assert found(exclude=["/blog/"]) == ["docs/a"]
    assert len(rows(tmp_path, everything)) == 2, "somebody else may still use it"
    for _ in range(2):
        now[0] += 5 * 86400.0
        assert found(exclude=["/blog/"]) == ["docs/a"]
    assert rows(tmp_path, everything) == [("docs/a",)]
    assert rows(tmp_path, "SELECT count(*) FROM listings") == [(1,)]
    assert found() == ["blog/b", "docs/a"], "read as a whole, although it did not change"


def test_a_page_that_is_back_after_a_month_is_found_though_its_sitemap_never_changed(
    site: Website, tmp_path: Path
) -> None:
    site.page("/a", "x")
    now = [time.time()]
    table = {"sitemaps": [f"{site.url}/s.txt"], "pages_per_second": 1000}
    site.put("/s.txt", f"{site.url}/a\n", type="text/plain", listed=False)
    source = WebSource("w", WebSettings.model_validate(table), 10_000, tmp_path / "state", lambda: now[0])
    assert len(list(without_pauses(source.scan()))) == 1
    site.remove("/a")
    for _ in range(10):
        now[0] += 3 * 86400.0
        gone = list(without_pauses(source.scan()))
    assert gone == []
    site.page("/a", "x")
    for _ in range(5):
        now[0] += 3 * 86400.0
        back = list(without_pauses(source.scan()))
    assert [one.path for one in back] == ["a"]
    site.remove("/a", listed=True)
    site.put("/s.txt", f"{site.url}/b\n", type="text/plain", listed=False)
    for _ in range(6):
        now[0] += 3 * 86400.0
        assert len(list(without_pauses(source.scan()))) <= 1
    assert rows(tmp_path, "SELECT path FROM pages") == [("b",)], "nobody names the other one"
    source.close()


def test_a_source_that_has_another_host_now_asks_there(site: Website, tmp_path: Path) -> None:
    """Given a cache of the same paths on a host that the settings name no more, then that one is left alone."""
    before = Website()
    try:
        for one in (before, site):
            one.page("/duplicate", "x", "<link rel=canonical href='/a'>")
            one.page("/a", "x")
            source = opened(one, tmp_path)
            assert [row.path for row in without_pauses(source.scan())] == ["a"]
            source.close()
        assert (before.asked("/a"), site.asked("/a")) == (1, 1)
        assert rows(tmp_path, "SELECT url, missing_since FROM pages WHERE path = 'a'") == [(f"{site.url}/a", 0.0)]
    finally:
        before.close()


def test_what_listings_say_of_a_page_is_kept_until_it_was_asked_for() -> None:
    ledger = Ledger(None, 10)
    ledger.note([("a", "http://h/a", "monday"), ("a", "http://h/a", "monday"), ("b", "https://h/b", "")])
    ledger.note([("a", "http://h/a", "tuesday")])
    ledger.note([("a", "https://h/a", "")])
    ledger.note([("a", "http://h/a", "monday")])
    page = ledger.page("a")
    assert page is not None
    assert (page.url, page.hints, page.fresh) == ("https://h/a", "monday\ntuesday", 1)
    ledger.note([("a", "https://h/a", f"day {number}") for number in range(30)])
    kept = ledger.page("a")
    assert kept is not None
    assert kept.hints.split("\n") == [f"day {number}" for number in range(22, 30)]
    ledger.close()
