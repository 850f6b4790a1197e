"""A free embedder: signed feature hashing of words. For tests, and to measure the pipeline alone.

Texts that share words are near each other, the same text always has the same vector, and a
thousand texts take milliseconds. It knows nothing of meaning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from pipeline.points import Vectors
from pipeline.ports import Tokenizer
from pipeline.specs import ModelSpec

#: Takes the place of the weights' hash; raise it when a vector would change.
HASHING_VERSION: Final = "hashing-1"
_BATCH_TOKENS: Final = 16_384
_WORD: Final = re.compile(r"\w+")


class HashingEmbedder:
    """The Embedder port without a model."""

    def __init__(self, spec: ModelSpec, tokenizer: Tokenizer) -> None:
        self._spec = spec
        self._tokenizer = tokenizer

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        return self._spec

    @property
    def tokenizer(self) -> Tokenizer:
        """Words."""
        return self._tokenizer

    @property
    def batch_tokens(self) -> int:
        """Nothing is padded."""
        return _BATCH_TOKENS

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension]."""
        return self._embed([self._spec.document_prompt + text for text in texts])

    def embed_query(self, text: str) -> Vectors:
        """float32 [dimension]."""
        vector: Vectors = self._embed([self._spec.query_prompt + text])[0]
        return vector

    def _embed(self, texts: Sequence[str]) -> Vectors:
        dimension = self._spec.dimension
        vectors = np.zeros((len(texts), dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            features = [_feature(word, dimension) for word in _WORD.findall(text.lower())]
            # A text without words still needs a direction; its own hash gives it one.
            features.append(_hashed(text, dimension))
            places = np.fromiter((place for place, _ in features), dtype=np.int64)
            signs = np.fromiter((sign for _, sign in features), dtype=np.float32)
            np.add.at(vectors[row], places, signs)
            if not vectors[row].any():
                vectors[row, places[-1]] = 1.0
        if self._spec.normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


@lru_cache(maxsize=16_384)
def _feature(word: str, dimension: int) -> tuple[int, float]:
    return _hashed(word, dimension)


def _hashed(word: str, dimension: int) -> tuple[int, float]:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    return (number >> 1) % dimension, 1.0 if number & 1 else -1.0
