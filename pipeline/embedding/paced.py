"""A model that waits for its turn before every forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from pipeline.points import Vectors
from pipeline.ports import Embedder, Tokenizer
from pipeline.specs import ModelSpec


class PacedEmbedder:
    """The Embedder port around another, for a generation that is being built.

    Args:
        embedder: the model; others may use it between two passes.
        turn: entered around every forward pass.
        batch_tokens: padded tokens of a pass, given what suits the device.
    """

    def __init__(
        self,
        embedder: Embedder,
        turn: Callable[[], AbstractContextManager[None]],
        batch_tokens: Callable[[int], int],
    ) -> None:
        self._embedder = embedder
        self._turn = turn
        self._batch_tokens = batch_tokens

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
        """Of the model's device, or less while live changes come in."""
        return self._batch_tokens(self._embedder.batch_tokens)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension], when it is its turn."""
        with self._turn():
            return self._embedder.embed_documents(texts)

    def embed_query(self, text: str) -> Vectors:
        """float32 [dimension], at once: somebody waits for it."""
        return self._embedder.embed_query(text)
