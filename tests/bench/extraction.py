"""How fast documents become text: ``python -m tests.bench.extraction --seconds 3``.

Each format through the process that reads documents, as a connector uses it, and its reader alone in this one:
the difference is what the separate process costs. Seconds are of processor time, of both processes together.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import time
from collections.abc import Callable
from typing import Any

import docx
import pptx
import psutil
import xlsxwriter

from connectors.extraction import ExtractionLimits, Extractor
from connectors.extraction.documents import document_format
from tests.bench.corpus import descriptions
from tests.support import files

LIMIT = 8 << 20
_PAGES = 50
_LINES = 40
_ROWS = 2_000


def _words() -> list[str]:
    """Lines of real text."""
    lines = [line for text in descriptions() for line in text.text.splitlines() if len(line) > 40]
    return [line.encode("latin-1", "ignore").decode("latin-1")[:90] for line in lines[: _PAGES * _LINES]]


def _word(lines: list[str]) -> bytes:
    made = docx.Document()
    for number, line in enumerate(lines):
        if number % _LINES == 0:
            made.add_heading(f"Section {number // _LINES}", 1)
        made.add_paragraph(line)
    to = io.BytesIO()
    made.save(to)
    return to.getvalue()


def _slides(lines: list[str]) -> bytes:
    made = pptx.Presentation()
    for start in range(0, len(lines), _LINES):
        slide = made.slides.add_slide(made.slide_layouts[1])
        slide.shapes.title.text = f"Slide {start // _LINES}"
        slide.placeholders[1].text = "\n".join(lines[start : start + _LINES])
    to = io.BytesIO()
    made.save(to)
    return to.getvalue()


def _sheets(lines: list[str]) -> bytes:
    to = io.BytesIO()
    made = xlsxwriter.Workbook(to)
    sheet = made.add_worksheet("Lines")
    for number in range(_ROWS):
        sheet.write_row(number, 0, [number, number / 3, lines[number % len(lines)]])
    made.close()
    return to.getvalue()


def _notebook(lines: list[str]) -> bytes:
    cells = [
        {"cell_type": kind, "source": lines[start : start + _LINES]}
        for start in range(0, len(lines), _LINES)
        for kind in ("markdown", "code")
    ]
    return json.dumps({"cells": cells, "metadata": {}}).encode()


def samples() -> dict[str, tuple[bytes, int, str]]:
    """By name: a document, how many parts it has, and what these are."""
    lines = _words()
    pages = [lines[start : start + _LINES] for start in range(0, len(lines), _LINES)]
    mail = b"From: a@example.org\r\nSubject: lines\r\n\r\n" + "\n".join(lines[:_LINES]).encode()
    return {
        "a.pdf": (files.pdf(pages), len(pages), "pages"),
        "a.docx": (_word(lines), len(lines), "paragraphs"),
        "a.pptx": (_slides(lines), len(pages), "slides"),
        "a.xlsx": (_sheets(lines), _ROWS, "rows"),
        "a.epub": (files.book(), 2, "chapters"),
        "a.eml": (mail, 1, "messages"),
        "a.ipynb": (_notebook(lines), 2 * len(pages), "cells"),
    }


def _rate(read: Callable[[], object], used: Callable[[], float], seconds: float) -> float:
    """How often in a second of processor time."""
    read()  # imports, and the start of the process
    count, started = 0, used()
    while (took := used() - started) < seconds or count < 3:
        read()
        count += 1
    return count / took


def _used(extractor: Extractor) -> float:
    process = extractor._reader._process
    if process is None:
        return time.process_time()
    times = psutil.Process(process.pid).cpu_times()
    return time.process_time() + times.user + times.system


def measure(seconds: float) -> dict[str, dict[str, Any]]:
    """By format: documents and parts a second, kilobytes of text, and the reader alone."""
    extractor = Extractor(ExtractionLimits(), LIMIT)
    found: dict[str, dict[str, Any]] = {}
    try:
        for path, (data, parts, what) in samples().items():
            format_ = document_format(path)
            assert format_ is not None
            alone = importlib.import_module(f"connectors.extraction.documents.{format_.module}").read
            # In turns, so that another load on the machine meets both.
            rates: dict[str, list[float]] = {"process": [], "alone": []}
            for _ in range(3):
                rates["process"].append(
                    _rate(
                        lambda data=data, path=path: extractor.extract(data, path),
                        lambda: _used(extractor),
                        seconds / 3,
                    )
                )
                rates["alone"].append(
                    _rate(lambda data=data, alone=alone: alone(data, LIMIT), time.process_time, seconds / 3)
                )
            through, by_itself = (sorted(rates[name])[1] for name in ("process", "alone"))
            text = extractor.extract(data, path)
            assert text is not None
            found[format_.name] = {
                "kB": round(len(data) / 1000, 1),
                "kB of text": round(len(text.text) / 1000, 1),
                "documents/s": round(through, 1),
                f"{what}/s": round(through * parts),
                "of the reader alone": round(through / by_itself, 2),
            }
    finally:
        extractor.close()
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=3.0, help="for each format, each way")
    for name, figures in measure(options.parse_args().seconds).items():
        print(f"  {name:<10} {figures}", flush=True)


if __name__ == "__main__":
    main()
