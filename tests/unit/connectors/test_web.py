"""The web connector against a site: what is asked for, what is a document, and what only seems to be gone."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from connectors.web.settings import WebSettings
from connectors.web.source import WebSource
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.errors import SourceUnavailable, Transient
from pipeline.ports import Fetched, Listed, Skipped
from tests.support import files
from tests.support.sources import Documents, running, scanned, wait_until
from tests.support.website import Website

LIMIT = 64 * 1024
DAY = 86400.0


class World:
    """A site, one source over it after the other, and a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.site = Website()
        self.folder = folder
        self.now = time.time()
        self.made: list[WebSource] = []
        self.documents = Documents(EmbeddedBroker(None))

    def source(self, **settings: Any) -> WebSource:
        table = {"sitemaps": [f"{self.site.url}/sitemap.xml"], "pages_per_second": 1000, "poll_seconds": 60} | settings
        if "site" in settings or "feeds" in settings:
            table.pop("sitemaps") if "sitemaps" not in settings else None
        self.made.append(
            WebSource("w", WebSettings.model_validate(table), LIMIT, self.folder / "state", lambda: self.now)
        )
        return self.made[-1]

    def close(self) -> None:
        for source in self.made:
            source.close()
        self.site.close()
        self.documents.broker.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def listed(source: WebSource) -> dict[str, str]:
    return {one.path: one.revision for one in source.scan()}


def text_of(source: WebSource, path: str) -> str:
    found = source.fetch(path)
    assert isinstance(found, Fetched), found
    assert found.text is not None
    return found.text


# -------------------------------------------------------------------- what is asked, and when


def test_what_did_not_change_is_not_sent_again(world: World) -> None:
    world.site.page("/a", "one")
    source = world.source(recheck_seconds=0)
    first = listed(source)
    assert listed(source) == first
    assert "if-none-match" in world.site.headers_of("/a")
    assert world.site.connections == 1, "one connection for all"
    assert listed(world.source(recheck_seconds=0)) == first, "a restart knows it, too"
    assert "if-none-match" in world.site.headers_of("/a")


@pytest.mark.parametrize("etag", ["", '"{}"'])
def test_a_server_with_another_entity_tag_each_time_or_none_publishes_nothing(world: World, etag: str) -> None:
    """Given pages with a new tag and a new token in each answer, then nothing is published but the first version."""
    answer = world.site.page("/a", "one", etag=False)
    body, count = answer.body, [0]

    def write(request: BaseHTTPRequestHandler) -> None:
        count[0] += 1
        data = body.replace(b"</head>", b"<!-- %d --><meta name=csrf-token content=%d></head>" % (count[0], count[0]))
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        if etag:
            request.send_header("ETag", etag.format(count[0]))
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    answer.write = write
    documents = world.documents
    for _ in range(3):
        scanned(world.source(recheck_seconds=0), documents)
    assert count[0] >= 3
    assert documents.count() == 1
    assert documents.texts() == {"a": "one\n"}


def test_a_page_is_asked_for_when_its_lastmod_is_new_and_else_once_a_day(world: World) -> None:
    world.site.page("/a", "one", lastmod="2026-01-01")
    source = world.source()
    listed(source)
    world.site.page("/a", "two", lastmod="2026-01-01")
    world.now += 3600
    listed(source)
    assert world.site.asked("/a") == 1, "the sitemap says that nothing changed"
    world.now += DAY
    before = listed(source)["a"]
    assert world.site.asked("/a") == 2, "whatever the sitemap says, once a day"
    world.site.page("/a", "three", lastmod="2026-01-02")
    world.now += 60
    assert listed(source)["a"] != before
    assert world.site.asked("/a") == 3


def test_a_lastmod_that_lies_is_believed_ever_less(world: World) -> None:
    """Given a sitemap that says at each of 100 polls that a page changed, which it did not, then it is asked less."""
    for poll in range(100):
        world.site.listed["/a"] = f"2026-01-01T00:00:{poll:03}"
        if not poll:
            world.site.page("/a", "one", lastmod="2025")
            source = world.source()
        listed(source)
        world.now += 60
    assert 2 <= world.site.asked("/a") <= 8
    world.site.page("/a", "two", lastmod="now")
    world.now += DAY
    listed(source)
    assert text_of(source, "a") == "two\n"


def test_two_listings_that_disagree_do_not_ask_at_every_poll(world: World) -> None:
    world.site.page("/a", "one", lastmod="2026-01-01")
    feed = f"<rss><channel><item><link>{world.site.url}/a#x</link><pubDate>yesterday</pubDate></item></channel></rss>"
    world.site.put("/feed", feed, type="application/rss+xml", listed=False, etag=False)
    source = world.source(feeds=[f"{world.site.url}/feed"], sitemaps=[f"{world.site.url}/sitemap.xml"])
    for _ in range(5):
        assert list(listed(source)) == ["a"]
        world.now += 60
    assert world.site.asked("/a") == 1


# ----------------------------------------------------------------------------- what is found


def test_indexes_gzip_text_and_feeds_lead_to_pages(world: World) -> None:
    site = world.site
    for name in "abcdef":
        site.page(f"/{name}", name, listed=False)
    url = site.url
    rows = "".join(
        f"<sitemap><loc>{url}{one}</loc></sitemap>" for one in ("/1.xml.gz", "/2.txt", "/index.xml", "/absent")
    )
    site.put("/index.xml", f"<sitemapindex>{rows}</sitemapindex>", type="application/xml", listed=False)
    site.put("/1.xml.gz", gzip.compress(f"<urlset><url><loc>{url}/a</loc></url></urlset>".encode()), listed=False)
    site.put("/2.txt", f"{url}/b\n{url}/c?utm_source=x#y\nhttps://elsewhere.example/x\n", listed=False)
    item = "<item><link>{}</link></item>"
    page = '<rss xmlns:a="http://www.w3.org/2005/Atom"><channel><a:link rel="next" href="/feed{}"/>{}</channel></rss>'
    site.put("/feed", page.format("?2", item.format("/d")), listed=False)
    site.put("/feed?2", page.format("?2", item.format("/e")), listed=False)
    source = world.source(sitemaps=[f"{url}/index.xml"], feeds=[f"{url}/feed"])
    assert sorted(listed(source)) == ["a", "b", "c", "d", "e"]
    assert site.asked("/index.xml") == 1


def test_a_feed_without_end_is_read_for_a_while(world: World) -> None:
    page = '<rss xmlns:a="http://www.w3.org/2005/Atom"><channel><a:link rel="next" href="/feed?{}"/></channel></rss>'
    for number in range(30):
        world.site.put(f"/feed?{number}", page.format(number + 1), listed=False)
    assert listed(world.source(feeds=[f"{world.site.url}/feed?0"])) == {}
    assert sum(count for target, count in world.site.requests.items() if target.startswith("/feed")) == 10


def test_a_site_is_known_by_its_robots_txt_or_else_by_sitemap_xml(world: World) -> None:
    world.site.page("/a", "a")
    assert sorted(listed(world.source(site=world.site.url))) == ["a"]
    lines = f"Sitemap: {world.site.url}/other.txt\nSitemap: https://elsewhere.example/s.xml\n"
    world.site.put("/robots.txt", lines, type="text/plain", listed=False)
    world.site.put("/other.txt", f"{world.site.url}/b\n", listed=False)
    world.site.page("/b", "b", listed=False)
    assert sorted(listed(world.source(site=world.site.url))) == ["a", "b"], "what is known stays known"


def test_what_has_left_a_feed_is_still_there_until_it_says_itself_that_it_is_gone(world: World) -> None:
    site, item = world.site, "<item><link>/{}</link></item>"
    for name in "ab":
        site.page(f"/{name}", name, listed=False)
    site.put("/feed", f"<rss>{item.format('a')}</rss>", listed=False)
    documents = world.documents
    settings = {"feeds": [f"{site.url}/feed"], "grace_seconds": 0, "recheck_seconds": 0}
    scanned(world.source(**settings), documents)
    site.put("/feed", f"<rss>{item.format('b')}</rss>", listed=False)
    scanned(world.source(**settings), documents)
    assert documents.texts() == {"a": "a\n", "b": "b\n"}
    site.remove("/a")
    scanned(world.source(**settings), documents)
    assert documents.texts() == {"b": "b\n"}


def test_an_empty_sitemap_and_a_lost_cache_delete_and_publish_nothing(world: World, tmp_path: Path) -> None:
    documents = world.documents
    for number in range(20):
        world.site.page(f"/{number}", f"text {number}")
    scanned(world.source(), documents)
    answers = dict(world.site.listed)
    world.site.listed.clear()
    world.folder = tmp_path / "another machine"
    scanned(world.source(), documents)
    assert documents.count() == 20
    world.site.listed.update(answers)
    world.folder = tmp_path / "a third one"
    scanned(world.source(), documents)
    assert documents.count() == 20
    assert len(documents.texts()) == 20


def test_patterns_and_limits_choose_pages(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for target in ("/docs/a", "/docs/b?print=1", "/docs/", "/blog/c", "/"):
        world.site.page(target, target)
    assert sorted(listed(world.source(include=["/docs/"], exclude=["*print=*"]))) == ["docs/", "docs/a"]
    # Other rules read what is known by other rules: the same sitemap, which did not change.
    assert sorted(listed(world.source(exclude=["/docs/"]))) == ["/", "blog/c"]
    world.folder /= "fresh"
    assert len(listed(world.source(pages_limit=2))) == 2
    assert "pages_limit" in caplog.text


def test_other_content_is_extracted_skipped_or_published_without_its_text(world: World) -> None:
    site = world.site
    site.put("/a.pdf", files.pdf(["Handbook"]), type="application/pdf")
    site.put("/photo", b"\x89PNG\r\n" + bytes(100), type="image/png")
    site.put("/data", bytes(range(256)), type="text/plain")
    site.put("/big", "x" * (LIMIT + 1), type="text/plain")
    site.put("/broken.pdf", b"%PDF-1.4 broken", type="application/pdf")
    site.put("/cyrillic", "<html><body>Сыр</body></html>".encode("cp1251"), type="text/html; charset=windows-1251")
    documents = world.documents
    one = scanned(world.source(), documents, world.folder / "runner")
    found = documents.now()
    assert sorted(found) == ["a.pdf", "big", "broken.pdf", "cyrillic"]
    assert "Handbook" in (found["a.pdf"].text or "")
    assert "over the limit" in found["big"].omitted
    assert found["broken.pdf"].omitted
    assert found["cyrillic"].text == "Сыр\n"
    assert one.skipped("binary") == 2
    requests = sum(world.site.requests.values())
    scanned(world.source(), documents, world.folder / "runner")
    assert len(documents.events()) == 4
    assert sum(world.site.requests.values()) == requests + 1, "the sitemap alone"


def test_a_page_that_says_that_it_is_too_large_is_not_read_nor_published_twice(world: World) -> None:
    count = [0]

    def write(request: BaseHTTPRequestHandler) -> None:
        count[0] += 1
        request.close_connection = True
        head = (
            f'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9999999999\r\nETag: "{count[0]}"\r\n\r\n'
        )
        request.wfile.write(head.encode())

    world.site.put("/a", b"", write=write)
    for _ in range(2):
        scanned(world.source(recheck_seconds=0), world.documents)
    assert count[0] >= 2
    assert world.documents.count() == 1
    assert "over the limit" in world.documents.now()["a"].omitted


def test_what_a_page_says_of_itself(world: World) -> None:
    world.site.page("/ü b", "text", "<meta name=description content='About it'>", at=1_700_000_000.0)
    source = world.source()
    assert list(listed(source)) == ["ü b"]
    found = source.fetch("ü b")
    assert isinstance(found, Fetched)
    assert found.metadata == {"title": "T", "language": "en", "source_media_type": "text/html", "extractor": "html/1"}
    assert found.found["url"] == f"{world.site.url}/%C3%BC%20b"
    assert found.found["meta"]["description"] == "About it"
    assert found.event_time == 1_700_000_000.0


# -------------------------------------------------------------------------------- gone or not


def test_a_page_that_answers_404_stays_for_the_time_of_grace(world: World) -> None:
    world.site.page("/a", "a")
    source = world.source(grace_seconds=DAY)
    before = listed(source)
    world.site.remove("/a", listed=True)
    world.now += 2 * DAY
    assert listed(source) == before, "missing from now on"
    with pytest.raises(Transient, match="404"):
        source.fetch("a")
    world.now += DAY / 2
    assert listed(source) == before
    world.site.page("/a", "a")
    world.now += DAY / 4
    assert listed(source) == before
    world.site.remove("/a", listed=True)
    world.now += DAY
    assert listed(source) == before, "the time begins anew"
    world.now += DAY + 1
    assert listed(source) == {}
    assert source.fetch("a") is None
    world.site.page("/a", "back", lastmod="new")
    assert list(listed(source)) == ["a"]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 410},
        {"headers": {"X-Robots-Tag": "noindex"}},
        {"head": "<meta name=robots content='noindex, nofollow'>"},
    ],
)
def test_a_page_that_says_that_it_is_gone_is_gone_at_once(world: World, answer: dict[str, Any]) -> None:
    world.site.page("/a", "a")
    source = world.source(recheck_seconds=0)
    assert listed(source)
    world.site.page("/a", "a", **answer)
    assert listed(source) == {}
    assert source.fetch("a") is None


def test_a_page_that_robots_txt_forbids_is_not_asked_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.site.page("/a/b", "b")
    world.site.page("/c", "c")
    rules = "User-agent: *\nDisallow: /\nUser-agent: vectide\nDisallow: /a*b$\n"
    world.site.put("/robots.txt", rules, type="text/plain", listed=False)
    assert list(listed(world.source())) == ["c"]
    assert [(one.getMessage(), one.pages, one.first) for one in caplog.records] == [  # type: ignore[attr-defined]
        ("pages that listings name are left out", 1, "a/b: robots.txt does not allow it")
    ]
    assert world.site.asked("/a/b") == 0
    assert world.site.asked("/robots.txt") == 1
    world.site.redirect("/d", "/a/b", 302)
    listed(world.source())
    assert world.site.asked("/d") == 1
    assert world.site.asked("/a/b") == 0, "nor where a redirect leads"


def test_too_much_that_is_gone_at_once_is_not_believed(world: World) -> None:
    """Given 40 pages of which 20 answer 410, then nothing is deleted until the settings say so; what changed is."""
    for number in range(40):
        world.site.page(f"/{number}", f"text {number}")
    documents = world.documents
    scanned(world.source(recheck_seconds=0), documents)
    for number in range(20):
        world.site.put(f"/{number}", "", status=410)
    world.site.page("/39", "edited")
    with running(world.source(recheck_seconds=0), documents) as one:
        documents.wait_for({f"{n}": f"text {n}\n" for n in range(39)} | {"39": "edited\n"})
        wait_until(lambda: "removal_limit_percent" in one.not_ready(), one.not_ready)
        assert "20 of 40 pages are gone at once" in one.not_ready()
    assert len(documents.texts()) == 40
    scanned(world.source(recheck_seconds=0, removal_limit_percent=100), documents)
    assert sorted(documents.texts()) == sorted(f"{n}" for n in range(20, 40))


@pytest.mark.parametrize("how", ["canonical", "redirect"])
def test_pages_that_all_give_way_to_one_are_not_believed_and_those_that_move_are(world: World, how: str) -> None:
    for number in range(40):
        world.site.page(f"/{number}", f"text {number}")
    source = world.source(recheck_seconds=0)
    assert len(listed(source)) == 40
    for number in range(1, 40):
        if how == "canonical":
            world.site.page(f"/{number}", f"text {number}", "<link rel=canonical href='/0'>")
        else:
            world.site.redirect(f"/{number}", "/0")
    for _ in range(2):
        with pytest.raises(SourceUnavailable, match="38 of 40 pages are gone at once, 38 of them for others"):
            listed(source)
    for number in range(1, 40):
        world.site.redirect(f"/{number}", f"/new/{number}")
        world.site.page(f"/new/{number}", f"text {number}", listed=False)
    assert sorted(listed(source)) == sorted(["0", *(f"new/{number}" for number in range(1, 40))])
    assert len(listed(source)) == 40


def test_few_pages_may_all_go(world: World) -> None:
    for number in range(10):
        world.site.page(f"/{number}", "x")
    source = world.source(recheck_seconds=0, grace_seconds=0)
    assert len(listed(source)) == 10
    for number in range(10):
        world.site.remove(f"/{number}")
    assert listed(source) == {}


SOFT = {
    "an error": {"status": 500},
    "forbidden": {"status": 403},
    "an empty body": {"body": b" \n", "etag": False},
    "an empty file": {"body": b"", "type": "application/pdf", "etag": False},
    "a page of scripts": {"body": b"<html><body><script>draw()</script></body></html>"},
    "a login page": {"status": 302, "headers": {"Location": "/login?next=/a"}},
    "a page with a password": {"status": 302, "headers": {"Location": "/welcome"}},
    "to another host": {"status": 302, "headers": {"Location": "https://sso.example.net/"}},
    "round and round": {"status": 302, "headers": {"Location": "/a"}},
    "back and forth": {"status": 301, "headers": {"Location": "/a"}},
    "another encoding": {"headers": {"Content-Encoding": "br"}},
    "broken gzip": {"headers": {"Content-Encoding": "gzip"}},
    "no address": {"status": 302, "headers": {"Location": "http://[x"}},
}


@pytest.mark.parametrize("kind", SOFT)
def test_an_error_keeps_the_last_version(world: World, kind: str) -> None:
    """Given a page that was read, when it answers with anything but itself, then it is what it was, and is told of."""
    site = world.site
    site.put("/login?next=/a", "<html><body>Who are you?</body></html>", listed=False)
    site.put("/welcome", "<html><body><form><input type=password></form></body></html>", listed=False)
    for name in "ab":
        site.page(f"/{name}", name)
    documents = world.documents
    scanned(world.source(recheck_seconds=0), documents)
    site.put("/a", **{"body": b"<html><body>another text</body></html>", **SOFT[kind]})
    site.page("/b", "edited")
    one = scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == {"a": "a\n", "b": "edited\n"}
    assert one.skipped("unreadable") == 1
    asked = site.asked("/a")
    source = world.source(recheck_seconds=0)
    listed(source)
    with pytest.raises(Transient):
        source.fetch("a")
    assert site.asked("/a") == asked, "it is left alone for a while"
    site.page("/a", "a")
    world.now += 3600
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.count() == 3, "the same text again is no news"


def test_pages_that_all_fail_while_the_site_is_there_make_it_no_outage_and_a_site_away_does(world: World) -> None:
    for number in range(12):
        world.site.page(f"/{number}", f"{number}")
    source = world.source(recheck_seconds=0)
    before = listed(source)
    for number in range(12):
        world.site.page(f"/{number}", f"{number}", status=503)
    assert [one.rstrip("!") for one in listed(source).values()] == list(before.values())
    world.now += 3600
    world.site.put("/sitemap.xml", b"", status=503, listed=False)
    with pytest.raises(SourceUnavailable, match="answers 503"):
        listed(source)


# -------------------------------------------------------------------- redirects and duplicates


def test_a_permanent_redirect_is_a_rename_and_a_temporary_one_is_not(world: World) -> None:
    world.site.page("/old", "text")
    world.site.page("/kept", "kept")
    documents = world.documents
    scanned(world.source(recheck_seconds=0), documents)
    world.site.redirect("/old", "/mid")
    world.site.redirect("/mid", "/new", 308, listed=False)
    world.site.page("/new", "text", listed=False)
    world.site.redirect("/kept", "/elsewhere", 307)
    world.site.page("/elsewhere", "kept, and edited", listed=False)
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == {"new": "text\n", "kept": "kept, and edited\n"}
    kinds = [(event.key.path, getattr(event, "digest", None) is None) for event in documents.events()]
    assert kinds.index(("new", False)) < kinds.index(("old", True)), "created before it is deleted"


def test_a_page_that_moved_to_what_cannot_be_read_stays_for_the_time_of_grace(world: World) -> None:
    world.site.page("/old", "text")
    source = world.source(recheck_seconds=0, grace_seconds=DAY)
    before = listed(source)
    for to in ("/absent", "https://elsewhere.example/"):
        world.site.redirect("/old", to)
        assert listed(source) == before, to
    world.now += 2 * DAY
    assert listed(source) == {}


def test_duplicates_fold_into_the_canonical_page(world: World) -> None:
    canonical = "<link rel=canonical href='{}'>"
    world.site.page("/a", "text")
    world.site.page("/a?print=1", "text for printers", canonical.format("/a"))
    world.site.page("/chain", "text", canonical.format("/a?print=1"))
    world.site.page("/header", "text", headers={"Link": '</a>; rel="canonical"'})
    world.site.page("/self", "self", canonical.format("/self#top"))
    world.site.page("/dead", "dead", canonical.format("/absent"))
    world.site.page("/abroad", "abroad", canonical.format("https://elsewhere.example/"))
    world.site.page("/x", "x", canonical.format("/y"))
    world.site.page("/y", "y", canonical.format("/x"))
    world.site.page("/front", "a mistake of many sites", canonical.format("/"))
    world.site.page("/", "front")
    documents = world.documents
    scanned(world.source(), documents)
    assert sorted(documents.texts()) == ["/", "a", "abroad", "dead", "front", "self", "x", "y"]
    world.site.page("/self", "self", canonical.format("/a"))
    scanned(world.source(recheck_seconds=0), documents)
    assert "self" not in documents.texts()


def test_canonical_chains_are_bounded(world: World) -> None:
    for number in range(20):
        world.site.page(f"/{number:02}", f"{number}", f"<link rel=canonical href='/{number + 1:02}'>")
    world.site.page("/20", "end")
    found = listed(world.source())
    assert "20" in found
    assert "00" in found, "nobody follows twenty of them"
    assert "19" not in found
    assert sum(world.site.requests.values()) < 60


def test_a_skipped_page_is_told_as_such(world: World) -> None:
    world.site.put("/photo", b"\x89PNG" + bytes(9), type="image/png")
    source = world.source()
    found = list(source.scan())
    assert isinstance(found[0], Listed)
    assert isinstance(source.fetch("photo"), Skipped)
