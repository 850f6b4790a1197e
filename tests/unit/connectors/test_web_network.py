"""The web connector's client: where it must not go, what it must not tell, how long it waits and how much it takes."""

from __future__ import annotations

import gzip
import socket
import sqlite3
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.web.addresses import Address
from connectors.web.client import Broken, Client, Hosts, Paused, _retry_after
from connectors.web.network import Forbidden
from connectors.web.robots import Robots
from connectors.web.settings import WebSettings
from connectors.web.source import WebSource
from pipeline.errors import SourceUnavailable
from pipeline.ports import Fetched, without_pauses
from tests.support.sources import wait_until
from tests.support.website import Website

_REAL = socket.getaddrinfo


@pytest.fixture
def site() -> Iterator[Website]:
    made = Website()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Website]:
    made = Website()
    yield made
    made.close()


class Names:
    """A name server: answers in turn, the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = {name.replace("_", "."): rows for name, rows in answers.items()}
        monkeypatch.setattr(socket, "getaddrinfo", self._found)

    def _found(self, host: str, port: int, *of: Any, **more: Any) -> Any:
        if host not in self._answers:
            return _REAL(host, port, *of, **more)
        self.asked.append(host)
        rows = self._answers[host]
        address = rows.pop(0) if len(rows) > 1 else rows[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


def client(site: Website, url: str = "", **settings: Any) -> Client:
    found = WebSettings.model_validate({"sitemaps": [url or f"{site.url}/s.xml"], "pages_per_second": 1000, **settings})
    return Client(found, Hosts(found))


def body(one: Client, url: str, limit: int = 1000) -> bytes:
    with one.get(Address.parse(url)) as answer:
        assert answer.status == 200
        return answer.read(limit)


# ------------------------------------------------------------------------- where it may go


def test_a_name_that_leads_into_a_private_network_is_refused_unless_it_is_named(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.page("/a", "secret of the network")
    port = site.authority.partition(":")[2]
    Names(monkeypatch, www_example_com=["127.0.0.1"])
    url = f"http://www.example.com:{port}/a"
    with pytest.raises(Forbidden, match="private_hosts"):
        body(client(site, url), url)
    assert site.asked("/a") == 0
    assert b"secret" in body(client(site, url, private_hosts=["www.example.com"]), url)
    assert b"secret" in body(client(site), f"{site.url}/a"), "an address in the settings is no name"
    Names(monkeypatch, www_example_com=["169.254.169.254"])
    with pytest.raises(Forbidden, match="private address"):
        body(client(site, url, private_hosts=["www.example.com"]), url)


def test_what_is_connected_to_is_what_was_checked(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a name server that says something public first and 127.0.0.1 a moment later, then nobody connects there."""
    site.page("/a", "secret of the network")
    port = site.authority.partition(":")[2]
    names = Names(monkeypatch, www_example_com=["192.0.2.1", "127.0.0.1"])
    monkeypatch.setattr("connectors.web.network.public", lambda address: address == "192.0.2.1")
    connected: list[Any] = []

    def connect(address: Any, *of: Any, **more: Any) -> socket.socket:
        connected.append(address)
        raise OSError("nobody there")

    monkeypatch.setattr(socket, "create_connection", connect)
    url = f"http://www.example.com:{port}/a"
    with pytest.raises((Broken, Forbidden)):
        body(client(site, url), url)
    assert [address[0] for address in connected] in (["192.0.2.1"], ["192.0.2.1"] * 2)
    assert names.asked, "it was asked"
    assert site.asked("/a") == 0


def test_name_servers_that_are_silent_are_waited_for_within_the_page_s_time(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a lookup that does not end, then the page does, and there are never more than four of such."""
    port = site.authority.partition(":")[2]
    site.page("/a", "x")
    answering, asked = threading.Event(), []

    def silent(host: str, port: int, *of: Any, **more: Any) -> Any:
        asked.append(host)
        assert answering.wait(30)
        return _REAL("127.0.0.1", port, *of, **more)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    url = f"http://www.example.com:{port}/a"
    one = client(site, url, private_hosts=["www.example.com"])
    one._spare = 0
    monkeypatch.setattr("connectors.web.network._RESOLVE_SECONDS", 0.02)
    for _ in range(6):
        with pytest.raises(Broken, match="name server"):
            body(one, url)
    assert len(asked) == 4
    monkeypatch.setattr("connectors.web.network._RESOLVE_SECONDS", 10.0)
    answering.set()
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *of, **more: _REAL("127.0.0.1", *of, **more))
    other = client(site, url, private_hosts=["www.example.com"])
    other._guard._resolver = one._guard._resolver
    wait_until(lambda: one._guard._resolver._asking._value == 4, seconds=30)
    assert b"x" in body(other, url)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *of, **more: _REAL("no..name", 80))
    with pytest.raises(Broken, match="has no address"):
        body(client(site, url), url)


def test_a_redirect_leads_only_to_hosts_of_the_source(
    site: Website, other: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.page("/secret", "x")
    site.redirect("/a", f"{other.url}/secret", 302)
    with pytest.raises(Forbidden, match="not in `hosts`"):
        body(client(site), f"{site.url}/a")
    assert other.asked("/secret") == 0
    assert b"x" in body(client(site, hosts=[other.authority], private_hosts=["127.0.0.1"]), f"{site.url}/a")
    Names(monkeypatch, inner_example_com=["127.0.0.1"])
    site.redirect("/b", "http://inner.example.com/latest/meta-data", 302)
    with pytest.raises(Forbidden, match="private address"):
        body(client(site, hosts=["*.example.com"]), f"{site.url}/b")


def test_hosts_are_named_one_by_one_or_by_a_pattern() -> None:
    found = WebSettings.model_validate({"site": "https://h.example", "hosts": ["*.docs.example", "x.example:8443"]})
    hosts = Hosts(found)
    yes = ("https://h.example/", "http://h.example/", "https://a.docs.example/", "https://x.example:8443/")
    no = ("https://h.example:444/", "https://docs.example/", "https://a.docs.example:22/", "https://x.example/")
    assert [hosts.has(Address.parse(url)) for url in (*yes, *no)] == [True] * 4 + [False] * 4
    assert hosts.trusted(Address.parse("https://h.example/"))
    assert not hosts.trusted(Address.parse("http://h.example/")), "not without encryption"
    assert not hosts.trusted(Address.parse("https://a.docs.example/"))


def test_secrets_are_for_the_source_s_own_hosts(site: Website, other: Website) -> None:
    site.redirect("/a", f"{other.url}/a", 302)
    other.page("/a", "x")
    one = client(site, hosts=[other.authority], private_hosts=["127.0.0.1"], username="robot", password="hunter2")
    body(one, f"{site.url}/a")
    assert "authorization" in site.headers_of("/a")
    assert "authorization" not in other.headers_of("/a")


def test_a_secret_that_is_refused_is_read_again(site: Website, tmp_path: Path) -> None:
    site.password = True
    site.page("/a", "x")
    file = tmp_path / "password"
    file.write_text("old")
    one = client(site, username=site.USER, password_file=str(file))
    with one.get(Address.parse(f"{site.url}/a")) as answer:
        assert answer.status == 401
    file.write_text(site.PASSWORD)
    assert body(one, f"{site.url}/a")
    file.unlink()
    site.password = False
    with pytest.raises(SourceUnavailable, match="password_file"):
        body(client(site, username=site.USER, password_file=str(file)), f"{site.url}/a")


# ----------------------------------------------------------------------- how long, how much


def test_an_answer_that_drips_ends_with_its_time(site: Website) -> None:
    """Given answers of a byte every 50 ms, in the head or in the body, then each is over after its time."""
    ended: list[float] = []

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        try:
            if request.path == "/body":
                request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(400):
                request.wfile.write(b"X")
                time.sleep(0.05)
        except OSError:
            ended.append(1.0)

    for target in ("/head", "/body"):
        site.put(target, b"", write=drip)
        one = client(site, timeout_seconds=0.5)
        one._spare = 0
        with pytest.raises(Broken, match="time"):
            body(one, site.url + target, 100_000)
        one.close()


def test_what_is_packed_is_unpacked_up_to_its_limit(site: Website) -> None:
    bomb = gzip.compress(bytes(100_000_000), 9)
    site.put("/bomb", bomb, headers={"Content-Encoding": "gzip"})
    site.put("/two", gzip.compress(b"ab" * 1000), headers={"Content-Encoding": "x-gzip"})
    site.put("/plain", b"a" * 5000)
    one = client(site)
    tracemalloc.start()
    assert len(body(one, f"{site.url}/bomb", 50_000)) == 50_001
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert body(one, f"{site.url}/two", 5000) == b"ab" * 1000
    assert len(body(one, f"{site.url}/plain", 4999)) == 5000
    assert zlib.decompress(bomb, wbits=31) == bytes(100_000_000)


def test_an_answer_that_breaks_off_is_none(site: Website) -> None:
    def half(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    site.put("/a", b"", write=half)
    packed = gzip.compress(b"ab" * 1000)[:-8]
    site.put("/b", packed, headers={"Content-Encoding": "gzip"})
    for target in ("/a", "/b"):
        with pytest.raises(Broken):
            body(client(site), site.url + target, 10_000)


def test_a_failure_is_tried_again_within_a_budget(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.web.client._PAUSE_SECONDS", 0.001)
    site.put("/a", b"", status=502)
    one = client(site)
    for _ in range(20):
        with one.get(Address.parse(f"{site.url}/a")) as answer:
            assert answer.status == 502
    assert site.asked("/a") == 30, "ten more, and no more than that"


@pytest.mark.parametrize(("status", "value"), [(429, "7"), (503, "7"), (429, "")])
def test_a_host_that_asks_to_be_left_alone_is(site: Website, status: int, value: str) -> None:
    site.put("/a", b"", status=status, headers={"Retry-After": value})
    one = client(site)
    with one.get(Address.parse(f"{site.url}/a")) as answer:
        assert answer.status == status
    with pytest.raises(Paused) as error:
        body(one, f"{site.url}/b")
    assert 0 < error.value.seconds <= (7 if value else 60)
    assert site.asked("/b") == 0


def test_a_pause_is_bounded() -> None:
    assert _retry_after("120") == 120
    assert _retry_after("9" * 30) == 3600
    assert _retry_after("Wed, 21 Oct 2099 07:28:00 GMT") == 3600
    assert _retry_after("Wed, 21 Oct 1999 07:28:00 GMT") == 0
    assert _retry_after("soon") == _retry_after("\xb2") == 60


def test_each_host_has_its_turn_and_robots_txt_may_ask_for_more_time(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.page("/a", "x")
    site.put("/robots.txt", "User-agent: *\nCrawl-delay: 3\n", type="text/plain")
    one = client(site, pages_per_second=4)
    waited: list[float] = []
    monkeypatch.setattr(one, "_rest", waited.append)
    monkeypatch.setattr("connectors.web.client.time", SimpleNamespace(monotonic=lambda: 100.0, time=time.time))
    address = Address.parse(f"{site.url}/a")
    assert not Robots(one, "vectide/0.1").disallows(address)
    for _ in range(3):
        body(one, address.url)
    # robots.txt at once, the page a quarter of a second later, and the crawl delay between the others.
    assert waited == [0.0, 0.25, 3.25, 6.25]
    site.put("/robots.txt", "User-agent: *\nCrawl-delay: 86400\n", type="text/plain")
    other = client(site)
    Robots(other, "vectide/0.1").disallows(address)
    assert other._delays[site.authority] == 10.0, "nobody waits a day"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_robots_txt_that_cannot_be_read_forbids_everything_for_now(site: Website, status: int) -> None:
    site.page("/a", "x")
    site.put("/robots.txt", b"", status=status)
    one = client(site)
    robots = Robots(one, "vectide/0.1")
    with pytest.raises((Broken, Paused)):
        robots.disallows(Address.parse(f"{site.url}/a"))
    assert site.asked("/a") == 0


def test_rules_that_were_read_once_stand_while_they_cannot_be_read(
    site: Website, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("/robots.txt", "User-agent: *\nDisallow: /private\n", type="text/plain")
    robots = Robots(client(site), "vectide/0.1")
    private, free = Address.parse(f"{site.url}/private"), Address.parse(f"{site.url}/free")
    assert (robots.disallows(private), robots.disallows(free)) == (True, False)
    monkeypatch.setattr("connectors.web.robots._AGE_SECONDS", 0.0)
    robots._hosts.clear()
    assert robots.disallows(private)
    site.put("/robots.txt", b"", status=500)
    assert (robots.disallows(private), robots.disallows(free)) == (True, False)
    site.put("/robots.txt", b"", status=404)
    robots._hosts.clear()
    assert not robots.disallows(private)


def test_a_closed_client_wakes_who_waits(site: Website) -> None:
    one = client(site, pages_per_second=0.01)
    site.page("/a", "x")
    body(one, f"{site.url}/a")
    threading.Timer(0.1, one.close).start()
    with pytest.raises(SourceUnavailable, match="closed"):
        body(one, f"{site.url}/a")


# --------------------------------------------------------------------------------- the cache


def test_a_cache_that_is_broken_is_built_again(site: Website, tmp_path: Path) -> None:
    site.page("/a", "x")

    def made() -> WebSource:
        table = {"sitemaps": [f"{site.url}/sitemap.xml"], "pages_per_second": 1000}
        return WebSource("w", WebSettings.model_validate(table), 10_000, tmp_path / "state")

    one = made()
    first = [(row.path, row.revision) for row in without_pauses(one.scan())]
    one.close()
    for damage in (b"this is no database" * 1000, b""):
        (tmp_path / "state" / "pages.db").write_bytes(damage)
        one = made()
        for attempt in range(2):
            try:
                assert [(row.path, row.revision) for row in without_pauses(one.scan())] == first
                break
            except SourceUnavailable:
                assert attempt == 0
        assert isinstance(one.fetch("a"), Fetched)
        one.close()
    with sqlite3.connect(tmp_path / "state" / "pages.db") as file:
        text = "\n".join(file.iterdump())
    file.close()
    assert "<html" not in text


def test_two_processes_may_share_the_cache(site: Website, tmp_path: Path) -> None:
    for number in range(30):
        site.page(f"/{number:02}", f"{number}")
    table = WebSettings.model_validate({"sitemaps": [f"{site.url}/sitemap.xml"], "pages_per_second": 1000})
    one, other = (WebSource("w", table, 10_000, tmp_path / "state") for _ in range(2))
    scans = [without_pauses(one.scan()), without_pauses(other.scan())]
    found: list[list[str]] = [[], []]
    for _ in range(30):
        for number, scan in enumerate(scans):
            found[number].append(next(scan).path)
    assert found[0] == found[1] == [f"{number:02}" for number in range(30)]
    for source in (one, other):
        source.close()
