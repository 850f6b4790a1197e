"""Texts and vectors of chunks: every planted fault is found, and a sample says what it shows."""

from __future__ import annotations

import random
import uuid
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.embedding.hashing import HashingEmbedder
from pipeline.errors import Poison
from pipeline.identity import DocumentKey, content_hash
from pipeline.points import StoredChunk, Vectors
from pipeline.verification import vectors
from pipeline.verification.findings import EXAMPLES
from pipeline.verification.vectors import Sample, VectorCheck, sample
from tests.unit.verification.corpus import SPEC, TOKENIZER, Corpus, generation, opened

SEED = 20260101
DOCUMENTS = 12


def words(random_: random.Random, count: int = 15) -> str:
    return " ".join(f"w{random_.randrange(500)}" for _ in range(count)) + "."


def fill(corpus: Corpus) -> None:
    random_ = random.Random(SEED)
    for number in range(DOCUMENTS):
        corpus.put(f"d{number}", *(words(random_) for _ in range(4)))
    corpus.put("same", "One and the same sentence here.", words(random_), "One and the same sentence here.")
    corpus.put("gone", words(random_))
    corpus.delete("gone")


@pytest.fixture
def corpus() -> Iterator[Corpus]:
    with opened() as made:
        fill(made)
        made.follow()
        yield made


D3 = DocumentKey("s", "d3")


def looked(corpus: Corpus, **more: Any) -> tuple[Sample, dict[str, str]]:
    """A look at every chunk; by path what is wrong, if it is one of those that are named."""
    shown, docs = sample(corpus.collection, more.pop("check", corpus.check), 1000, SEED, **more)
    reasons = {DocumentKey.from_text(key).path: why for key, why in shown.reasons}
    assert {DocumentKey("s", path).doc for path in reasons} <= docs
    assert len(docs) == len(reasons) or len(shown.reasons) == EXAMPLES
    return shown, reasons


def test_a_sound_collection_is_said_to_be(corpus: Corpus) -> None:
    shown, found = looked(corpus)
    whole = corpus.collection.count_chunks()
    assert whole > 4 * DOCUMENTS
    assert (found, shown.wrong, shown.looked, shown.whole) == ({}, 0, whole, whole)
    assert shown.statement == f"all {whole} chunks were looked at, 0 are wrong"
    assert (shown.bound, shown.as_json()["fewer_than"]) == (0.0, 0.0)


def scaled(chunk: StoredChunk, by: float) -> Vectors:
    assert chunk.vector is not None
    return chunk.vector * np.float32(by)


def nan(chunk: StoredChunk) -> Vectors:
    assert chunk.vector is not None
    made = chunk.vector.copy()
    made[3] = np.nan
    return made


@pytest.mark.parametrize("distance", ["cosine", "dot"])
def test_a_vector_that_is_not_finite_is_found(tmp_path: Path, distance: str) -> None:
    with opened(generation(distance=distance), tmp_path) as corpus:
        fill(corpus)
        corpus.follow()
        chunk = corpus.chunks(D3)[1]
        corpus.plant(chunk, nan(chunk))
        shown, found = looked(corpus)
        assert (found, shown.wrong) == ({"d3": "it is not finite"}, 1)


def test_a_vector_of_another_length_is_found_where_the_store_keeps_lengths() -> None:
    with opened(generation(distance="dot")) as corpus:
        fill(corpus)
        corpus.follow()
        chunk = corpus.chunks(D3)[1]
        corpus.plant(chunk, scaled(chunk, 1.5))
        assert looked(corpus)[1] == {"d3": "its length is 1.5, not 1"}


def test_a_vector_of_another_length_than_the_model_s_is_found_where_none_is_promised() -> None:
    with opened(generation(distance="dot", normalize=False)) as corpus:
        fill(corpus)
        corpus.follow()
        assert looked(corpus)[1] == {}
        chunk = corpus.chunks(D3)[1]
        corpus.plant(chunk, scaled(chunk, 2.0))
        assert "as the model makes it" in looked(corpus)[1]["d3"]


def test_swapped_vectors_are_found_in_both_documents(corpus: Corpus) -> None:
    one, other = corpus.chunks(D3)[0], corpus.chunks(DocumentKey("s", "d4"))[2]
    corpus.plant(one, other.vector)
    corpus.plant(other, one.vector)
    shown, found = looked(corpus)
    assert found.keys() == {"d3", "d4"}
    assert all("the model makes another one of its text (cosine" in why for why in found.values())
    assert shown.statement.endswith("2 are wrong")


def test_a_silently_wrong_model_shows_in_every_chunk() -> None:
    """Given a writer with other weights of the same dimension, under the generation's name."""
    weights = replace_prompt("other weights ")
    with opened() as corpus:
        fill(corpus)
        corpus.follow(weights)
        shown, _ = looked(corpus)
        assert shown.wrong == shown.whole
        assert len(shown.reasons) == EXAMPLES
        few, docs = sample(corpus.collection, corpus.check, 3, SEED)
        assert few.wrong == few.looked == 3
        assert 1 <= len(docs) <= 3


def replace_prompt(prompt: str) -> HashingEmbedder:
    return HashingEmbedder(SPEC.model.model_copy(update={"document_prompt": prompt}), TOKENIZER)


@pytest.mark.parametrize(
    "payload",
    [
        {"text": "Something else stands here."},
        {"text": "Something else stands here.", "content_hash": content_hash("Something else stands here.")},
        {"content_hash": content_hash("Something else stands here.")},
    ],
    ids=["text", "text and hash", "hash"],
)
def test_a_text_that_is_not_the_log_s_is_found_though_its_vector_fits(corpus: Corpus, payload: dict[str, str]) -> None:
    chunk = corpus.chunks(D3)[1]
    corpus.plant(chunk, corpus.model.embed_documents([payload.get("text", chunk.text)])[0], **payload)
    shown, found = looked(corpus)
    assert list(found) == ["d3"]
    assert "its text" in found["d3"]
    assert shown.wrong == 1


def test_what_no_head_lists_is_not_judged(corpus: Corpus) -> None:
    head = corpus.head(D3)
    chunk = corpus.chunks(D3)[1]
    corpus.plant(chunk, nan(chunk))
    corpus.plant_head(replace(head, chunks=tuple(one for one in head.chunks if one.id != chunk.id)))
    shown, found = looked(corpus)
    assert (found, shown.looked) == ({}, shown.whole - 1)


def test_what_was_mended_before_the_second_look_is_no_finding(corpus: Corpus) -> None:
    chunk = corpus.chunks(D3)[1]
    corpus.plant(chunk, nan(chunk))

    def mend(done: int, whole: int) -> None:
        corpus.plant(chunk)

    shown, found = looked(corpus, on_progress=mend)
    assert (found, shown.wrong) == ({}, 0)


class Unwilling(HashingEmbedder):
    """Cannot take one text any more."""

    def embed_documents(self, texts: Any) -> Vectors:
        if any("One and the same" in text for text in texts):
            raise Poison("too_long", "over the limit")
        return super().embed_documents(texts)


def test_a_text_that_the_model_cannot_take_here_is_counted_and_no_finding(corpus: Corpus) -> None:
    shown, found = looked(corpus, check=VectorCheck(Unwilling(SPEC.model, TOKENIZER), None, 64))
    assert (found, shown.wrong, shown.unchecked, shown.looked) == ({}, 0, 2, shown.whole - 2)
    assert (
        shown.statement == f"all {shown.looked} chunks were looked at, 0 are wrong; the model cannot embed 2 more here"
    )
    some = Sample(1, asked=10, looked=8, whole=1000, wrong=0, unchecked=2)
    assert some.bound == pytest.approx(1 - 0.05 ** (1 / 8))
    assert Sample(1, asked=2, looked=0, whole=1000, wrong=0, unchecked=2).bound == 1.0
    chunk = next(one for one in corpus.chunks(DocumentKey("s", "same")) if "One and the same" in one.text)
    corpus.plant(chunk, nan(chunk))
    _, found = looked(corpus, check=VectorCheck(Unwilling(SPEC.model, TOKENIZER), None, 64))
    assert found == {"same": "it is not finite"}, "that needs no model"


def test_each_text_is_embedded_once(corpus: Corpus) -> None:
    given: list[str] = []

    class Counting(HashingEmbedder):
        def embed_documents(self, texts: Any) -> Vectors:
            given.extend(texts)
            return super().embed_documents(texts)

    shown, _ = looked(corpus, check=VectorCheck(Counting(SPEC.model, TOKENIZER), None, 64))
    assert len(given) == len(set(given)) == shown.whole - 1, "one text stands twice"


def test_one_seed_is_one_choice_and_says_so(corpus: Corpus) -> None:
    def chosen(seed: int) -> set[str]:
        seen: set[str] = set()
        check = corpus.check
        checked = check.checked

        def spy(chunks: Any) -> Any:
            seen.update(chunk.id for chunk in chunks)
            return checked(chunks)

        check.checked = spy  # type: ignore[method-assign]
        shown, _ = sample(corpus.collection, check, 7, seed)
        assert (shown.looked, shown.asked) == (7, 7)
        assert f"seed {seed}" in shown.statement
        assert f"with 95 % confidence fewer than {1 - 0.05 ** (1 / 7):.2%}" in shown.statement
        return seen

    assert chosen(1) == chosen(1) != chosen(2)


def test_an_empty_collection_has_nothing_to_show() -> None:
    with opened() as corpus:
        shown, found = looked(corpus)
        assert (shown.statement, found) == ("there are no chunks", {})


# ------------------------------------------------------------------------------ the choice


@dataclass
class Ids:
    """A collection of which only the ids matter."""

    ids: list[str]

    def scan_chunks(self, after: str | None, limit: int, vectors: bool = False) -> tuple[list[Any], None]:
        place = bisect_left(self.ids, after or "")
        return [SimpleNamespace(id=id) for id in self.ids[place : place + limit]], None


@pytest.mark.parametrize("listed", [0, 1000], ids=["by gaps", "listed"])
def test_a_sample_without_a_finding_misses_what_it_excludes_one_time_in_twenty(
    listed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given as many faults as a sample of 50 excludes, in a collection of twice as many chunks, then it
    misses them in one run of twenty, whichever way it chooses. (50 draws by gaps miss them in 9 %.)
    """
    print(f"seed {SEED}")
    monkeypatch.setattr(vectors, "_LISTED", listed)
    random_, runs, count, whole = random.Random(SEED), 1500, 50, 100
    faults = round(whole * (1 - 0.05 ** (1 / count)))
    missed = 0
    for _ in range(runs):
        ids = sorted(str(uuid.UUID(int=random_.getrandbits(128))) for _ in range(whole))
        wrong = set(random_.sample(ids, faults))
        collection: Any = Ids(ids)
        places = vectors._places(collection, count, whole, random_)
        drawn = {chunk.id for place in places for chunk in vectors._at(collection, place)}
        missed += not drawn & wrong
    # Three standard deviations of 5 % of 1,500 are 25.
    assert missed <= 0.05 * runs + 25, f"{missed} of {runs}"


def test_what_is_listed_is_drawn_evenly() -> None:
    print(f"seed {SEED}")
    random_ = random.Random(SEED)
    counts = dict.fromkeys("abcdefgh", 0)
    for _ in range(4000):
        chosen = vectors._sampled(iter(counts), 3, random_)
        assert len(set(chosen)) == 3
        for one in chosen:
            counts[one] += 1
    assert all(1350 < count < 1650 for count in counts.values()), counts


def test_a_choice_behind_the_last_id_is_the_first() -> None:
    collection: Any = Ids(["11111111-0000-5000-8000-000000000000"])
    assert [one.id for one in vectors._at(collection, "ffffffff-0000-5000-8000-000000000000")] == collection.ids
    assert [one.id for one in vectors._at(collection, collection.ids[0])] == collection.ids
