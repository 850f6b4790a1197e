"""The web connector against a site: what is asked for, when, and what is a document."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from connectors.web.source import WebSource
from pipeline.ports import Fetched, Listed, Skipped, without_pauses
from tests.support import files
from tests.support.sources import scanned
from tests.unit.connectors.web_world import DAY, LIMIT, World, listed


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
    assert len(listed(world.source())) == 5, "with more room, of the same sitemap, which did not change"


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
    assert found.metadata == {"title": "T", "language": "en", "source_media_type": "text/html", "extractor": "html/2"}
    assert found.found["url"] == f"{world.site.url}/%C3%BC%20b"
    assert found.found["meta"]["description"] == "About it"
    assert found.event_time == 1_700_000_000.0


def test_a_skipped_page_is_told_as_such(world: World) -> None:
    world.site.put("/photo", b"\x89PNG" + bytes(9), type="image/png")
    source = world.source()
    found = list(without_pauses(source.scan()))
    assert isinstance(found[0], Listed)
    assert isinstance(source.fetch("photo"), Skipped)
