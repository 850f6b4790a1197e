"""Documents to read: made by the libraries of others, and by hand where a library would not make such a thing."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence

import docx
import pptx
import xlsxwriter
from PIL import Image
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen import canvas

_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_RELATIONSHIPS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def pdf(pages: Sequence[Sequence[str]], password: str = "", **said: str) -> bytes:
    """By reportlab: a list of lines for each page. Always the same bytes."""
    to = io.BytesIO()
    made = canvas.Canvas(to, invariant=True, encrypt=StandardEncryption(password) if password else None)
    made.setTitle(said.get("title", ""))
    made.setAuthor(said.get("author", ""))
    for lines in pages:
        for number, text in enumerate(lines):
            made.drawString(72, 760 - 20 * number, text)
        made.showPage()
    made.save()
    return to.getvalue()


def scanned_pdf() -> bytes:
    """By Pillow: an image on a page."""
    to = io.BytesIO()
    Image.new("L", (60, 80), 200).save(to, "PDF")
    return to.getvalue()


def word() -> bytes:
    """By python-docx."""
    made = docx.Document()
    made.core_properties.title, made.core_properties.author = "Titled", "Bob"
    made.core_properties.keywords = "red, blue"
    made.add_heading("Handbook", 0)
    made.add_heading("One", 1)
    made.add_paragraph("A paragraph.")
    made.add_paragraph("an item", style="List Bullet")
    table = made.add_table(2, 2)
    for row, cells in enumerate((("a", "b|c"), ("1", "2"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    made.add_heading("Two", 2)
    made.add_paragraph("The end.")
    to = io.BytesIO()
    made.save(to)
    return to.getvalue()


def slides() -> bytes:
    """By python-pptx: two slides with titles and notes, one without a title."""
    made = pptx.Presentation()
    for number in (1, 2):
        slide = made.slides.add_slide(made.slide_layouts[1])
        slide.shapes.title.text = f"Slide {number}"
        slide.placeholders[1].text = f"first point {number}\nsecond point"
        slide.notes_slide.notes_text_frame.text = f"say this {number}"
    slide = made.slides.add_slide(made.slide_layouts[6])
    slide.shapes.add_textbox(0, 0, 100, 100).text_frame.text = "untitled text"
    slide.shapes.add_table(1, 2, 0, 0, 100, 100).table.cell(0, 0).text = "cell"
    to = io.BytesIO()
    made.save(to)
    return to.getvalue()


def sheets() -> bytes:
    """By XlsxWriter: a sheet, a hidden one, an empty one."""
    to = io.BytesIO()
    made = xlsxwriter.Workbook(to)
    made.set_properties({"title": "Prices of 2024", "author": "Carla"})
    sheet = made.add_worksheet("Prices")
    sheet.write_row(0, 0, ["name", "price", "sold"])
    sheet.write_row(1, 0, ["blue | widget", 12.5, True])
    sheet.write_row(3, 0, ["red\nwidget", 7])
    sheet.write_formula(4, 1, "=B2+B4", value=19.5)
    hidden = made.add_worksheet("Secret")
    hidden.write(0, 0, "hidden")
    hidden.hide()
    made.add_worksheet("Empty")
    made.close()
    return to.getvalue()


def zipped(parts: dict[str, str | bytes]) -> bytes:
    """A ZIP file, compressed; always the same bytes."""
    to = io.BytesIO()
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in parts.items():
            file.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return to.getvalue()


def related(kind: str, target: str) -> str:
    """A file of relationships with one in it."""
    one = f'<Relationship Id="r1" Type="{kind}" Target="{target}"/>'
    return f'<Relationships xmlns="{_RELATIONSHIPS}">{one}</Relationships>'


def word_of(body: str | bytes, before: str = "") -> bytes:
    """A Word document with nothing but this in it: a body, or the whole part if it is bytes."""
    whole = f"{before}<w:document {_WORD}><w:body>{body}</w:body></w:document>" if isinstance(body, str) else body
    return zipped({"_rels/.rels": related("x/officeDocument", "word/document.xml"), "word/document.xml": whole})


def sheet_of(rows: str) -> bytes:
    """A spreadsheet with these rows."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    xml = '<Default Extension="xml" ContentType="application/xml"/>'
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{types}">{xml}</Types>',
            "_rels/.rels": related(f"{_OFFICE}/officeDocument", "xl/workbook.xml"),
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{_OFFICE}"><sheets>'
            '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": related(f"{_OFFICE}/worksheet", "worksheets/sheet1.xml"),
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
        }
    )


def book(second: str = "<html><body><h1>Chapter</h1><p>second words</p></body></html>") -> bytes:
    """An EPUB of two chapters, the first without a heading."""
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
            "OPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A book</dc:title>'
            "<dc:creator>Dora</dc:creator><dc:creator>Emil</dc:creator><dc:language>en</dc:language></metadata>"
            '<manifest><item id="b" href="two%20b.xhtml" media-type="application/xhtml+xml"/>'
            '<item id="a" href="one.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
            "OPS/one.xhtml": "<html><head><title>Preface</title></head><body><p>first words</p></body></html>",
            "OPS/two b.xhtml": second,
        }
    )


MAIL = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\nTo: a@example.org, b@example.org\r\n"
    b"Subject: =?utf-8?q?B=C3=BCdget?=\r\nDate: Mon, 02 Jan 2023 10:00:00 +0100\r\n"
    b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n'
    b"<p>Hello <b>all</b></p>\r\n--x\r\nContent-Type: application/pdf\r\n"
    b'Content-Disposition: attachment; filename="plan.pdf"\r\n\r\n%PDF\r\n--x--\r\n'
)
NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "source": ["# Analysis\n", "of tides"]},
            {"cell_type": "code", "source": "x = 1\n```", "outputs": [{"text": "output of a run"}]},
        ],
        "metadata": {"kernelspec": {"language": "python"}},
    }
).encode()

#: A message whose headers keep Python's parser of them busy for minutes.
ENDLESS = b"Content-Type: text/plain; " + b"a*0=x; " * 50_000 + b"\r\n\r\nx"

#: One of each format.
SAMPLES: dict[str, Callable[[], bytes]] = {
    "a.pdf": lambda: pdf([["first page"], ["second page"]], title="Titled", author="Anna"),
    "a.docx": word,
    "a.pptx": slides,
    "a.xlsx": sheets,
    "a.epub": book,
    "a.eml": lambda: MAIL,
    "a.ipynb": lambda: NOTEBOOK,
}


def pdf_of(objects: Sequence[bytes]) -> bytes:
    """By hand: the first object is the catalogue."""
    to, places = bytearray(b"%PDF-1.7\n"), []
    for number, one in enumerate(objects, 1):
        places.append(len(to))
        to += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    start = len(to)
    to += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    to += b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(to) + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)


def pdf_page(content: bytes, pages: int = 1, filters: int = 0) -> bytes:
    """By hand: one page with this content, compressed so many times, that claims to be so many pages."""
    for _ in range(filters):
        content = zlib.compress(content, 9)
    names = b"/FlateDecode" * filters
    return pdf_of(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count %d>>" % pages,
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
            b"<</Filter[%s]/Length %d>>stream\n%s\nendstream" % (names, len(content), content),
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        ]
    )
