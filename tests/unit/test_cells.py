"""Cells: what changes them, what does not, and that their numbers never change."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pipeline.cells import CELLS, TABLE, chunk_cell, document_cells, head_cells, list_digest, metadata_digest, no_counts
from pipeline.identity import DocumentKey, chunk_id, content_hash, filter_hash, stamp_of
from pipeline.points import Head, ListedChunk

KEY = DocumentKey("docs", "ordner/größe ☃.md")
IDS = [chunk_id(KEY, content_hash("Größe"), nth) for nth in range(2)]
HEAD = Head(
    KEY,
    stamp_of(7, 3),
    "complete",
    7,
    1.5,
    (ListedChunk(IDS[0], 0, 5, 2, ("A", "Ü")), ListedChunk(IDS[1], 5, 9, 1)),
    {"title": "T", "tags": ["a", "b"], "n": 3, "x": 0.5, "yes": True},
    {"acl": "x"},
    filter_hash({"acl": "x"}),
)
FIRST, SECOND = HEAD.chunks


def test_golden_cells_never_change() -> None:
    """Every point in every store carries these: another value would make all of them wrong."""
    assert list_digest(HEAD.chunks) == "b7d506c8ecbcb2dd"
    assert metadata_digest(HEAD.metadata) == "f98f9c212ed3de8f"
    assert head_cells(HEAD) == (8671, 43200)
    assert document_cells(KEY.doc, HEAD.filter_hash) == (19974, 36170)
    assert [chunk_cell(id) for id in IDS] == [45253, 2885]


def test_cells_are_the_same_in_every_process() -> None:
    """Python's own hashes differ from process to process."""
    script = "from tests.unit.test_cells import *; print(head_cells(HEAD), document_cells(KEY.doc, HEAD.filter_hash))"
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{head_cells(HEAD)} {document_cells(KEY.doc, HEAD.filter_hash)}\n"}


@pytest.mark.parametrize(
    "change",
    [
        {"key": DocumentKey("docs", "other")},
        {"stamp": stamp_of(8, 3)},
        {"content_version": 6},
        {"state": "incomplete"},
        {"chunks": (SECOND, FIRST)},
        {"chunks": (FIRST,)},
        {"chunks": (FIRST, replace(SECOND, start=6))},
        {"chunks": (FIRST, replace(SECOND, end=8))},
        {"chunks": (FIRST, replace(SECOND, tokens=2))},
        {"chunks": (FIRST, replace(SECOND, headings=("A",)))},
        {"metadata": {**HEAD.metadata, "n": 4}},
        {"metadata": {**HEAD.metadata, "tags": ["b", "a"]}},
        {"filter_hash": filter_hash({"acl": "y"})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_head_says_of_its_document_changes_its_cells(change: dict[str, Any]) -> None:
    assert head_cells(replace(HEAD, **change)) != head_cells(HEAD)


def test_another_run_of_the_same_version_changes_nothing() -> None:
    """Given a head, when its version is run again, then its cells stay, in whatever order its metadata is."""
    again = replace(HEAD, stamp=stamp_of(7, 9), event_time=2.0, metadata=dict(reversed(list(HEAD.metadata.items()))))
    assert head_cells(again) == head_cells(HEAD)


def test_tables_are_apart_and_evenly_filled() -> None:
    """Given ten thousand documents, when they fall into cells, then tables share none and none is crowded."""
    seen = [Counter[int](), Counter[int]()]
    for number in range(10_000):
        for table, cell in zip(seen, document_cells(DocumentKey("s", str(number)).doc, ""), strict=True):
            table[cell] += 1
    assert all(0 <= cell < TABLE for cell in seen[0])
    assert all(TABLE <= cell < CELLS for cell in seen[1])
    # 10,000 things in 32,768 cells fill 8,620 of them, give or take 50, and a cell with 8 comes once in 10**4 tries.
    assert all(8_300 < len(table) < 8_950 and max(table.values()) < 10 for table in seen)
    assert all(0 <= chunk_cell(chunk_id(KEY, content_hash(str(number)), 0)) < CELLS for number in range(100))
    assert no_counts().shape == (CELLS,)
