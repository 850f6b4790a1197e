"""The web connector against a site: what is gone, what only seems to be, and what stands for what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SourceUnavailable, Transient
from tests.support.sources import running, scanned, wait_until
from tests.unit.connectors.web_world import DAY, World, listed


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


def test_a_lost_cache_takes_the_time_of_grace_from_no_page(world: World, tmp_path: Path) -> None:
    """Given a document that no listing names any more, a cache that is lost and a page that answers 404."""
    world.site.page("/a", "a")
    scanned(world.source(), world.documents)
    world.folder = tmp_path / "another machine"
    world.site.remove("/a")
    source = world.source()
    scanned(source, world.documents)
    assert world.documents.texts() == {"a": "a\n"}
    world.now += DAY + 1
    scanned(world.source(), world.documents)
    assert world.documents.texts() == {}


def test_a_lost_cache_does_not_lift_the_limit(world: World, tmp_path: Path) -> None:
    """Given a site that says by mistake that all is gone, and a process that is restarted elsewhere because of it."""
    for number in range(20):
        world.site.page(f"/{number}", f"text {number}")
    documents = world.documents
    scanned(world.source(), documents)
    for number in range(20):
        world.site.put(f"/{number}", "", status=410, listed=number < 10)
    world.folder = tmp_path / "another machine"
    scanned(world.source(), documents)
    assert len(documents.texts()) == 10, "ten may always go"
    world.folder = tmp_path / "a third one"
    for number in range(20):
        world.site.redirect(f"/{number}", f"/new/{number}")
        world.site.page(f"/new/{number}", f"text {number}")
    scanned(world.source(), documents)
    assert sorted(documents.texts()) == sorted(f"new/{number}" for number in range(20)), "renames are no loss"


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 410},
        {"headers": {"X-Robots-Tag": "noindex"}},
        {"headers": {"X-Robots-Tag": "otherbot: nofollow\r\nX-Robots-Tag: noindex"}},
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


@pytest.mark.parametrize("how", ["gone", "redirect"])
def test_pages_that_go_a_few_at_a_time_count_together(world: World, how: str) -> None:
    """Given 40 pages of which two go at each look, then no more than 30 % go within two days, until that is right."""
    for number in range(40):
        world.site.page(f"/{number:02}", f"text {number}")
    settings = {"recheck_seconds": 3600, "grace_seconds": 0}
    source = world.source(**settings)
    assert len(listed(source)) == 40

    def go(*numbers: int) -> None:
        for number in numbers:
            if how == "gone":
                world.site.put(f"/{number:02}", "", status=410)
            else:
                world.site.redirect(f"/{number:02}", "/00")

    for look in range(1, 7):
        go(2 * look, 2 * look + 1)
        world.now += 3600
        assert len(listed(source)) == 40 - 2 * look
    go(20, 21)
    world.now += 3600
    said = "14 of 40" if how == "gone" else "13 of 39"
    for again in (source, world.source(**settings)):
        with pytest.raises(SourceUnavailable, match=f"{said} pages are gone within 48 hours.*any more"):
            listed(again)
    assert len(listed(world.source(**settings, removal_limit_percent=100))) == 26
    go(30)
    world.now += 3600
    assert len(listed(world.source(**settings))) == 25, "what was right then counts no more"
    go(*range(31, 40))
    world.now += 3600
    assert len(listed(world.source(**settings))) == 16
    world.site.page("/35", "back")
    go(22)
    world.now += 3600
    source = world.source(**settings)
    assert len(listed(source)) == 16, "what is back counts no more"
    world.now += 2 * DAY
    go(23, 24, 25)
    assert len(listed(source)) == 13, "nor does what is long ago"


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


@pytest.mark.parametrize("status", [410, 301])
def test_pages_that_go_between_two_scans_count_together_with_the_others(world: World, status: int) -> None:
    """Given pages that could not be read and are looked at again, then none of them is deleted but by a scan."""
    paths = [f"{number:02}" for number in range(12)]
    for path in paths:
        world.site.page(f"/{path}", path)
    source = world.source(recheck_seconds=0)
    before = listed(source)
    for path in paths:
        world.site.page(f"/{path}", path, status=503)
    listed(source)
    world.now += 3600
    world.site.page("/all", "all", listed=False)
    for path in paths:
        world.site.redirect(f"/{path}", "/all", status)
    for path in paths:
        with pytest.raises(Transient, match="since the last scan"):
            source.fetch(path)
    with pytest.raises(SourceUnavailable, match="nothing is deleted"):
        listed(source)
    world.site.answers.clear()
    for path in paths:
        world.site.page(f"/{path}", path)
    world.now += 3600
    assert {path: listed(source).get(path) for path in paths} == before


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
    one = scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == {"new": "text\n", "kept": "kept\n"}, "no listing names the other page"
    assert one.skipped("unreadable") == 1
    world.now += DAY + 3600
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == {"new": "text\n", "kept": "kept, and edited\n"}
    kinds = [(event.key.path, getattr(event, "digest", None) is None) for event in documents.events()]
    assert kinds.index(("new", False)) < kinds.index(("old", True)), "created before it is deleted"


def test_a_temporary_redirect_to_a_page_that_a_listing_names_counts_at_once(world: World) -> None:
    world.site.page("/a", "a")
    world.site.page("/b", "b")
    documents = world.documents
    scanned(world.source(recheck_seconds=0), documents)
    world.site.redirect("/a", "/b", 302)
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == {"a": "b\n", "b": "b\n"}


def test_where_a_page_has_always_led_to_is_edited_like_the_page_itself(world: World) -> None:
    """Given pages by language, which no listing names, then what is edited there counts at once; and where a page
    begins to lead elsewhere, edits there begin its time of grace no anew.
    """
    documents = world.documents
    for path in ("a", "b"):
        world.site.redirect(f"/{path}", f"/en/{path}", 302)
        world.site.page(f"/en/{path}", path, listed=False)
    for text in ("first", "second", "third"):
        world.site.page("/en/a", text, listed=False)
        scanned(world.source(recheck_seconds=0), documents)
        assert documents.texts() == {"a": f"{text}\n", "b": "b\n"}
        world.now += 3600
    world.site.redirect("/a", "/fr/a", 302)
    for number in range(4):
        assert documents.texts()["a"] == "third\n"
        world.site.page("/fr/a", f"troisième {number}", listed=False)
        scanned(world.source(recheck_seconds=0), documents)
        world.now += DAY / 3 + 60
    assert documents.texts()["a"] == "troisième 3\n"


WALLS = {
    "logging in, for now": (302, "/login", "Who are you?", ""),
    "logging in, for good": (301, "/login", "Who are you?", ""),
    "a password, for good": (301, "/welcome", "<input name=p type=password>", ""),
    "a password, not indexed": (302, "/welcome", "<input type=password>", "<meta name=robots content=noindex>"),
    "an agreement": (302, "/welcome", "Do you agree?", ""),
    "an agreement, by page": (302, "/welcome?back={}", "Do you agree?", ""),
    "maintenance": (200, "", "We are back soon.", ""),
}


@pytest.mark.parametrize("kind", WALLS)
def test_a_wall_in_front_of_a_site_is_no_text_of_its_pages(world: World, kind: str) -> None:
    """Given pages that all lead to, or show, one and the same, then they keep what they had, but for a few."""
    status, target, text, head = WALLS[kind]
    before = {f"{number:02}": f"text {number}\n" for number in range(8)}

    def open_() -> None:
        for number in range(8):
            world.site.page(f"/{number:02}", f"text {number}")

    open_()
    documents = world.documents
    scanned(world.source(recheck_seconds=0), documents)
    for number in range(8):
        to = target.format(number)
        if not to:
            world.site.page(f"/{number:02}", text)
            continue
        world.site.redirect(f"/{number:02}", to, status)
        world.site.page(to, text, head, listed=False)
    one = scanned(world.source(recheck_seconds=0), documents)
    allowed = 3 if kind == "maintenance" else 0
    found = documents.texts()
    assert set(found) == set(before)
    assert sum(found[path] != before[path] for path in before) == allowed
    assert one.skipped("unreadable") == 8 - allowed
    world.now += DAY / 2
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == found
    open_()
    world.now += 3600
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == before


def test_a_wall_that_stays_for_ever_hides_the_pages_behind_it(world: World) -> None:
    for number in range(5):
        world.site.page(f"/{number}", f"text {number}")
    documents, settings = world.documents, {"recheck_seconds": 0, "grace_seconds": DAY}
    scanned(world.source(**settings), documents)
    for number in range(5):
        world.site.redirect(f"/{number}", "/welcome", 302)
    world.site.page("/welcome", "Do you agree?", listed=False)
    for _ in range(3):
        scanned(world.source(**settings), documents)
        world.now += 2 * DAY
    assert documents.count() == 5, "never believed"
    for number in range(5):
        world.site.page(f"/{number}", "Nothing here any more.")
    for _ in range(2):
        scanned(world.source(**settings), documents)
        world.now += 2 * DAY
    assert set(documents.texts().values()) == {"Nothing here any more.\n"}, "their own word, after the time of grace"


def test_what_a_page_leads_to_for_now_does_not_delete_it_at_once(world: World) -> None:
    world.site.page("/a", "a")
    world.site.page("/b", "b")
    source = world.source(recheck_seconds=0)
    before = listed(source)
    world.site.redirect("/a", "/x", 302)
    world.site.redirect("/b", "/y", 302)
    world.site.put("/x", "", status=410, listed=False)
    world.site.page("/y", "y", listed=False, headers={"X-Robots-Tag": "noindex"})
    assert listed(source) == before
    world.now += DAY + 1
    assert listed(source) == {}


def test_pages_about_logging_in_may_move(world: World) -> None:
    world.site.page("/docs/auth/a", "How to log in")
    documents = world.documents
    scanned(world.source(recheck_seconds=0), documents)
    world.site.redirect("/docs/auth/a", "/docs/auth/b")
    world.site.page("/docs/auth/b", "How to log in", listed=False)
    world.site.page("/old", "old")
    scanned(world.source(recheck_seconds=0), documents)
    world.site.redirect("/old", "/guide/auth/")
    world.site.page("/guide/auth/", "new <input type=password>")
    scanned(world.source(recheck_seconds=0), documents)
    assert documents.texts() == {"docs/auth/b": "How to log in\n", "guide/auth/": "new\n"}


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


def test_duplicates_of_a_page_do_not_hold_its_edits_up(world: World) -> None:
    """Given four duplicates that were found before their canonical page, then they are no others that have its text."""
    documents = world.documents
    for text in ("first", "second"):
        for number in range(4):
            world.site.page(f"/a?from={number}", text, "<link rel=canonical href='/a'>")
        world.site.page("/a", text)
        scanned(world.source(recheck_seconds=0), documents)
        assert documents.texts() == {"a": f"{text}\n"}


def test_a_page_is_back_once_the_one_that_stood_for_it_is_excluded(world: World) -> None:
    world.site.page("/a", "text")
    world.site.page("/b", "text", "<link rel=canonical href='/a'>")
    assert list(listed(world.source())) == ["a"]
    assert list(listed(world.source(exclude=["/a"]))) == ["b"]


def test_canonical_chains_are_bounded(world: World) -> None:
    for number in range(20):
        world.site.page(f"/{number:02}", f"{number}", f"<link rel=canonical href='/{number + 1:02}'>")
    world.site.page("/20", "end")
    found = listed(world.source())
    assert "20" in found
    assert "00" in found, "nobody follows twenty of them"
    assert "19" not in found
    assert sum(world.site.requests.values()) < 60
