"""Each fault alone: found as what it is, mended, and nothing else touched."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RequestRefused
from pipeline.points import StoredChunk
from pipeline.verification import Verdict
from pipeline.verification.checkpoint import Checkpoint, Of
from pipeline.verification.full import full
from pipeline.verification.vectors import Checked
from tests.support.faults import FAULTS, WHOLE, Fault, Untouched, document, populate
from tests.support.indexes import EPOCH, GENERATION, TOPIC, Index, cut, vector_of

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


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_store_that_counts_no_cells_is_read_whole(index: Index, fault: Fault) -> None:
    """Given a tally that strict mode refuses, then the same is found by reading every point."""

    def refused(of: Any) -> Any:
        raise RequestRefused("limit is too high")

    random_ = random.Random(SEED)
    expected = fault(index, document(random_.randrange(WHOLE)), random_)
    index.collection.tally = refused  # type: ignore[method-assign]
    with index.verify() as verdict:
        assert {(one.name, one.kind) for one in verdict.findings} == expected
        assert (verdict.unexplained, verdict.points_read > verdict.points) == (0, True)


class Check:
    """The index's model, asked once more."""

    def checked(self, chunks: Sequence[StoredChunk]) -> Checked:
        wrong = {one.id: "another" for one in chunks if not np.array_equal(one.vector, vector_of(one.text))}  # type: ignore[arg-type]
        return Checked(wrong, {})


def both(index: Index) -> Verdict:
    """By counts, and then every point."""
    verdict = index.verify()
    check: Any = Check()
    point = Checkpoint(None, Of(GENERATION, "c", "model", TOPIC, "id"))
    full(
        index.broker, TOPIC, EPOCH, index.collection, index.ends(), cut, check, point, verdict.findings,
        wait=lambda _: None,
    )  # fmt: skip
    return verdict


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_look_at_every_point_leaves_nothing_that_counts_would_have_mended(index: Index, fault: Fault) -> None:
    """Given what both find of one document, then the repair knows what either has seen of it."""
    random_ = random.Random(SEED)
    untouched = Untouched(index)
    expected = fault(index, document(random_.randrange(WHOLE)), random_)
    with both(index) as verdict:
        assert {(one.name, one.kind) for one in verdict.findings} >= expected
        assert {one.name for one in verdict.findings} == {name for name, _ in expected}
        repaired = index.repair(verdict.findings)
    assert (repaired.left, repaired.documents.total()) == ([], len({name for name, _ in expected}))
    with both(index) as verdict:
        assert (list(verdict.findings), verdict.unexplained) == ([], 0)
    untouched.check(expected)
