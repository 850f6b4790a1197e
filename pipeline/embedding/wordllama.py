"""Static embeddings of the wordllama weights: the mean of a table's rows. No torch; some 100x faster
than a small transformer. The first 64 or 128 dimensions can be used alone (Matryoshka).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.points import Vectors
from pipeline.ports import Tokenizer
from pipeline.specs import ModelSpec

_BATCH_TOKENS: Final = 16_384


class WordLlamaEmbedder:
    """The Embedder port over a table of float32 [vocabulary, dimension]."""

    def __init__(self, spec: ModelSpec, tokenizer: Tokenizer, weights: Path, tokenizer_file: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer as Tokenizers

        tables = load_file(weights)
        self._table = next(iter(tables.values())).astype(np.float32)[:, : spec.dimension]
        self._ids = Tokenizers.from_file(str(tokenizer_file))
        self._ids.no_padding()
        self._ids.enable_truncation(spec.max_tokens)
        self._spec = spec
        self._tokenizer = tokenizer

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        return self._spec

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
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
        encodings = self._ids.encode_batch(list(texts), add_special_tokens=False)
        vectors = np.zeros((len(texts), self._table.shape[1]), dtype=np.float32)
        for row, encoding in enumerate(encodings):
            # A text without tokens gets the first row: a direction, and always the same one.
            vectors[row] = self._table[encoding.ids or [0]].mean(axis=0)
        if self._spec.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors
