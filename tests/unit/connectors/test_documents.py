"""Documents that are no texts: what of them becomes text, and that a hostile one costs only itself."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors import extraction
from connectors.extraction import Extracted, ExtractionLimits, Extractor, documents, formats, reader, revision_of
from connectors.filesystem import connector
from pipeline.anchors import ANCHORS, place
from pipeline.chunking.structure import blocks
from pipeline.errors import Poison, SourceUnavailable, Transient
from pipeline.ports import Fetched, Skipped, without_pauses
from tests.support import files
from tests.support.sources import Documents, running, scanned

LIMIT = 1 << 20
#: So little that hostile documents meet it soon.
TIGHT = ExtractionLimits(seconds=1, memory_bytes=256 << 20)


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """On a machine that does much else, a second of processor time is minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_DEADLINE_SECONDS", 170.0)
        yield


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    one = Extractor(ExtractionLimits(), LIMIT)
    yield one
    one.close()


@pytest.fixture(scope="module")
def tight() -> Iterator[Extractor]:
    one = Extractor(TIGHT, LIMIT)
    yield one
    one.close()


def read(extractor: Extractor, data: bytes, path: str) -> Extracted:
    found = extractor.extract(data, path)
    assert found is not None
    return found


def pid(extractor: Extractor) -> int:
    process = extractor._reader._process
    assert process is not None
    return process.pid


def text_at(found: Extracted, kind: str, number: int) -> str:
    """The text that lies on one page."""
    inside = [
        at for at in range(len(found.text)) if str(place(found.metadata[ANCHORS], at, at + 1)) == f"{kind} {number}"
    ]
    return found.text[min(inside) : max(inside) + 1].strip()


# ----------------------------------------------------------------------------------- formats


def test_a_pdf_gives_its_text_page_by_page(extractor: Extractor) -> None:
    found = read(
        extractor,
        files.pdf([["ünd wörds", "a hyph-", "enated line"], [], ["third page"]], title="T", author="A"),
        "a.pdf",
    )
    assert found.media_type == "text/plain"
    assert found.text == "ünd wörds\na hyphenated line\n\nthird page\n"
    assert text_at(found, "page", 1) == "ünd wörds\na hyphenated line"
    assert text_at(found, "page", 3) == "third page"
    assert str(place(found.metadata[ANCHORS], 0, len(found.text) - 1)) == "page 1-3"
    metadata = dict(found.metadata)
    assert (metadata["title"], metadata["author"], metadata["pages"]) == ("T", "A", 3)
    assert metadata["created"] == "2000-01-01T00:00:00+00:00"
    assert metadata["source_media_type"] == "application/pdf"
    assert metadata["extractor"] == "pdf/1"


def test_a_scanned_pdf_says_that_it_needs_ocr(extractor: Extractor) -> None:
    with pytest.raises(Poison, match="no_text: it has no text layer: 1 page of images; it needs OCR first"):
        extractor.extract(files.scanned_pdf(), "a.pdf")


def test_an_empty_page_is_no_scanned_one(extractor: Extractor) -> None:
    assert read(extractor, files.pdf([[]]), "a.pdf").text == ""


def test_a_pdf_with_a_password_says_so(extractor: Extractor) -> None:
    with pytest.raises(Poison, match="encrypted: it needs a password"):
        extractor.extract(files.pdf([["secret"]], password="x"), "a.pdf")


def test_word_keeps_its_structure(extractor: Extractor) -> None:
    found = read(extractor, files.word(), "a.docx")
    assert found.text == (
        "# Handbook\n\n# One\n\nA paragraph.\n\n- an item\n\n| a | b\\|c |\n| 1 | 2 |\n\n## Two\n\nThe end.\n"
    )
    assert found.media_type == "text/markdown"
    assert {"title": "Titled", "author": "Bob", "tags": ["red", "blue"]}.items() <= dict(found.metadata).items()
    assert [block.headings for block in blocks(found.text, found.media_type)][-1] == ("One", "Two")


def test_word_loses_no_text_to_what_wraps_it_and_shows_none_that_is_gone(extractor: Extractor) -> None:
    def run(text: str, properties: str = "") -> str:
        return f"<w:r>{properties}<w:t>{text}</w:t></w:r>"

    body = (
        f"<w:sdt><w:sdtContent><w:p>{run('in a content control')}</w:p></w:sdtContent></w:sdt>"
        f"<w:p><w:ins>{run('inserted')}</w:ins><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del></w:p>"
        f"<w:p><w:hyperlink>{run('a link')}</w:hyperlink><w:r><w:instrText>HYPERLINK</w:instrText></w:r>"
        f"{run('hidden', '<w:rPr><w:vanish/></w:rPr>')}</w:p>"
        f"<w:p>{run('around')}<w:r><w:pict><w:txbxContent><w:p>{run('in a box')}</w:p></w:txbxContent></w:pict></w:r>"
        "</w:p>"
        f"<w:tbl><w:tr><w:tc><w:p>{run('outer')}</w:p><w:tbl><w:tr><w:tc><w:p>{run('inner')}</w:p></w:tc></w:tr></w:tbl></w:tc></w:tr></w:tbl>"
    )
    assert read(extractor, files.word_of(body), "a.docx").text == (
        "in a content control\n\ninserted\n\na link\n\naround\nin a box\n\n| outer inner |\n"
    )


def test_slides_have_a_heading_each_and_an_anchor(extractor: Extractor) -> None:
    found = read(extractor, files.slides(), "a.pptx")
    assert found.text == (
        "# Slide 1\n\nfirst point 1\nsecond point\n\nsay this 1\n\n"
        "# Slide 2\n\nfirst point 2\nsecond point\n\nsay this 2\n\n"
        "# untitled text\n\nuntitled text\n\n| cell |\n"
    )
    assert text_at(found, "slide", 2).startswith("# Slide 2")
    assert found.metadata["slides"] == 3


def test_sheets_are_tables_of_what_can_be_seen(extractor: Extractor) -> None:
    found = read(extractor, files.sheets(), "a.xlsx")
    assert found.text == (
        "# Prices\n\n| name | price | sold |\n| blue \\| widget | 12.5 | TRUE |\n| red widget | 7 |\n|  | 19.5 |\n"
    )
    assert (found.metadata["title"], found.metadata["author"]) == ("Prices of 2024", "Carla")


def test_a_book_is_read_in_the_order_of_its_spine(extractor: Extractor) -> None:
    found = read(extractor, files.book(), "a.epub")
    assert found.text == "# Preface\n\nfirst words\n\n# Chapter\n\nsecond words\n"
    assert text_at(found, "section", 2) == "# Chapter\n\nsecond words"
    assert (found.metadata["title"], found.metadata["author"], found.metadata["language"]) == (
        "A book",
        "Dora, Emil",
        "en",
    )


def test_mail_says_who_wrote_to_whom(extractor: Extractor) -> None:
    found = read(extractor, files.MAIL, "a.eml")
    assert found.text == (
        "# Büdget\n\nFrom: Jürgen <j@example.org>\nTo: a@example.org, b@example.org\n"
        "Date: Mon, 02 Jan 2023 10:00:00 +0100\n\nHello all\n\nAttachments: plan.pdf\n"
    )
    assert found.metadata["created"] == "2023-01-02T10:00:00+01:00"
    assert found.metadata["attachments"] == ["plan.pdf"]


def test_a_chapter_and_a_mail_are_read_as_a_whole(extractor: Extractor) -> None:
    """Given notes in an ``aside`` and a text in an ``article``, then neither counts as the frame of a site's page."""
    page = "<header>first</header><article>" + "word " * 40 + "</article><aside>a note</aside><footer>last</footer>"
    whole = ["first", *["word"] * 40, "a", "note", "last"]
    message = f"Subject: x\r\nContent-Type: text/html\r\n\r\n{page}"
    assert read(extractor, message.encode(), "a.eml").text.split() == ["#", "x", *whole]
    assert read(extractor, files.book(f"<html><body>{page}</body></html>"), "a.epub").text.split() == [
        "#", "Preface", "first", "words", *whole
    ]  # fmt: skip


def test_a_notebook_is_its_texts_and_code_without_outputs(extractor: Extractor) -> None:
    found = read(extractor, files.NOTEBOOK, "a.ipynb")
    assert found.text == "# Analysis\nof tides\n\n````python\nx = 1\n```\n````\n"
    assert (found.metadata["title"], found.metadata["programming_language"]) == ("Analysis", "python")


@pytest.mark.parametrize(
    "data, text",
    [
        (b"a,b\n1,2\n", "| a | b |\n| 1 | 2 |\n"),
        (b'a;b\n"x\ny";"p|q"\n\n', "| a | b |\n| x y | p\\|q |\n"),
        (b"a\tb\n", "| a | b |\n"),
        (b'"' + b"x" * 200_000, '"' + "x" * 200_000),
        (b"", ""),
    ],
)
def test_csv_is_a_table(data: bytes, text: str) -> None:
    found = extraction.extract(data, "a.csv")
    assert found is not None
    assert found.text == text


@pytest.mark.parametrize("path", [path for path in files.SAMPLES if path != "a.eml"])
def test_what_only_has_the_name_is_poison(extractor: Extractor, path: str) -> None:
    for data in (b"", b"<html>not found</html>", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)):
        with pytest.raises(Poison) as caught:
            extractor.extract(data, path)
        assert caught.value.reason in ("malformed_document", "encrypted")


def test_the_same_bytes_give_the_same_text_in_every_process() -> None:
    """Given two processes, whose hashes are seeded at random, then texts, metadata and their order agree."""
    samples = {path: made() for path, made in files.SAMPLES.items()}
    answers = []
    for _ in range(2):
        one = Extractor(ExtractionLimits(), LIMIT)
        answers.append([repr(one.extract(data, path)) for path, data in samples.items()])
        one.close()
    assert answers[0] == answers[1]


# ----------------------------------------------------------------------------------- hostile

LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a0 'ha'>" + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30)) + "]>"
)
#: The corners of the largest sheet, with nothing between them: 16 thousand million cells.
FAR = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
#: 1,113 bytes, which it says are one.
LYING = files.word_of("x" * 1000).replace((1113).to_bytes(4, "little"), b"\1\0\0\0")
assert files.word_of("x" * 1000) != LYING
RING = files.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R]/Count 9>>"])
HOSTILE = {
    "a bomb of spaces": lambda: ("a.docx", files.word_of(b" " * (65 << 20))),
    "a bomb of paragraphs": lambda: ("a.docx", files.word_of("<w:p><w:r><w:t>a</w:t></w:r></w:p>" * 500_000)),
    "laughs": lambda: ("a.docx", files.word_of("<w:p><w:r><w:t>&a29;</w:t></w:r></w:p>", LAUGHS)),
    "elements in each other": lambda: ("a.docx", files.word_of("<w:sdt>" * 100_000)),
    "a size that lies": lambda: ("a.docx", LYING),
    "a cell far away": lambda: ("a.xlsx", files.sheet_of(FAR)),
    "pages without end": lambda: ("a.pdf", files.pdf_page(b"", pages=2_000_000_000)),
    "a page of gigabytes": lambda: ("a.pdf", files.pdf_page(b"\0" * (64 << 20), filters=2)),
    "pages in a ring": lambda: ("a.pdf", RING),
    "messages in each other": lambda: ("a.eml", b"Content-Type: message/rfc822\r\n\r\n" * 2_000),
    "a million brackets": lambda: ("a.ipynb", b"[" * 1_000_000),
}
#: What each guard says, where nothing else may come first.
REASONS = {
    "a bomb of spaces": "too_large",
    "laughs": "malformed_document",
    "elements in each other": "malformed_document",
    "a size that lies": "malformed_document",
    "a million brackets": "malformed_document",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_poison_or_harmless_and_the_next_one_is_read(tight: Extractor, name: str) -> None:
    path, data = HOSTILE[name]()
    try:
        found = tight.extract(data, path)
    except Poison as poison:
        reason = poison.reason
    else:
        assert found is not None
        reason = "harmless" if len(found.text) < 1000 else "too much"
    assert reason == REASONS.get(name, reason)
    assert reason in (
        "harmless", "malformed_document", "too_large", "over_limit", "too_slow", "too_much_memory", "reader_failed",
        "extraction_failed",
    )  # fmt: skip
    assert read(tight, files.MAIL, "a.eml").text.startswith("# Büdget")


def test_no_entity_is_read_from_a_file(extractor: Extractor, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    doctype = f'<!DOCTYPE l [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
    found = read(extractor, files.word_of("<w:p><w:r><w:t>it is &x;</w:t></w:r></w:p>", doctype), "a.docx")
    assert "hunter2" not in found.text


def test_time_and_memory_are_limited_and_a_text_is_cut_off_at_its_limit(
    tight: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Poison, match="too_slow: it takes more than 1 s of processor time"):
        tight.extract(files.ENDLESS, "a.eml")
    with pytest.raises(Poison, match="too_much_memory: it takes more than 256 MiB of memory"):
        tight.extract(files.word_of("<w:p/>" * 2_000_000), "a.docx")
    with pytest.raises(Poison, match=r"over_limit: its text is over the limit of 1\.0 MB"):
        tight.extract(b'{"cells":[{"cell_type":"code","source":"' + b"x" * 1_100_000 + b'"}]}', "a.ipynb")


def test_a_process_that_was_killed_is_no_fault_of_the_document(extractor: Extractor) -> None:
    read(extractor, files.MAIL, "a.eml")
    first = pid(extractor)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    # It had read others, so it is tried again in a fresh process.
    with pytest.raises(Transient, match="was killed"):
        extractor.extract(files.MAIL, "a.eml")
    assert read(extractor, files.MAIL, "a.eml").text
    assert pid(extractor) != first


def test_a_process_that_has_read_others_is_not_held_against_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a process that dies of what came before, then the document is read in a fresh one."""
    one = Extractor(ExtractionLimits(), LIMIT)
    try:
        read(one, files.MAIL, "a.eml")
        os.kill(first := pid(one), signal.SIGSEGV)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert read(one, files.MAIL, "a.eml").text
        assert pid(one) != first
    finally:
        one.close()


def test_the_process_has_no_secrets_no_files_and_no_terminal(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTIDE_QDRANT__API_KEY", "hunter2")
    one = Extractor(ExtractionLimits(), LIMIT)
    with open(__file__, "rb") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        read(one, files.MAIL, "a.eml")
        proc = Path(f"/proc/{pid(one)}")
        try:
            assert b"hunter2" not in (proc / "environ").read_bytes()
            opened = {os.readlink(file) for file in (proc / "fd").iterdir()}
            assert {name.split(":")[0] for name in opened} == {"/dev/null", "pipe"}
            assert os.getsid(pid(one)) == pid(one)
        finally:
            one.close()


def test_close_ends_a_reading_and_may_be_repeated() -> None:
    one = Extractor(ExtractionLimits(seconds=50), LIMIT)
    ended: list[BaseException] = []

    def endless() -> None:
        try:
            one.extract(files.ENDLESS, "a.eml")
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=endless)
    thread.start()
    while one._reader._process is None:
        time.sleep(0.01)
    one.close()
    thread.join(30)
    assert [type(error) for error in ended] == [SourceUnavailable]
    one.close()
    with pytest.raises(SourceUnavailable):
        one.extract(files.MAIL, "a.eml")


def test_a_process_ends_with_its_parent() -> None:
    code = (
        "from connectors.extraction import *; from tests.support import files\n"
        "one = Extractor(ExtractionLimits(), 1 << 20); one.extract(files.MAIL, 'a.eml')\n"
        "import os; print(one._reader._process.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    end = time.monotonic() + 30
    while Path(f"/proc/{int(done.stdout)}/stat").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


# ------------------------------------------------------------------------------ the filesystem


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_files_are_published_and_hostile_ones_without_their_text(
    root: Path, tmp_path: Path, documents: Documents
) -> None:
    (root / "good.pdf").write_bytes(files.pdf([["tide tables"]]))
    (root / "hostile.xlsx").write_bytes(files.sheet_of(FAR))
    (root / "scan.pdf").write_bytes(files.scanned_pdf())
    (root / "large.pdf").write_bytes(bytes(500_000))
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    (root / "note.txt").write_text("a note")
    settings = {"path": str(root), "extraction": {"file_limit_bytes": 400_000}}
    scanned(connector("files", settings, 10_000), documents, tmp_path / "state")
    now = documents.now()
    assert {path: one.text for path, one in now.items()} == {
        "good.pdf": "tide tables\n", "note.txt": "a note", "hostile.xlsx": None, "scan.pdf": None, "large.pdf": None
    }  # fmt: skip
    assert now["hostile.xlsx"].omitted.startswith("its reader (sheets) ended with")
    assert "OCR" in now["scan.pdf"].omitted
    assert now["large.pdf"].omitted == "500.0 kB, over the limit of 400.0 kB"
    assert now["good.pdf"].metadata[ANCHORS] == "page 13"
    # And nothing is read or published again
    ends = documents.broker.offsets(documents.names.documents(0))
    scanned(connector("files", settings, 10_000), documents, tmp_path / "state")
    assert documents.broker.offsets(documents.names.documents(0)) == ends


def test_a_file_that_cannot_be_read_is_not_read_again_while_it_is_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a.pdf").write_bytes(b"broken")
    source = connector("files", {"path": str(root)}, LIMIT)
    asked = []
    monkeypatch.setattr(
        Extractor,
        "_read",
        lambda self, data, path, deadline: asked.append(data) or (_ for _ in ()).throw(Poison("r", data.decode())),
    )
    for expected in ("broken", "broken", "other"):
        if expected == "other":
            (root / "a.pdf").write_bytes(b"other")
        with pytest.raises(Poison, match=expected):
            source.fetch("a.pdf")
    source.close()
    assert asked == [b"broken", b"other"]


def test_a_document_whose_reader_is_not_installed_is_counted_and_told_once(
    root: Path, tmp_path: Path, documents: Documents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a PDF and no PDFium, then it is left out; once that is installed, it is read."""
    for name in ("a.pdf", "b.pdf"):
        (root / name).write_bytes(files.pdf([["tide tables"]]))
    (root / "note.txt").write_text("a note")
    with monkeypatch.context() as without, caplog.at_level(logging.WARNING, "connectors"):
        for module in (extraction.documents, formats):
            without.setattr(module, "installed", lambda name: None)
        one = scanned(connector("files", {"path": str(root)}, LIMIT), documents, tmp_path / "state")
    assert set(documents.texts()) == {"note.txt"}
    assert one.skipped("no_reader") == 2
    assert one.metrics.totals()["source_skipped.no_reader"] == 2
    (told,) = [record for record in caplog.records if "not installed" in record.message]
    assert told.__dict__["remedy"] == "install vectide[documents]"
    scanned(connector("files", {"path": str(root)}, LIMIT), documents, tmp_path / "state")
    assert set(documents.texts()) == {"note.txt", "a.pdf", "b.pdf"}


def test_a_better_reader_is_another_revision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.pdf").write_bytes(files.pdf([["tide tables"]]))
    source = connector("files", {"path": str(root)}, LIMIT)
    (before,) = without_pauses(source.scan())
    fetched = source.fetch("a.pdf")
    assert isinstance(fetched, Fetched)
    assert fetched.revision == before.revision
    better = documents.DocumentFormat("pdf", 2, "pdf", "application/pdf", ("pypdfium2",))
    monkeypatch.setitem(documents.FORMATS, ".pdf", better)
    (after,) = without_pauses(source.scan())
    source.close()
    assert after.revision != before.revision


@pytest.mark.parametrize(
    ("distribution", "suffixes"),
    [
        ("selectolax", {".html", ".epub", ".eml"}),
        ("PyYAML", {".md", ".ipynb"}),
        ("lxml", {".docx", ".pptx", ".xlsx", ".epub"}),
        ("python-calamine", {".xlsx"}),
        ("pypdfium2", {".pdf"}),
    ],
)
def test_another_version_of_a_library_is_another_revision_of_all_that_is_built_on_it(
    distribution: str, suffixes: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {path: revision_of(path) for path in ("a.html", "a.md", "a.txt", "a.csv", "a.py", *files.SAMPLES)}
    installed = formats.installed
    monkeypatch.setattr(formats, "installed", lambda name: "9.9" if name == distribution else installed(name))
    assert {path.removeprefix("a") for path, before in asked.items() if revision_of(path) != before} == suffixes


def test_a_better_reader_of_pages_is_another_revision_of_books_and_mail() -> None:
    for path, part in (("a.epub", formats.HTML), ("a.eml", formats.HTML), ("a.ipynb", formats.MARKDOWN)):
        assert part.revision.startswith(f"{part.name}{part.version}-")
        assert part.revision in revision_of(path)


def test_a_live_change_is_published_beside_a_hostile_document(root: Path, documents: Documents) -> None:
    source = connector("files", {"path": str(root)}, LIMIT)
    with running(source, documents) as one:
        one.wait_scanned()
        (root / "hostile.xlsx").write_bytes(files.sheet_of(FAR))
        (root / "good.pdf").write_bytes(files.pdf([["tide tables"]]))
        documents.wait_for({"good.pdf": "tide tables\n", "hostile.xlsx": None})


def test_what_is_never_read_is_skipped_by_its_name_alone(root: Path) -> None:
    (root / "a.zip").write_text("text")
    source = connector("files", {"path": str(root)}, LIMIT)
    found = source.fetch("a.zip")
    source.close()
    assert isinstance(found, Skipped)
    assert found.reason == "binary"


# ------------------------------------------------------------------------------------ anchors


def test_places_are_those_of_the_parts() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(200):
        lengths = [chance.choice([0, 0, 1, 2, 7]) for _ in range(chance.randrange(1, 8))]
        owners = [number for number, length in enumerate(lengths, 1) for _ in range(length)]
        made = "page " + " ".join(map(str, lengths))
        for start in range(len(owners)):
            end = chance.randrange(start, len(owners)) + 1
            assert place(made, start, end) == ("page", owners[start], owners[end - 1])
        assert place(made, 0, len(owners) + 1) is None


@pytest.mark.parametrize("found", [None, 3, "", "page", "page ", "page x", "page -1", "page 1 ²", ["page 1"], " 1 2"])
def test_what_somebody_else_wrote_is_no_place(found: object) -> None:
    assert place(found, 0, 1) is None
