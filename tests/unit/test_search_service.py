"""Search follows the live generation: without a gap, without mixing, without waiting for a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import generation_spec
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import tokenizer_of
from pipeline.errors import ConfigError, Transient
from pipeline.identity import DocumentKey, content_hash
from pipeline.ports import CollectionSpec, Embedder
from pipeline.records import ChunkedDocument, ChunkSpan, Provenance
from pipeline.search.service import SearchService, Shadow
from pipeline.specs import GenerationSpec
from pipeline.store.memory import MemoryStore
from pipeline.sync import synchronise
from tests.support.workers import NAMES

TEXT = "the tide and the moon"
HASHING = ModelConfig(provider="hashing", name="hashing")


def spec(dimension: int) -> GenerationSpec:
    model = ModelConfig(provider="hashing", name="hashing", dimension=dimension)
    return generation_spec(Config(model=model, chunking=ChunkingConfig()))


OLD, NEW = spec(256), spec(64)


@dataclass
class Generations:
    live: GenerationSpec | None = OLD
    standby: list[GenerationSpec] = field(default_factory=list)
    target: GenerationSpec | None = None


@dataclass
class Bench:
    """Two generations of one document, and a service over them."""

    store: MemoryStore = field(default_factory=MemoryStore)
    generations: Generations = field(default_factory=Generations)
    loaded: list[str] = field(default_factory=list)
    load: Callable[[GenerationSpec], Embedder] = lambda one: HashingEmbedder(one.model, tokenizer_of(HASHING))

    def service(self, shadow: Shadow | None = None) -> SearchService:
        def load(one: GenerationSpec) -> Embedder:
            self.loaded.append(one.id)
            return self.load(one)

        for one in (OLD, NEW):
            collection = self.store.create(
                CollectionSpec(
                    NAMES.collection(one.id),
                    one.id,
                    one.model.dimension,
                    one.model.distance,
                    one.model.fingerprint,
                    one.chunking.fingerprint,
                )
            )
            model = self.load(one)
            chunk = ChunkSpan(0, len(TEXT), content_hash(TEXT), 5)
            document = ChunkedDocument(
                DocumentKey("s", "a"), 1, one.id, "chunked", Provenance(0.0), TEXT, (chunk,), {}, "text/plain"
            )
            synchronise(collection, [document], lambda items, model=model: embed_all(model, items, None, 64))
        return SearchService(self.store, NAMES, lambda: self.generations, load, shadow)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_switch_between_two_questions_waits_for_nothing(bench: Bench) -> None:
    service = bench.service()
    bench.generations.standby = [NEW]
    service.follow()
    assert sorted(bench.loaded) == sorted([OLD.id, NEW.id])
    assert service.search("tide").generation == OLD.id
    bench.generations.live, bench.generations.standby = NEW, [OLD]
    assert service.search("tide").generation == NEW.id
    bench.generations.live, bench.generations.standby = OLD, [NEW]
    assert service.search("tide").generation == OLD.id
    assert len(bench.loaded) == 2, "both stay loaded around a switch"


def test_a_generation_that_is_still_being_opened_is_not_waited_for(bench: Bench) -> None:
    """Given a forced cutover, then the one before answers until the new model is loaded; once."""
    service = bench.service()
    service.follow()
    go, inner = threading.Event(), bench.load

    def slow(one: GenerationSpec) -> Embedder:
        assert go.wait(10)
        return inner(one)

    bench.load = slow
    bench.generations.live = NEW
    thread = threading.Thread(target=service.follow)
    thread.start()
    for _ in range(20):
        assert service.search("tide").generation == OLD.id
    go.set()
    thread.join(10)
    assert service.search("tide").generation == NEW.id
    assert bench.loaded.count(NEW.id) == 1


def test_without_a_follower_the_first_search_opens_what_is_live(bench: Bench) -> None:
    service = bench.service()
    assert service.search("tide").generation == OLD.id
    bench.generations.live = NEW
    assert service.search("tide").generation == NEW.id


def test_what_may_not_be_live_any_more_is_closed(bench: Bench) -> None:
    service = bench.service()
    bench.generations.standby = [NEW]
    service.follow()
    bench.generations.standby = []
    service.follow()
    assert list(service._open) == [OLD.id]


def test_a_model_that_is_missing_takes_nothing_with_it_and_is_looked_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.search.service._RETRY_SECONDS", 0.0)
    service = bench.service()
    inner = bench.load

    def missing(one: GenerationSpec) -> Embedder:
        if one.id == NEW.id:
            raise ConfigError("no weights", "bring them")
        return inner(one)

    bench.load = missing
    bench.generations.standby = [NEW]
    service.follow()
    assert service.search("tide").generation == OLD.id
    bench.load = inner
    service.follow()
    assert NEW.id in service._open


def test_a_collection_that_was_retired_in_between_is_looked_up_again(bench: Bench) -> None:
    service = bench.service()
    service.follow()
    bench.generations.live = NEW
    service._generations = lambda: (setattr(service, "_generations", lambda: bench.generations), Generations(OLD))[1]
    bench.store.drop(NAMES.collection(OLD.id))
    assert service.search("tide").generation == NEW.id


def test_before_any_generation_is_live_it_says_so(bench: Bench) -> None:
    bench.generations.live = None
    with pytest.raises(Transient, match="no generation is live"):
        bench.service().search("tide")


def test_a_share_of_searches_is_asked_of_the_target_too_and_changes_no_answer(bench: Bench) -> None:
    seen: list[tuple[float, float]] = []
    service = bench.service(Shadow(1.0, lambda seconds, overlap: seen.append((seconds, overlap))))
    bench.generations.target = NEW
    service.follow()
    assert service.search("tide").generation == OLD.id
    until = time.monotonic() + 10
    while not seen:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert seen[0][1] == 1.0, "one document, found by both"
    bench.generations.target = None
    service.follow()
    assert list(service._open) == [OLD.id]


def test_a_share_of_none_asks_nobody(bench: Bench) -> None:
    seen: list[float] = []
    service = bench.service(Shadow(0.0, lambda seconds, overlap: seen.append(overlap)))
    bench.generations.target = NEW
    service.follow()
    for _ in range(20):
        service.search("tide")
    time.sleep(0.1)
    assert seen == []
