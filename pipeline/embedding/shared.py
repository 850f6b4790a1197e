"""One loaded model for several threads, run in a thread of its own.

A query waits for one forward pass at most, never for a sync. And one thread only: an OpenMP
runtime keeps helpers for each thread that computes, and from more of them than there are cores on
they sleep between two operations instead of spinning, which costs MiniLM on 2 cores 6 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final

from pipeline.errors import Transient
from pipeline.points import Vectors
from pipeline.ports import Embedder, Tokenizer
from pipeline.specs import ModelSpec

_LOOK_SECONDS: Final = 0.1


class SharedEmbedder:
    """The Embedder port around another, one call at a time.

    Args:
        load: makes the other; called at once, in the model's thread. What it raises is raised.
        given_up: true once nobody waits for the model any more.

    Raises:
        Transient: it was given up.
    """

    def __init__(self, load: Callable[[], Embedder], given_up: Callable[[], bool] = lambda: False) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        loaded = self._thread.submit(load)
        # Loading takes a minute or more, and nothing can interrupt it: whoever is told to stop leaves it behind.
        while not wait([loaded], _LOOK_SECONDS).done:
            if given_up():
                raise Transient("the model was not waited for: this process is stopping")
        self._embedder = loaded.result()

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
