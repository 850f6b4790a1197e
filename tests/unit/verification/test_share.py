"""What it costs to find a few faults among many documents: their own points and some more, and not all."""

from __future__ import annotations

import random

from pipeline.identity import DocumentKey
from tests.support.faults import FAULTS, Expected
from tests.support.indexes import Index

DOCUMENTS = 3_000
PARTS = 6
SPOILT = 50
#: Its own seven points, and those of documents that share one of its cells: 26 on the average with this seed. In larger
#: collections more documents share a cell; `python -m tests.bench.verification` measures that with a million chunks.
EACH = 40
SEED = 20260101


def test_fifty_faults_are_all_found_by_reading_little_more_than_their_documents() -> None:
    index = Index()
    for number in range(DOCUMENTS):
        text = "|".join(f"paragraph {part} of {number}" for part in range(PARTS))
        index.put(DocumentKey("s", f"d{number}"), text, acl=["x", "y"][number % 2], year=number % 3, title=f"T{number}")
    index.follow()
    # The same ones each time: two faults in the same cells can hide each other, by a chance that is not what is asked.
    random_ = random.Random(SEED)
    expected: Expected = set()
    for number, place in enumerate(random_.sample(range(DOCUMENTS), SPOILT)):
        expected |= FAULTS[number % len(FAULTS)](index, DocumentKey("s", f"d{place}"), random_)
    with index.verify() as verdict:
        print(f"{verdict.points_read} of {verdict.points} points read, {verdict.requests} requests")
        assert {(one.name, one.kind) for one in verdict.findings} == expected
        assert verdict.unexplained == 0
        assert verdict.points_read < SPOILT * EACH < verdict.points / 10
    index.broker.close()
