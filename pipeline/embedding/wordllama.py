"""Static embeddings of the wordllama weights: the mean of a table's rows. No torch; some 100x faster
than a small transformer. The first 64 or 128 dimensions can be used alone (Matryoshka).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.errors import ConfigError
from pipeline.points import Vectors
from pipeline.ports import Tokenizer
from pipeline.specs import ModelSpec

_BATCH_TOKENS: Final = 16_384


class WordLlamaEmbedder:
    """The Embedder port over a table of float32 [vocabulary, dimension].

    Raises:
        ConfigError: the files are not a table and its tokenizer.
    """

    def __init__(self, spec: ModelSpec, tokenizer: Tokenizer, weights: Path, tokenizer_file: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer as Tokenizers

        try:
            table = next(iter(load_file(weights).values()))
            self._table = table[:, : spec.dimension].astype(np.float32)
            self._ids = Tokenizers.from_file(str(tokenizer_file))
        except Exception as error:  # whatever the libraries make of a file that is not what it should be
            raise ConfigError(f"{weights}: no table of vectors: {error}", "install its package again") from None
        rows = self._ids.get_vocab_size()
        if self._table.shape[1:] != (spec.dimension,) or len(self._table) < rows:
            raise ConfigError(
                f"{weights}: a table of {table.shape}, not of {rows} rows of {spec.dimension}",
                "install its package again",
            )
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
