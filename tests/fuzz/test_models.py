"""Whatever a folder of weights holds: a model, or an error that names the file or the setting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pipeline.chunking.tokens import HuggingFaceTokenizer
from pipeline.config import ModelConfig
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import model_spec, place_of, tokenizer_of
from pipeline.embedding.wordllama import WordLlamaEmbedder
from pipeline.errors import ConfigError, Poison
from pipeline.specs import ModelSpec
from tests.fuzz.bytes import ODD, changed_json, mutated, nested
from tests.fuzz.settings import FUZZ

VOCABULARY = {token: number for number, token in enumerate(("[UNK]", "a", "b", "##c", "word", "☃"))}
PRE = {"type": "BertPreTokenizer"}
#: One of each kind, as small as they come.
TOKENIZERS: list[dict[str, Any]] = [
    {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "NFC"},
     "pre_tokenizer": PRE, "post_processor": None, "decoder": None, "model": model}
    for model in (
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
         "vocab": VOCABULARY},
        {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
        {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
         "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": {**VOCABULARY, "ab": 6},
         "merges": [["a", "b"]]},
        {"type": "Unigram", "unk_id": 0, "vocab": [[token, -float(number)] for token, number in VOCABULARY.items()],
         "byte_fallback": False},
    )
]  # fmt: skip
TEXT = "a word abc ☃ " + "b" * 300


def spec(dimension: int = 4) -> ModelSpec:
    return ModelSpec(
        provider="wordllama", name="w", weights_sha256="w", tokenizer_sha256="t", dimension=dimension, max_tokens=16
    )


def check_tokenizer(path: Path, definition: bytes) -> None:
    path.write_bytes(definition)
    try:
        tokenizer = HuggingFaceTokenizer(path)
        (count,) = tokenizer.count([TEXT])
        offsets = list(tokenizer.offsets(TEXT))
    except (ConfigError, Poison):
        return
    assert count >= 0
    assert all(0 <= start < end <= len(TEXT) for start, end in offsets)


@given(st.data())
@FUZZ
def test_changed_tokenizers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    sound = data.draw(st.sampled_from(TOKENIZERS))
    check_tokenizer(path, data.draw(st.one_of(changed_json(sound), mutated(json.dumps(sound).encode()))))


def test_hostile_tokenizers(tmp_path: Path) -> None:
    for definition in (b"", b"{}", nested(b"[", b"]"), nested(b'{"model":', b"}", b"1"), b"\xff"):
        check_tokenizer(tmp_path / "tokenizer.json", definition)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as sentence-transformers saves one, but for its weights."""
    made = tmp_path / "weights"
    (made / "1_Pooling").mkdir(parents=True)
    (made / "tokenizer.json").write_text(json.dumps(TOKENIZERS[0]))
    (made / "model.safetensors").write_bytes(b"weights")
    return made


FILES: dict[str, dict[str, Any]] = {
    "config.json": {"hidden_size": 8, "max_position_embeddings": 64},
    "1_Pooling/config.json": {"word_embedding_dimension": 8},
    "sentence_bert_config.json": {"max_seq_length": 32},
    "tokenizer_config.json": {"model_max_length": 64},
    "config_sentence_transformers.json": {"prompts": {"query": "q: ", "document": "d: "}},
}


@given(st.data())
@FUZZ
def test_changed_definitions(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "weights"
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZERS[0]))
    (folder / "model.safetensors").write_bytes(b"weights")
    for name, sound in FILES.items():
        (folder / name).write_bytes(data.draw(st.one_of(st.just(json.dumps(sound).encode()), changed_json(sound))))
    config = ModelConfig(name=str(folder))
    try:
        found = model_spec(config, tokenizer_of(config))
    except ConfigError as error:
        found = error
    if isinstance(found, ConfigError):
        assert str(folder) in str(found)
        assert found.remedy
    else:
        assert 0 < found.dimension < 1_000_000
        assert 0 < found.max_tokens < 1_000_000


def test_definitions_that_nest(folder: Path) -> None:
    for name in FILES:
        (folder / name).write_bytes(nested(b"[", b"]"))
    config = ModelConfig(name=str(folder))
    with pytest.raises(ConfigError, match="no file says"):
        model_spec(config, tokenizer_of(config))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "~nobody-here/x",
        "x" * 5000,
        "a\0b",
        "package:",
        "package:.",
        "package:a.b",
        "package:os/..",
        "\ud800",
    ],
)
def test_names_that_are_no_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = ModelConfig.model_construct(**{**ModelConfig().model_dump(), "name": name})
    assert isinstance(place_of(config), str)
    with pytest.raises(ConfigError):
        model_spec(config, tokenizer_of(config))


TABLE = save({"embedding.weight": np.ones((8, 4), dtype=np.float32)})


@given(st.one_of(mutated(TABLE), st.binary(max_size=60)))
@FUZZ
def test_changed_tables(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "table.safetensors").write_bytes(data)
    (folder / "words.json").write_text(json.dumps(TOKENIZERS[0]))
    tokenizer = HuggingFaceTokenizer(folder / "words.json")
    try:
        embedder = WordLlamaEmbedder(spec(), tokenizer, folder / "table.safetensors", folder / "words.json")
    except ConfigError:
        return
    assert embedder.embed_documents([TEXT, ""]).shape == (2, 4)


@pytest.mark.parametrize("shape", [(8,), (8, 2), (2, 4), (0, 4), (8, 4, 2)])
def test_tables_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "table.safetensors").write_bytes(save({"t": np.ones(shape, dtype=np.float32)}))
    (tmp_path / "words.json").write_text(json.dumps(TOKENIZERS[0]))
    tokenizer = HuggingFaceTokenizer(tmp_path / "words.json")
    with pytest.raises(ConfigError, match="table"):
        WordLlamaEmbedder(spec(), tokenizer, tmp_path / "table.safetensors", tmp_path / "words.json")


def test_odd_texts_are_embedded_or_poison() -> None:
    config = ModelConfig(provider="hashing", name="hashing")
    embedder = HashingEmbedder(model_spec(config, tokenizer_of(config)), tokenizer_of(config))
    for odd in (one for one in ODD if isinstance(one, str)):
        try:
            vectors = embedder.embed_documents([odd])
        except Poison:
            continue
        assert np.isfinite(vectors).all()
