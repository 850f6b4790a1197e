"""One loaded model for several threads: a query waits for one forward pass at most, never for a sync."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pipeline.points import Vectors
from pipeline.ports import Embedder, Tokenizer
from pipeline.specs import ModelSpec


class SharedEmbedder:
    """The Embedder port around another, one call at a time."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._lock = threading.Lock()

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        return self._embedder.spec

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self._embedder.tokenizer

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension]."""
        with self._lock:
            return self._embedder.embed_documents(texts)

    def embed_query(self, text: str) -> Vectors:
        """float32 [dimension]."""
        with self._lock:
            return self._embedder.embed_query(text)
