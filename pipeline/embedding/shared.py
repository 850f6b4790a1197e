"""One loaded model for several threads, run in a thread of its own.

A query waits for one forward pass at most, never for a sync. And one thread only: an OpenMP
runtime keeps helpers for each thread that computes, and from more of them than there are cores on
they sleep between two operations instead of spinning, which costs MiniLM on 2 cores 6 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.points import Vectors
from pipeline.ports import Embedder, Tokenizer
from pipeline.specs import ModelSpec


class SharedEmbedder:
    """The Embedder port around another, one call at a time.

    Args:
        load: makes the other; called at once, in the model's thread. What it raises is raised.
    """

    def __init__(self, load: Callable[[], Embedder]) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._embedder = self._thread.submit(load).result()

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        return self._embedder.spec

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self._embedder.tokenizer

    @property
    def batch_tokens(self) -> int:
        """Of the model's device."""
        return self._embedder.batch_tokens

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension]."""
        return self._thread.submit(self._embedder.embed_documents, texts).result()

    def embed_query(self, text: str) -> Vectors:
        """float32 [dimension]."""
        return self._thread.submit(self._embedder.embed_query, text).result()
