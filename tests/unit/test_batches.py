"""Batching: every text once, within the budget; a text that the model cannot take costs only itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ModelConfig
from pipeline.embedding.batches import check, cut, embed_all
from pipeline.embedding.loading import load
from pipeline.errors import BadVector, Fatal, Poison, Transient
from pipeline.points import Vectors
from pipeline.sync import ToEmbed


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 2_000), st.integers(1, 20))
def test_every_text_is_in_one_batch_and_no_batch_is_over_the_budget(lengths: list[int], budget: int, most: int) -> None:
    batches = cut(lengths, budget, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or (len(batch) <= most and len(batch) * longest <= budget)
    # No two neighbours could have been one: the budget is used
    for one, after in zip(batches, batches[1:]):
        longest = max(1, lengths[one[0]])
        assert len(one) == most or (len(one) + 1) * longest > budget
        assert min(lengths[index] for index in one) >= max(lengths[index] for index in after), "the longest first"


class Choosy:
    """The hashing embedder, which fails where it is told to; counts its calls."""

    def __init__(self, bad: frozenset[str], error: Exception | None) -> None:
        self.inner = load(ModelConfig(provider="hashing", name="hashing"))
        self.spec, self.tokenizer, self.batch_tokens = self.inner.spec, self.inner.tokenizer, 100
        self.bad, self.error = bad, error
        self.calls: list[int] = []

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        vectors = self.inner.embed_documents(texts)
        if self.bad & set(texts):
            if self.error is not None:
                raise self.error
            vectors[[text in self.bad for text in texts]] = np.nan
        return vectors

    def embed_query(self, text: str) -> Vectors:
        return self.inner.embed_query(text)


@given(
    st.integers(1, 40),
    st.sets(st.integers(0, 39), max_size=4),
    st.sampled_from([None, RuntimeError("x"), Poison("too_long", "z"), IndexError("y")]),
)
def test_only_the_guilty_fail(count: int, bad: set[int], error: Exception | None) -> None:
    texts = [f"text number {number}" for number in range(count)]
    guilty = frozenset(texts[number] for number in bad if number < count)
    embedder = Choosy(guilty, error)
    items = [ToEmbed(text, text, 3) for text in texts]
    vectors, failed = embed_all(embedder, items, None, 16)
    assert failed.keys() == guilty
    assert vectors.keys() == set(texts) - guilty
    for text, vector in vectors.items():
        assert np.array_equal(vector, embedder.inner.embed_documents([text])[0])
    assert max(embedder.calls) <= 16


def test_bad_vectors_cost_their_own_texts_once_more_and_no_other() -> None:
    """Given a batch with a tenth of texts that the model cannot take, then it is not halved: that would be
    four passes over all of it.
    """
    texts = [f"text number {number}" for number in range(40)]
    embedder = Choosy(frozenset(texts[::10]), None)
    vectors, failed = embed_all(embedder, [ToEmbed(text, text, 1) for text in texts], None, 40)
    assert embedder.calls == [40, 4]
    assert len(vectors) == 36
    assert set(failed.values()) == {"BadVector: bad_vector: the model gave NaN or infinity"}


def test_a_vector_that_a_neighbour_has_spoilt_is_made_again() -> None:
    """Given a text that spoils the vectors of others in its pass, then those are right without it."""

    class Spoiling(Choosy):
        def embed_documents(self, texts: Sequence[str]) -> Vectors:
            vectors = super().embed_documents(texts)
            if "text 0" in texts:
                vectors[len(texts) // 2 :] = np.nan
            return vectors

    embedder = Spoiling(frozenset(), None)
    vectors, failed = embed_all(embedder, [ToEmbed(str(n), f"text {n}", 1) for n in range(20)], None, 20)
    assert (len(vectors), failed) == (20, {})


def test_the_budget_of_the_device_is_taken_where_none_is_given() -> None:
    embedder = Choosy(frozenset(), None)
    padded: list[int] = []
    embed_all(embedder, [ToEmbed(str(n), f"text {n}", 10) for n in range(25)], None, 64, padded.append)
    assert embedder.calls == [10, 10, 5]
    assert padded == [100, 100, 50]


def test_a_device_that_failed_blames_no_text() -> None:
    """Given a model that fails on whatever it gets, then nothing becomes a dead letter."""

    class Broken(Choosy):
        def embed_documents(self, texts: Sequence[str]) -> Vectors:
            raise RuntimeError("device-side assert")

    with pytest.raises(Fatal, match=r"fails on any text.*device-side assert"):
        embed_all(Broken(frozenset(), None), [ToEmbed(str(n), f"text {n}", 3) for n in range(9)], None, 8)


def test_a_device_without_memory_for_one_text_is_waited_for() -> None:
    with pytest.raises(Transient):
        embed_all(Choosy(frozenset({"a"}), Transient("out of memory")), [ToEmbed("a", "a", 1)], None, 8)


def test_a_smaller_batch_may_fit_the_memory() -> None:
    class Small(Choosy):
        def embed_documents(self, texts: Sequence[str]) -> Vectors:
            if len(texts) > 2:
                raise Transient("out of memory")
            return super().embed_documents(texts)

    vectors, failed = embed_all(Small(frozenset(), None), [ToEmbed(str(n), f"t {n}", 3) for n in range(9)], None, 8)
    assert (len(vectors), failed) == (9, {})


def test_a_broken_model_is_not_halved() -> None:
    with pytest.raises(Fatal):
        embed_all(Choosy(frozenset({"a"}), Fatal("no device")), [ToEmbed("a", "a", 1)], None, 8)


def good() -> Vectors:
    return np.eye(3, 8, dtype=np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    vectors = good()
    vectors[1, 1] = value
    with pytest.raises(BadVector, match="NaN or infinity"):
        check(vectors, 3, 8, normalized=False)


def test_a_wrong_shape_or_length_is_refused() -> None:
    check(good(), 3, 8, normalized=True)
    with pytest.raises(BadVector, match="shape"):
        check(good(), 2, 8, normalized=True)
    with pytest.raises(BadVector, match="shape"):
        check(good(), 3, 9, normalized=True)
    with pytest.raises(BadVector, match="length"):
        check(good() * 2, 3, 8, normalized=True)
    check(good() * 2, 3, 8, normalized=False)
