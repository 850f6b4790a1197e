"""Each fault alone: found as what it is, mended, and nothing else touched."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator

import pytest

from tests.support.faults import FAULTS, WHOLE, Fault, Untouched, document, populate
from tests.support.indexes import Index

SEED = int(os.environ.get("VECTIDE_TEST_SEED") or secrets.randbelow(1 << 32))


@pytest.fixture
def index() -> Iterator[Index]:
    print(f"VECTIDE_TEST_SEED={SEED}")
    made = Index()
    populate(made)
    yield made
    made.broker.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_as_what_it_is_and_mended(index: Index, fault: Fault) -> None:
    random_ = random.Random(SEED)
    untouched = Untouched(index)
    expected = fault(index, document(random_.randrange(WHOLE)), random_)
    with index.verify() as verdict:
        assert {(one.name, one.kind) for one in verdict.findings} == expected
        assert verdict.unexplained == 0
        repaired = index.repair(verdict.findings)
    assert (repaired.left, repaired.documents.total()) == ([], len({name for name, _ in expected}))
    with index.verify() as verdict:
        assert (list(verdict.findings), verdict.unexplained) == ([], 0)
    untouched.check(expected)
