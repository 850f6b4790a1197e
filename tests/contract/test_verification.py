"""Verification and repair over every store: each fault is found as what it is and mended, and nothing else is."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.ports import Store
from tests.support.faults import FAULTS, WHOLE, Expected, Untouched, document, populate
from tests.support.indexes import SPEC, Index

SEED = int(os.environ.get("VECTIDE_TEST_SEED") or secrets.randbelow(1 << 32))


@pytest.fixture
def index(store: Store, prefix: str) -> Iterator[Index]:
    """A collection of each store that has followed a log."""
    print(f"VECTIDE_TEST_SEED={SEED}")
    made = Index(collection=store.create(replace(SPEC, name=f"{prefix}verified")))
    populate(made)
    yield made
    made.broker.close()


def test_many_faults_at_once_are_found_and_mended(index: Index) -> None:
    """Given a collection that is in order, and hardly read to see that; when every fault is planted, each in a
    document of its own, then all are found as what they are, and one repair mends all and touches nothing else.
    """
    with index.verify() as verdict:
        assert (verdict.ok, verdict.unexplained, verdict.points_read) == (True, 0, 4), "the heads that are not complete"
        assert verdict.heads == {"complete": 69, "incomplete": 1, "failed": 2, "omitted": 1, "deleted": 2}
    untouched = Untouched(index)
    random_ = random.Random(SEED)
    expected: Expected = set()
    for fault, number in zip(FAULTS, random_.sample(range(WHOLE), len(FAULTS))):
        expected |= fault(index, document(number), random_)
    with index.verify() as verdict:
        assert {(one.name, one.kind) for one in verdict.findings} == expected
        assert verdict.unexplained == 0
        repaired = index.repair(verdict.findings)
    assert (repaired.left, repaired.documents.total()) == ([], len({name for name, _ in expected}))
    with index.verify() as verdict:
        assert (list(verdict.findings), verdict.unexplained) == ([], 0)
    untouched.check(expected)
