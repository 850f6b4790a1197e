"""Texts of rows and records: HTML is read as a file of it would be, all else stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.extraction import extract, revision_of
from connectors.extraction.formats import FORMATS
from connectors.texts import readable, reading
from pipeline.errors import Poison

PAGE = (
    '<html><head><meta charset="windows-1252"><title>T&uuml;r</title></head>'
    "<body><h1>Böđy</h1><p>a &lt;b&gt; 🌊</p><script>no()</script></body></html>"
)


@pytest.mark.parametrize("media_type", ["text/html", "Text/HTML; charset=latin-1", "application/xhtml+xml"])
def test_html_becomes_what_a_file_of_it_would(media_type: str) -> None:
    """But for its encoding, which was of a file: the text is decoded already."""
    found = readable(PAGE, media_type)
    of_file = extract(PAGE.replace("windows-1252", "utf-8").encode(), "page.html")
    assert found == of_file
    assert found.media_type == "text/markdown"
    assert "# Böđy" in found.text
    assert "a <b> 🌊" in found.text
    assert "no()" not in found.text
    assert found.metadata["title"] == "Tür"
    assert found.metadata["extractor"] == f"html/{FORMATS['.html'].version}"


@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown", "text/html-like"])
def test_other_texts_stay_as_they_are(media_type: str) -> None:
    found = readable(PAGE, media_type)
    assert (found.text, found.media_type, found.metadata) == (PAGE, media_type, {})
    assert reading(media_type) == ()


def test_html_that_nests_too_deeply_is_poison() -> None:
    with pytest.raises(Poison):
        readable("<div>" * 100_000, "text/html")


def test_a_better_extractor_is_another_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reading("text/html")
    assert before == (revision_of("page.html"),)
    format_ = FORMATS[".html"]
    monkeypatch.setitem(FORMATS, ".html", replace(format_, version=format_.version + 1))
    assert reading("text/html; charset=utf-8") not in (before, ())
