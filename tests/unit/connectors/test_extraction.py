"""Bytes to text: formats, encodings, and what is no text at all."""

from __future__ import annotations

import codecs
import gc
import hashlib
import random
import signal
import tracemalloc
from contextlib import suppress

import pytest

from connectors.extraction import Extracted, ExtractionLimits, Extractor, extract, reader
from pipeline.chunking.structure import blocks
from pipeline.errors import Poison


def text_of(data: bytes, path: str = "a.txt") -> str:
    found = extract(data, path)
    assert found is not None
    return found.text


def extracted(text: str, path: str) -> Extracted:
    found = extract(text.encode(), path)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "path, media_type",
    [
        ("a.txt", "text/plain"),
        ("LICENSE", "text/plain"),
        ("a.unknown", "text/plain"),
        ("a.md", "text/markdown"),
        ("README.MD", "text/markdown"),
        ("a.rst", "text/x-rst"),
        ("a.html", "text/markdown"),
        ("dir/a.py", "text/x-python"),
        ("Makefile", "text/x-makefile"),
        ("a.json", "application/json"),
        ("a.ts", "application/typescript"),
    ],
)
def test_the_suffix_chooses_how_a_text_is_cut(path: str, media_type: str) -> None:
    found = extracted("hello\n", path)
    assert found.media_type == media_type
    assert found.text == "hello\n"


def test_code_is_cut_as_code() -> None:
    """The media types are those that the chunker knows."""
    source = "def f():\n    return 1\n\ndef g():\n    return 2\n"
    found = extracted(source, "a.py")
    assert [block.opens for block in blocks(found.text, found.media_type)] == [True, True]


@pytest.mark.parametrize(
    "text",
    [
        "plain\n",
        "no newline",
        "",
        "\r\n mixed \n line \r ends",
        "  # not\ta heading  ",
        "\f form feed \x0b",
        "漢字 🌊 ünïcödé",
    ],
)
@pytest.mark.parametrize("path", ["a.txt", "a.md", "a.rst", "a.py"])
def test_texts_stay_as_they_are(text: str, path: str) -> None:
    """Spans are spans of the source."""
    assert extracted(text, path).text == text


@pytest.mark.parametrize(
    "data, text, encoding",
    [
        (codecs.BOM_UTF8 + "ü".encode(), "ü", None),
        ("ü漢".encode("utf-16"), "ü漢", "utf-16"),
        (codecs.BOM_UTF16_BE + "ü漢".encode("utf-16-be"), "ü漢", "utf-16"),
        ("ü漢".encode("utf-32"), "ü漢", "utf-32"),
        ("café".encode("latin-1"), "café", "windows-1252"),
        (b"\x93quoted\x94 \x80 5", "“quoted” € 5", "windows-1252"),
        ("üöä 漢字".encode() + b"\xff", "üöä 漢字\ufffd", "utf-8 with replacements"),
        ("漢字漢字".encode()[:-1], "漢字漢\ufffd", "utf-8 with replacements"),
        (b"stray \x00 NUL", "stray \ufffd NUL", None),
        (codecs.BOM_UTF16_LE + b"a\x00\x00", "a\ufffd", "utf-16"),
    ],
)
def test_encodings(data: bytes, text: str, encoding: str | None) -> None:
    found = extract(data, "a.txt")
    assert found is not None
    assert found.text == text
    assert found.metadata.get("encoding") == encoding
    found.text.encode()  # valid Unicode, always


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)),
        b"\x7fELF\x02\x01\x01" + bytes(50),
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + hashlib.sha512(b"x").digest() * 20,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"PK\x03\x04\x14\0\0\0\x08\0",
        b"text and then" + b"\0" * 100,
        b"SQLite format 3\0\x10\0\x02\x02\0\x40\x20\x20",
    ],
)
def test_what_is_binary_is_no_document(data: bytes) -> None:
    assert extract(data, "a.txt") is None


def test_any_bytes_give_a_text_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Random bytes and random damage to text: never an error, never invalid Unicode, and the same twice."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    text = "# Ünïcödé\n\n<p>漢字 &amp; <b>x</b>\n---\ntitle: x\n".encode()
    for _ in range(1500):
        data = bytearray(text * 3 if chance.random() < 0.8 else chance.randbytes(200))
        for _ in range(chance.randrange(6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for path in ("a.txt", "a.md", "a.html", "a.rst"):
            found = extract(bytes(data), path)
            assert found == extract(bytes(data), path)
            if found is not None:
                found.text.encode()
                str(found.metadata.get("title", "")).encode()


@pytest.mark.parametrize(
    "text, title",
    [
        ("# A title\n\n## not this\n", "A title"),
        ("intro\n\n## Later *one* with `code` and [a link](http://x) ##\n", "Later one with code and a link"),
        ("Set\u2003ext\n======\n", "Set ext"),
        ("```\n# a comment\n```\n\n# After the code\n", "After the code"),
        ("~~~\n```\n# x\n~~~\n# Y\n", "Y"),
        ("---\ntitle: From the front matter\n---\n# A heading\n", "From the front matter"),
        ("---\ntitle: [not, text]\n---\n# A heading\n", "A heading"),
        ("no heading\n\n- list\n\n---\n", None),
        ("#hashtag\n", None),
        ("snake_case stays\n===\n", "snake_case stays"),
    ],
)
def test_a_markdown_title_is_its_first_heading(text: str, title: str | None) -> None:
    assert extracted(text, "a.md").metadata.get("title") == title


def test_front_matter_becomes_metadata() -> None:
    text = (
        "---\ntitle: T\ntags: [a, b, 3]\ndraft: true\nweight: 7\nscore: 1.5\ndate: 2024-05-06\n"
        "nested: {a: 1}\nnothing:\nbig: 99999999999999999999999\nnot a number: .nan\n---\ntext\n"
    )
    found = extracted(text, "a.md")
    metadata = {name: value for name, value in found.metadata.items() if name != "extractor"}
    assert metadata == {
        "title": "T",
        "tags": ["a", "b", "3"],
        "draft": True,
        "weight": 7,
        "score": 1.5,
        "date": "2024-05-06",
        "big": "99999999999999999999999",
    }
    assert found.text == text


@pytest.mark.parametrize(
    "text",
    [
        "---\n: : :\n\t- broken\n---\n",
        "---\n&a [*a, *b]\n---\n",
        "---\n!!python/object/apply:os.system ['true']\n---\n",
        "---\njust a text\n---\n",
        "---\nno end\n",
        "---\ndate: 2024-99-99\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
    ],
)
def test_what_only_looks_like_front_matter_is_text(text: str) -> None:
    found = extracted(text, "a.md")
    assert found.text == text
    assert set(found.metadata) == {"extractor"}


def test_front_matter_that_says_one_thing_thousands_of_times_is_left_out() -> None:
    """Given 16 kB with an alias of YAML's in them, which stand for 20 MB, then they do not become metadata."""
    again = ",".join(["*a"] * 2500)
    lists = f"l: &l [{','.join(['*a'] * 100)}]\nm: *l\n"
    text = f'---\nkept: k\na: &a "{"x" * 8000}"\nb: [{again}]\n{lists}last: 1\n---\ntext\n'
    assert len(text) < 17_000
    found = extracted(text, "a.md")
    assert set(found.metadata) - {"extractor"} == {"kept", "a", "last"}
    assert found.text == text


def test_a_number_of_thousands_of_digits_is_left_out_and_the_document_stays() -> None:
    """Python refuses to write it; YAML counts in sixties."""
    text = f"---\nkept: k\nlong: 1{':1' * 6000}\nlist: [1{':1' * 1000}, 2]\n---\ntext\n"
    found = extracted(text, "a.md")
    assert found.text == text
    assert found.metadata["kept"] == "k"
    assert "long" not in found.metadata


def test_front_matter_that_nests_deeper_than_people_write_is_text() -> None:
    """PyYAML takes the square of the depth: 16 kB of open brackets took two seconds."""

    def kept(depth: int) -> bool:
        return "kept" in extracted(f"---\nkept: k\ndeep: {'[' * depth}{']' * depth}\n---\n", "a.md").metadata

    assert kept(64)
    assert not kept(65)


@pytest.mark.parametrize(
    "text, title",
    [
        ("Title\n=====\n\ntext\n", "Title"),
        ("=====\nTitle\n=====\n", "Title"),
        (".. comment\n\n``Code`` title\n------------\n", "Code title"),
        ("text only\n", None),
    ],
)
def test_a_restructured_title(text: str, title: str | None) -> None:
    assert extracted(text, "a.rst").metadata.get("title") == title


PAGE = """<!DOCTYPE html><html><head><title> The
 page </title><style>p {}</style><script>var x = "<p>no</p>";</script></head>
<body><nav><a href="/">Home</a></nav><main>
<h1>Main <em>heading</em></h1><p>First   paragraph<br>goes &amp; on.</p>
<h2>Part</h2><ul><li>one<li>two <b>bold</b><ol><li>inner</li></ol></li></ul>
<pre><code>def f():
    return "&lt;x&gt;"
</code></pre>
<table><tr><th>a</th><th>b|c</th></tr><tr><td>1</td><td><p>2</p></td></tr></table>
<p># not a heading</p><li></li><p>after an empty item</p><img alt="a picture" src="x">
</main><footer>footer</footer></body></html>"""


def test_html_keeps_its_structure_as_markdown() -> None:
    found = extracted(PAGE, "a.html")
    assert found.text == (
        "# Main heading\n\nFirst paragraph goes & on.\n\n## Part\n\n- one\n- two bold\n  1. inner\n\n"
        '```\ndef f():\n    return "<x>"\n```\n\n| a | b\\|c |\n| 1 | 2 |\n\n'
        "\\# not a heading\n\nafter an empty item\n\na picture\n"
    )
    assert found.metadata["title"] == "The page"
    assert found.metadata["source_media_type"] == "text/html"
    headings = [block.headings for block in blocks(found.text, found.media_type)]
    assert ("Main heading", "Part") in headings


FRAME = (
    "<div><header>logo</header><div role=search>find</div></div>{}<aside>see also</aside>"
    "<div role='Complementary note'>ads</div><footer>imprint</footer><div role=contentinfo>cookies</div>"
)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(FRAME.format("<main><p>text</p><aside>a box</aside></main>"), "text a box", id="main"),
        pytest.param(FRAME.format("<div role=main><header>title</header>text</div>"), "title text", id="its role"),
        pytest.param(FRAME.format("<main><div role=main>text</div>more</main>"), "text more", id="main in itself"),
        pytest.param(FRAME.format("<article><header>title</header>" + "word " * 40 + "</article><p>by the way</p>"),
                     "title" + " word" * 40, id="an article that is most of it"),
        pytest.param(FRAME.format("<p>" + "word " * 40 + "</p><article>read on there</article>"),
                     "word " * 40 + "read on there", id="an article that is a teaser"),
        pytest.param(FRAME.format("<article>one</article><article><header>two</header><footer>Jo</footer></article>"),
                     "one two Jo", id="two articles"),
        pytest.param(FRAME.format("<nav>menu</nav><div><p>text</p></div>"), "text", id="the body"),
        pytest.param(FRAME.format("<section><header>part</header>text<aside>a box</aside></section>"),
                     "part text a box", id="a section"),
        pytest.param("<header><nav>menu</nav><h1>title</h1></header><p>text</p>", "# title text", id="its only title"),
        pytest.param("<header><h1>logo</h1></header><h1>title</h1><p>text</p>", "# title text", id="another title"),
        pytest.param("<nav>menu</nav><header>logo</header><footer>imprint</footer>", "logo imprint", id="nothing else"),
        pytest.param("<div role=main></div><p>text</p><footer>imprint</footer>", "text", id="a main that is empty"),
        pytest.param(FRAME.format("<main><script>draw()</script></main>"), "", id="drawn by scripts"),
    ],
)  # fmt: skip
def test_the_main_text_of_a_page_is_without_what_stands_around_it(body: str, text: str) -> None:
    found = extracted(f"<html><body>{body}</body></html>", "a.html")
    assert found.text.split() == text.split()
    assert found.metadata["extractor"] == "html/2", "another version, or what is published stays"


def test_html_says_its_encoding_itself() -> None:
    page = '<html><meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2"><p>za\xbf\xf3\xb3\xe6'
    found = extract(page.encode("latin-1"), "a.html")
    assert found is not None
    assert "zażółć" in found.text
    wrong = extract(b'<meta charset="base64"><meta charset="no-such">caf\xe9', "a.html")
    assert wrong is not None
    assert "café" in wrong.text


def test_html_that_is_broken_deep_or_empty() -> None:
    assert extracted("", "a.html").text == ""
    assert extracted("<p>unclosed <b>tags <table><td>cell", "a.html").text.split() == [
        "unclosed", "tags", "|", "cell", "|"
    ]  # fmt: skip
    assert "in" in extracted("<div>" * 900 + "in", "a.html").text
    assert extracted("just text, no tags", "a.html").text == "just text, no tags\n"


def test_large_html_takes_time_in_proportion() -> None:
    """A list of 60,000 items is a few megabytes: seconds would be a quadratic join."""
    page = "<ul>" + "<li>an item of a long list" * 60_000 + "</ul>"
    assert extracted(page, "a.html").text.count("\n") == 60_000


def test_a_format_that_fails_is_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.extraction import formats

    def broken(text: str, path: str) -> Extracted:
        raise RuntimeError("no such table")

    monkeypatch.setitem(formats.FORMATS, ".broken", formats.Format("broken", 1, broken))
    with pytest.raises(Poison, match="broken: RuntimeError: no such table"):
        extract(b"x", "a.broken")


def test_the_path_is_never_in_text_or_metadata() -> None:
    for suffix in (".txt", ".md", ".rst", ".html", ".py"):
        one, other = extract(b"# t\n\nsame\n", "x/one" + suffix), extract(b"# t\n\nsame\n", "two" + suffix)
        assert one == other


@pytest.mark.parametrize("line", ["\n", "a\n"])
def test_a_table_takes_no_more_memory_than_some_times_its_text(line: str) -> None:
    """As lists, the rows of 8 MiB took 800 MB: more than a connector has."""
    data = (line * 50_000).encode()
    tracemalloc.start()
    try:
        extract(data, "a.csv")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * len(data), f"{peak / len(data):.0f} times the text"


@pytest.mark.parametrize("crashes", [False, True])
def test_of_a_document_that_cannot_be_read_nothing_is_kept_but_why(
    crashes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that was kept held its frames, and so the file: a thousand scanned PDFs were all of the memory."""

    def ended(*asked: object) -> None:
        raise reader._Died(-signal.SIGSEGV)

    if crashes:
        monkeypatch.setattr(reader.Reader, "_ask", ended)
    one, size = Extractor(ExtractionLimits(), 1 << 20), 1_000_000
    gc.disable()  # nor may it wait for somebody to find a cycle
    tracemalloc.start()
    try:
        for number in range(8):
            with suppress(Poison):
                one.extract(b"broken" + bytes(size), f"{number}.ipynb", "its revision")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
        one.close()
    assert kept < size, f"{kept / size:.1f} of 8 files"
