from __future__ import annotations

import pytest

from pipeline.chunking.tokens import WordTokenizer
from pipeline.config import ModelConfig
from pipeline.embedding.models import tokenizer_of
from pipeline.ports import Tokenizer
from tests.unit.chunking.documents import SEED

#: Three ways to make tokens: WordPiece that drops case and controls, byte fallback, plain words.
TOKENIZERS = {
    "minilm": ModelConfig(),
    "wordllama": ModelConfig(provider="wordllama", name="wordllama"),
    "words": ModelConfig(provider="hashing", name="hashing"),
}


@pytest.fixture(scope="module", autouse=True)
def _seed() -> None:
    print(f"VECTIDE_TEST_SEED={SEED}")


@pytest.fixture(scope="session", params=sorted(TOKENIZERS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(TOKENIZERS[request.param])


@pytest.fixture(scope="session")
def minilm() -> Tokenizer:
    return tokenizer_of(TOKENIZERS["minilm"])


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    return WordTokenizer()
