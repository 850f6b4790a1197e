"""The parts of the web connector that need no server: addresses, listings, heads, settings."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.registry import open_source, source_of
from connectors.web.addresses import Address, Paths
from connectors.web.heads import asks_for_a_password, head_of
from connectors.web.listings import Entry, Garbled, entries
from connectors.web.network import public
from connectors.web.pages import _plausible
from connectors.web.reading import _directives, _linked, _transcoded, named
from connectors.web.settings import WebSettings
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError

OWN = Address.parse("https://www.example.com/")
PATHS = Paths(OWN)


# ------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://WWW.Example.COM:443/a/./b/../c#frag", "https://www.example.com/a/c"),
        ("https://www.example.com", "https://www.example.com/"),
        ("https://www.example.com/%7euser/%c3%bc/ü", "https://www.example.com/~user/%C3%BC/%C3%BC"),
        ("https://www.example.com/a%2fb", "https://www.example.com/a%2Fb"),
        ("https://www.example.com/100%", "https://www.example.com/100%25"),
        ("https://www.example.com/a?utm_source=x&b=1&fbclid=2&GCLID=3", "https://www.example.com/a?b=1"),
        ("https://www.example.com/a?gclid=2", "https://www.example.com/a"),
        ("https://www.example.com/a?", "https://www.example.com/a"),
        ("https://bücher.example:8443/", "https://xn--bcher-kva.example:8443/"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("https://www.example.com/a b?c d", "https://www.example.com/a%20b?c%20d"),
        ("https://www.example.com/../../etc", "https://www.example.com/etc"),
    ],
)
def test_an_address_has_one_form(url: str, normal: str) -> None:
    assert Address.parse(url).url == normal
    assert Address.parse(normal).url == normal


@pytest.mark.parametrize(
    "url",
    [
        "https://h/" + "ü" * 1000,
        "ftp://a/",
        "mailto:a@b",
        "/a",
        "",
        "https://",
        "https://u:p@h/",
        "https://h:99999/",
        "https://a..b/",
        "x" * 5000,
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://www.example.com/", "/"),
        ("http://www.example.com/guide/", "guide/"),
        ("https://www.example.com/guide/%C3%BC%20b.html?page=%C3%BC", "guide/ü b.html?page=%C3%BC"),
        ("https://www.example.com/a%2Fb%3F%25%01%FF", "a%2Fb%3F%25%01%FF"),
        ("https://www.example.com/?q", "?q"),
        ("https://docs.example.com/a", "//docs.example.com/a"),
        ("https://www.example.com:8443/a", "//www.example.com:8443/a"),
        ("https://www.example.com//two", None),
    ],
)
def test_a_path_is_what_a_browser_shows_and_leads_back(url: str, path: str | None) -> None:
    address = Address.parse(url)
    assert PATHS.path_of(address) == path
    if path is not None:
        back = PATHS.address_of(path)
        assert back is not None
        assert (back.host, back.port, back.target) == (address.host, back.port, address.target)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@example("a/../b")
@example("%2e%2e/%C3")
@example("a%2Fb%3Fc%25d")
@example("//x/y")
@example("ü%C3%BC%c3")
def test_paths_and_addresses_are_one_to_one(text: str) -> None:
    """Given any text, the path that its address has leads to that address, and an address to one path."""
    try:
        address = Address.parse("https://www.example.com/" + text)
    except ValueError:
        return
    path = PATHS.path_of(address)
    if path is not None:
        assert PATHS.address_of(path) == address
    found = PATHS.address_of(text)
    if found is not None:
        assert PATHS.path_of(found) == text


def test_names_of_nothing_are_no_paths() -> None:
    for path in ("", ".", "..", "../root/a.txt", "/etc/passwd", "a\0b", "//", "///x", "a#b", "\udcff", "a\nb"):
        assert PATHS.address_of(path) is None, path


# ------------------------------------------------------------------------------- listings

URLSET = b"""<?xml version="1.0" encoding="UTF-8"?>
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
<url><loc> https://h/a </loc><lastmod>2026-01-02</lastmod><image:image><image:loc>https://h/i.png</image:loc></image:image></url>
<url><lastmod>x</lastmod></url>
<url><loc>https://h/b?x=1&amp;y=2</loc></url></urlset>"""
INDEX = b"""<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
<sitemap><loc>https://h/1.xml.gz</loc><lastmod>2026</lastmod></sitemap></sitemapindex>"""
RSS2 = b"""<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel><link>https://h/</link>
<atom:link rel="next" href="?page=2"/><atom:link rel="self" href="https://h/feed"/>
<item><title>a &nbsp; b</title><link>https://h/1</link><pubDate>Mon, 01 Jan 2026</pubDate></item>
<item><guid isPermaLink="false">tag:1</guid><link>https://h/2</link></item>
<item><guid>https://h/3</guid></item><item><guid isPermaLink="false">4</guid></item></channel></rss>"""
RSS1 = b"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="https://h/"><link>https://h/</link></channel>
<item rdf:about="https://h/1"><link>https://h/1</link><dc:date>2026</dc:date></item><item rdf:about="https://h/2"/></rdf:RDF>"""
ATOM = b"""<feed xmlns="http://www.w3.org/2005/Atom"><link rel="next" href="https://h/f?2"/><link href="https://h/"/>
<entry><link rel="edit" href="https://h/e"/><link rel="alternate" href="/1"/><updated>2026-01-01</updated>
<content type="html">&lt;a&gt;<link href="https://h/no"/></content></entry><entry><link href="/2"/></entry></feed>"""
TEXT = b"\xef\xbb\xbfhttps://h/1\r\nhttps://h/2\n\nhttps://h/3"

LISTINGS = {
    "urlset": (URLSET, [("page", "https://h/a", "2026-01-02"), ("page", "https://h/b?x=1&y=2", "")]),
    "index": (INDEX, [("listing", "https://h/1.xml.gz", "2026")]),
    "rss2": (
        RSS2,
        [
            ("next", "?page=2", ""),
            ("page", "https://h/1", "Mon, 01 Jan 2026"),
            ("page", "https://h/2", ""),
            ("page", "https://h/3", ""),
        ],
    ),
    "rss1": (RSS1, [("page", "https://h/1", "2026"), ("page", "https://h/2", "")]),
    "atom": (ATOM, [("next", "https://h/f?2", ""), ("page", "/1", "2026-01-01"), ("page", "/2", "")]),
    "text": (TEXT, [("page", f"https://h/{n}", "") for n in (1, 2, 3)]),
}


def _parts(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("kind", LISTINGS)
def test_a_listing_says_the_same_however_it_arrives(kind: str) -> None:
    data, expected = LISTINGS[kind]
    for given_ in (data, gzip.compress(data)):
        for size in (1, 7, 64, 10_000):
            assert list(entries(_parts(given_, size))) == [Entry(*one) for one in expected], size


LAUGHS = (
    b'<!DOCTYPE urlset [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, (b"&a%d;" % (n - 1) if n else b"&a;") * 10) for n in range(9))
    + b"]><urlset><url><loc>https://h/&a8;</loc></url></urlset>"
)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"<html><body>It works!</body></html>", "neither"),
        (b"", "neither"),
        (b"\x00\x01\x02", "neither"),
        (URLSET[:-20], "broken"),
        (URLSET.replace(b"</loc>", b"", 1), "broken"),
        (gzip.compress(URLSET)[:-20], "breaks off"),
        (b"\x1f\x8b" + b"x" * 100, "gzip"),
        (b"<urlset>" + b"<url><loc>https://h/1</loc></url>" * 50_001 + b"</urlset>", "50000 entries"),
        (b"<urlset>" + b"<x>" * 100_000, "broken"),
        (b"<urlset><url><loc>" + b"a" * 11_000_000, "broken"),
        (gzip.compress(b"<urlset>" + b" " * (51 << 20)), "50 MiB"),
        (b"https://h/1\n" + b"a" * 10_000, "no URL"),
    ],
    ids=lambda one: one[:12] if isinstance(one, str) else "",
)
def test_what_is_no_whole_listing_is_said_to_be_none(data: bytes, why: str) -> None:
    with pytest.raises(Garbled, match=why):
        list(entries(_parts(data, 1 << 16)))


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS,
        b'<!DOCTYPE urlset [<!ENTITY e SYSTEM "file:///etc/passwd">]><urlset><url><loc>https://h/&e;</loc></url></urlset>',
        b'<!DOCTYPE rss SYSTEM "http://127.0.0.1:1/x.dtd"><rss><channel><item><link>https://h/&e;</link></item></channel></rss>',
        b'<!DOCTYPE feed [<!ENTITY e SYSTEM "file:///etc/passwd">]><feed><entry><link href="https://h/&e;"/></entry></feed>',
    ],
)
def test_no_entity_is_expanded_or_read(data: bytes) -> None:
    try:
        found = list(entries(iter([data])))
    except Garbled:
        return
    assert all(len(one.url) < 30 and "root:" not in one.url for one in found), found


def test_memory_does_not_grow_with_a_listing() -> None:
    """Given listings of one and of ten megabytes of what no entry is, then both take the same memory."""

    def peak(count: int) -> int:
        data = (b"<rss><channel>", *(b"<x a='1'><y>text</y></x>" * 100 for _ in range(count)), b"</channel></rss>")
        tracemalloc.start()
        list(entries(iter(data)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(4000) < 2 * peak(400) + 100_000


# ----------------------------------------------------------------------------- small parts


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True),
        ("127.0.0.1", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("100.64.0.1", False),
        ("169.254.169.254", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:7f00:1::", False),
        ("64:ff9b::5db8:d822", True),
    ],
)  # fmt: skip
def test_private_addresses_are_known_in_any_wrapping(address: str, expected: bool) -> None:
    assert public(address) is expected


def test_a_head_is_read_up_to_its_end_and_nothing_of_the_body_counts() -> None:
    page = b"""<!doctype html><html lang="de-AT"><head><link rel="shortcut canonical" href=" /a ">
    <link rel=canonical href=/b><meta name=description content=" A page "><meta property="og:type" content=article>
    <meta name="csrf-token" content=1>
    <meta name=Robots content="NoFollow, max-snippet:3"></head><body><link rel=canonical href=/evil>
    <meta name=robots content=noindex></body></html>"""
    head = head_of(page, "vectide")
    assert (head.canonical, head.language, head.noindex) == ("/a", "de-AT", False)
    assert head.meta == {"description": "A page", "og:type": "article", "robots": "NoFollow, max-snippet:3"}
    assert head_of(b"<head><meta name=vectide content='none'></head>", "vectide").noindex
    assert not head_of(b"<head><meta name=otherbot content=noindex></head>", "vectide").noindex
    assert asks_for_a_password(b"<form><INPUT class=x\n type='password'></form>")
    assert not asks_for_a_password(b"<p>type=password</p>")


def test_directives_of_a_header_are_for_everybody_or_for_one() -> None:
    assert "noindex" in _directives("NoIndex, nofollow", "vectide")
    assert "noindex" in _directives("otherbot: nofollow, vectide: noindex", "vectide")
    assert "noindex" not in _directives("otherbot: noindex, nofollow", "vectide")
    assert "noindex" in _directives("unavailable_after: 25 Jun 2010, noindex", "vectide")


def test_the_canonical_link_of_a_header() -> None:
    base = Address.parse("https://h/x/y")
    found = _linked('</a>; rel="preload", <../c,d>; title="e"; rel="canonical"', base)
    assert found is not None
    assert found.url == "https://h/c,d"
    assert _linked("</a>; rel=canonical-not", base) is None


@pytest.mark.parametrize(
    ("target", "type_", "name"),
    [
        ("/a.php?x=.pdf", "text/html", "page.html"),
        ("/v1.2", "text/html", "page.html"),
        ("/a", "application/pdf", "page.pdf"),
        ("/a.py", "text/plain", "page.py"),
        ("/a.html", "text/plain", "page.txt"),
        ("/README", "", "page.txt"),
        ("/a.docx", "application/octet-stream", "page.docx"),
    ],
)
def test_a_content_type_says_how_a_page_is_read(target: str, type_: str, name: str) -> None:
    assert named(target, type_) == name


def test_an_encoding_of_the_answer_counts_if_pages_are_written_in_it() -> None:
    assert _transcoded(b"\xe9", "text/html; charset=windows-1252") == b"\xef\xbb\xbf\xc3\xa9"
    for name in ("utf-8", "UTF8", "punycode", "utf-7", "unicode_escape", "zip", "no such", "\0"):
        assert _transcoded(b"+AGE-\\u0061-", f"text/html; charset={name}") == b"+AGE-\\u0061-", name


def test_the_front_page_as_the_canonical_one_of_every_page_is_a_mistake() -> None:
    front, other = Address.parse("https://h/"), Address.parse("https://h/a")
    assert not _plausible("guide/a", front)
    assert _plausible("?x=1", front)
    assert _plausible("index.html", front)
    assert _plausible("guide/a", other)


# ------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({}, "give `site`, `sitemaps` or `feeds`"),
        ({"site": "https://h/docs/"}, "include"),
        ({"sitemaps": ["ftp://h/s.xml"]}, "http"),
        ({"sitemaps": ["https://u:hunter2@h/s.xml"]}, "no password"),
        ({"site": "https://h", "hosts": ["https://x"]}, "no host"),
        ({"site": "https://h", "username": "u"}, "belong together"),
        ({"site": "https://h", "token_file": "/absent"}, "token_file"),
        ({"site": "https://h", "user_agent": "a\r\nb: c"}, "a line of ASCII"),
        ({"site": "https://h", "poll_second": 3}, "did you mean 'poll_seconds'"),
        ({"site": "https://h", "timeout_seconds": 90}, "timeout_seconds"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        open_source("w", SourceConfig.model_validate({"connector": "web", **table}), 1000)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "table"),
    [
        ("https://h/sitemap.xml", {"sitemaps": ("https://h/sitemap.xml",)}),
        ("https://h/blog/feed/", {"sitemaps": ("https://h/blog/feed/",)}),
        ("https://h", {"site": "https://h/"}),
        ("http://h/docs/ü/", {"site": "http://h/", "include": ("/docs/ü/",)}),
    ],
)
def test_a_uri_says_a_sitemap_a_site_or_a_folder(uri: str, table: dict[str, object]) -> None:
    config = source_of(uri)
    assert config.connector == "web"
    found = WebSettings.model_validate(config.settings)
    assert {name: getattr(found, name) for name in table} == table


def test_a_uri_of_one_page_is_refused_with_what_to_give() -> None:
    with pytest.raises(ConfigError, match="end a folder with /"):
        source_of("https://h/page.html")


def test_a_secret_comes_out_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2\n")
    basic = WebSettings.model_validate({"site": "https://h", "username": "u", "password_file": str(file)})
    assert basic.authorization() == "Basic dTpodW50ZXIy"
    assert (
        WebSettings.model_validate({"site": "https://h", "token_file": str(file)}).authorization() == "Bearer hunter2"
    )
    assert "hunter2" not in repr(basic)


@pytest.mark.parametrize(
    ("text", "why"), [("hunter2\0", "a zero byte"), (" \n", "it is empty"), ("a\nb", "line break")]
)
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(tmp_path: Path, text: str, why: str) -> None:
    """The HTTP library repeats a header's value in its error, which goes to the log and to the health."""
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(ValueError, match=why) as error:
        WebSettings.model_validate({"site": "https://h", "token_file": str(file)}).authorization()
    assert "hunter2" not in str(error.value)
