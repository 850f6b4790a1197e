"""Whatever bytes lie in a file: a text that can be written and cut, nothing, or poison; and soon."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from connectors.extraction import extract, nesting
from connectors.extraction.nesting import Nesting
from pipeline.chunking.structure import blocks
from pipeline.errors import Poison
from tests.fuzz.bytes import mutated
from tests.fuzz.settings import FUZZ

PATHS = ("a.txt", "a.md", "a.rst", "a.html", "a.py", "a.json", "a.xml", "Makefile", "a")
SOUND = (
    b"---\ntitle: A b\ntags: [a, &x b, *x]\nn: 0x1f\nd: 2024-01-31\n---\n# Head ##\n\n*b* [l](x).\n\n```py\nx\n```\n",
    "Title\n=====\n\nText ☃ ünï.\n\n~~~~\nUnder\n~~~~\n\n* item\n".encode(),
    b"<!DOCTYPE html><meta charset='iso-8859-1'><title>T</title><main><h1>H</h1><p>a <b>b</b><ul><li>i<li>j</ul>",
    b"<table><tr><td>x<td>y</table><pre>c\n  d</pre><img alt='z'><svg><path d='M1'/></svg>",
    b"def f():\n    return 1\n\n\nclass A:\n    x = '\\u1234'\n",
    "ä".encode("utf-16"),
)
#: What a hostile writer puts there; each was a hang or an error of a library, or is a classic.
HOSTILE = {
    "encodings that are none": b"".join(
        b"<meta charset=%s><p>+2AA- \\ud800 x" % name for name in (b"idna", b"undefined", b"utf-7", b"unicode_escape")
    ),
    "utf-7": b"<meta charset=utf-7><p>+2AA-+2AA- x",
    "python's escapes": b"<meta charset=raw_unicode_escape><p>\\ud800 x",
    "host names": b"<meta charset=idna><p>xn--a.. x",
    "no encoding at all": b"<meta charset=undefined><p>x",
    "a heading of blanks": b"# a" + b" " * 19_000 + b"b\n",
    "a heading of brackets": b"# " + b"[" * 19_000 + b"\n",
    "an underlined heading of signs": b"#" * 5_000 + b"=" * 9_000 + b"\n" + b"=" * 9_000 + b" " * 9_000 + b"x",
    "a heading of nothing": b"#" + b" \t" * 9_000 + b"#" * 9_000,
    "tags of YAML": b'---\na: !!int ""\n---\nx',
    "a date that is none": b"---\na: !!timestamp foo\n---\nx",
    "a truth that is none": b"---\na: !!bool foo\n---\nx",
    "a number without end": b"---\na: 0x" + b"f" * 9_000 + b"\nb: " + b"1:" * 4_000 + b"1\n---\nx",
    "a surrogate": b'---\na: "\\ud800"\n---\nx',
    "YAML that nests": b"---\na: " + b"[" * 9_000 + b"\n---\nx",
    "laughs": b"---\na0: &a0 {k: v}\n"
    + b"".join(b"a%d: &a%d {<<: [%s]}\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 60)) for n in range(1, 30))
    + b"---\nx",
    "laughs in lists": b"---\na0: &a0 " + b"x" * 4_000 + b"\nb: [" + b",".join([b"*a0"] * 2_500) + b"]\n---\nx",
    "entities": b'<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><p>' + b"&b;" * 50_000,
    "elements in each other": b"<div>" * 100_000 + b"x",
    "end tags for nothing": b"<div>" * 900 + b"</p>" * 50_000,
    "attributes": b"<p " + b" ".join(b"a%d" % n for n in range(50_000)) + b">x",
    "a long attribute": b"<img alt='" + b"x" * 1_000_000 + b"'>",
    "options": b"<select>" + b"<option>" * 50_000,
    "formatting that is never closed": b"".join(b"<p><b id=%d></p>" % n for n in range(20_000)),
    "comments": b"<!--" * 100_000,
    "brackets": b"<" * 200_000,
    "NULs": b"text \0 with\0 some \0" + b"x" * 2_000,
    "white space": b" \n\t\r\f\x0b" * 50_000,
    "one line": b"(" * 500_000,
    "marks of direction": "\u202e\ufeff\u2028\u200b".encode() * 10_000,
}


def check(data: bytes, path: str) -> None:
    """A text that can be written as UTF-8 and cut, whose metadata is in proportion; or nothing; or poison."""
    try:
        found = extract(data, path)
    except Poison:
        return
    if found is None:
        return
    found.text.encode()
    assert "\0" not in found.text
    assert len(found.text) <= 4 * len(data) + 100
    for name, value in found.metadata.items():
        assert isinstance(value, str | int | float | bool | list), (name, value)
    assert len(str(dict(found.metadata))) < 300_000
    ends = [(block.start, block.end) for block in blocks(found.text, found.media_type)]
    assert all(0 <= start < end <= len(found.text) for start, end in ends)
    assert ends == sorted(ends)


@given(st.data(), st.sampled_from(PATHS))
@FUZZ
def test_changed_files(data: st.DataObject, path: str) -> None:
    check(data.draw(mutated(data.draw(st.sampled_from(SOUND)))), path)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from(PATHS))
@example(b"\xff\xfe\x00\xd8", "a.txt")
@example(b"\x00\x00\xfe\xff\xff\xff\xff\xff", "a.md")
@FUZZ
def test_any_bytes(data: bytes, path: str) -> None:
    check(data, path)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str) -> None:
    """The timeout of a test is what ends a hang."""
    for path in ("a.md", "a.html", "a.rst", "a.py"):
        check(HOSTILE[name], path)


# ----------------------------------------------------------------- how deep a page really nests

TAGS = (
    "div p span b i a font table td th tr tbody li ul ol dl dd dt h1 h2 button object template svg desc math mi "
    "title script style select option optgroup form pre br img caption marquee em nobr ruby rt section textarea "
    "foreignObject frameset noscript input hr iframe xmp address applet annotation-xml mtext rp thead tfoot dialog "
    "details search u small"
).split()
ATTRIBUTES = ("", " id=1", " id=2", ' a="<div>"', ' ="x"', ' a=b="', "/", ' "')
BETWEEN = ("<!-->", "<!---->", "<!--x", "-->", "<!x>", "<?p>", '"', "'", ">", "=", "<![CDATA[", "]]>", "x")
#: ``html``, ``body`` and what a parser puts around a first part of a table.
AROUND = 6


def depth(html: str) -> int:
    """As lexbor has it."""
    deepest, left = 0, [(LexborHTMLParser(html).root, 1)]
    while left:
        node, level = left.pop()
        deepest = max(deepest, level)
        child = node.child if node is not None else None
        while child is not None:
            if child.tag and not child.tag.startswith("-"):
                left.append((child, level + 1))
            child = child.next
    return deepest


def soup(rng: random.Random) -> str:
    """Some tags, few of them different, in an order of no sense."""
    tags, parts = rng.sample(TAGS, rng.randint(1, 6)), []
    for _ in range(rng.randint(1, 60)):
        kind = rng.random()
        if kind < 0.5:
            parts.append(f"<{rng.choice(tags)}{rng.choice(ATTRIBUTES)}>")
        elif kind < 0.85:
            parts.append(f"</{rng.choice(tags)}>")
        else:
            parts.append(rng.choice(BETWEEN))
    return "".join(parts)


def test_a_page_never_nests_deeper_than_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(10 * FUZZ.max_examples):
        html = soup(rng)
        assert depth(html) <= Nesting(html).deepest + AROUND, html


def test_a_count_that_believes_every_end_tag_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of this test: without scopes, a page nests deeper than is counted."""
    monkeypatch.setattr(nesting, "_SCOPES", frozenset())
    monkeypatch.setattr(nesting, "_SPECIAL", frozenset())
    rng = random.Random(1)
    assert any(depth(html) > Nesting(html).deepest + AROUND for html in (soup(rng) for _ in range(3_000)))


def test_pages_as_people_write_them_are_read() -> None:
    """What is left open, and what closes by itself, is no nesting."""
    for html in (
        "<ul>" + "<li>x <span>y" * 400 + "</ul>",
        "<table>" + "<tr><td><font color=red>x<td><b>y" * 2_000 + "</table>",
        "<p><font size=2>x</p>" * 2_000,
        "<p><a name=x>y<h2>z</h2>" * 2_000,
        "<select>" + "<option>x" * 5_000 + "</select>",
        "<div><p>x<svg><path d='M1'/><title>t</title><style><![CDATA[ a > b {} ]]></style></svg></div>" * 2_000,
        "<dl>" + "<dt>x<dd>y" * 2_000 + "</dl>",
        "<script>" + "document.write('<div>');" * 2_000 + "</script><p>x</p>",
    ):
        nesting.refuse_hostile(html)


@pytest.mark.parametrize(
    "html",
    [
        "".join(f"<b id={number}>" for number in range(499)) + "</i>" * 2_000,
        "<div>" * 990 + "<tr>" * 2_000,
        "<div>" * 990 + "</tr>" * 2_000,
        "<p><button>" + "<span>" * 980 + "</p>" * 2_000,
        "<ruby>" + "<span>" * 980 + "<rt>" * 2_000,
    ],
)
def test_a_page_of_which_each_tag_costs_a_look_at_all_that_is_open_is_refused(
    monkeypatch: pytest.MonkeyPatch, html: str
) -> None:
    """At 8 MiB each of these took minutes, in which the connector's loop does not beat; it was restarted, for ever."""
    assert nesting.WORK == 100_000_000, "ten seconds"
    monkeypatch.setattr(nesting, "WORK", 1_000_000)
    with pytest.raises(Poison, match="nests too deep for so many tags"):
        nesting.refuse_hostile(html)


def test_a_page_of_more_elements_than_fit_into_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two million of them took a gigabyte; their end tags take nothing."""
    assert nesting.ELEMENTS == 1_000_000, "half a gigabyte"
    monkeypatch.setattr(nesting, "ELEMENTS", 2_000)
    nesting.refuse_hostile("<p>x</p>" * 2_000)
    with pytest.raises(Poison, match="more than 2000 elements"):
        nesting.refuse_hostile("<p>x" * 2_001)


def test_a_text_that_is_far_longer_than_its_page_is_refused() -> None:
    """Each item of a list is indented as deep as it lies: 100 kB of a page became 36 MB of text."""
    with pytest.raises(Poison, match="more than 4 times as long as the page"):
        extract(("<ul>" * 900 + "<li>x" * 2_000).encode(), "a.html")
    found = extract(("<ul><li>a" * 30 + "<li>x" * 2_000).encode(), "a.html")
    assert found is not None
    assert found.text.endswith(f"{'  ' * 29}- x\n")
