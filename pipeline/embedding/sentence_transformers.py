"""Any sentence-transformers model. torch is imported when one is made, and nowhere else.

``encode`` of the library sorts, pads and copies by itself; the caller has already made batches of
equal length, so this goes straight to tokens, forward pass, pooling: one call, one pass.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.embedding.models import ModelFiles
from pipeline.errors import Fatal, FingerprintMismatch, Poison, Transient
from pipeline.points import Vectors
from pipeline.ports import Tokenizer
from pipeline.specs import ModelSpec

log = logging.getLogger(__name__)

#: A query is cut here before its tokens are counted: no model of ours reads more, and tokenizers
#: take time and memory in proportion to what they are given.
_QUERY_CHARACTERS: Final = 100_000
#: Measured with MiniLM on 2 cores: 256 to 1,500 padded tokens are equally fast, 4,096 cost 14 %
#: more and 8,192 30 %. A small batch is padded less, too. Elsewhere launches must be worth it.
_CPU_BATCH_TOKENS: Final = 1024
_BATCH_TOKENS: Final = 16_384


class SentenceTransformersEmbedder:
    """The Embedder port over a loaded model.

    Args:
        spec: what it must be.
        tokenizer: of the model, for the chunker.
        files: where it is.
        device: ``cuda``, ``cpu``...; chosen if None.
        threads: torch's threads; its default if None.

    Raises:
        Fatal: the model cannot be loaded.
        FingerprintMismatch: its dimension is not the spec's.
    """

    def __init__(
        self, spec: ModelSpec, tokenizer: Tokenizer, files: ModelFiles, device: str | None, threads: int | None
    ) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # it draws into our logs

        if threads is not None:
            torch.set_num_threads(threads)
        try:
            model = SentenceTransformer(
                str(files.folder),
                device=device,
                local_files_only=True,
                model_kwargs={"dtype": getattr(torch, spec.dtype)},
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise Fatal(f"model {spec.name} cannot be loaded: {error}", "check the folder's files") from None
        model.max_seq_length = spec.max_tokens
        model.eval()
        self._torch: Any = torch
        self._model: Any = model
        self._spec = spec
        self._tokenizer = tokenizer
        self._special = model.tokenizer.num_special_tokens_to_add()
        found = self._forward(["warm up"]).shape[1]
        if found < spec.dimension:
            raise FingerprintMismatch(f"model {spec.name} gives {found} dimensions, the spec says {spec.dimension}")

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
        """Few on a CPU, where a bigger batch leaves its caches; many elsewhere."""
        return _CPU_BATCH_TOKENS if self._model.device.type == "cpu" else _BATCH_TOKENS

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension].

        Raises:
            Poison: a text is over the sequence limit: it would have been cut silently.
            Transient: the device is out of memory; a smaller batch may succeed.
        """
        if not texts:
            return np.zeros((0, self._spec.dimension), dtype=np.float32)
        return self._run([self._spec.document_prompt + text for text in texts], truncate=False)

    def embed_query(self, text: str) -> Vectors:
        """float32 [dimension]."""
        vector: Vectors = self._run([(self._spec.query_prompt + text)[:_QUERY_CHARACTERS]], truncate=True)[0]
        return vector

    def _run(self, texts: list[str], *, truncate: bool) -> Vectors:
        if not truncate:
            limit = self._spec.max_tokens
            # Characters first: counting tokens of every text a second time would cost a tenth.
            suspects = [text for text in texts if len(text) > limit]
            for tokens in self._tokenizer.count(suspects):
                if tokens + self._special > limit:
                    raise Poison("too_long", f"a chunk's {tokens} tokens are over the limit of {limit}")
        try:
            vectors = self._forward(texts)
        except RuntimeError as error:
            if "out of memory" in str(error).lower():
                raise Transient(f"the model's device is out of memory: {error}") from None
            raise
        vectors = vectors[:, : self._spec.dimension]
        if self._spec.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _forward(self, texts: list[str]) -> Vectors:
        with self._torch.inference_mode():
            features = (
                self._model.preprocess(texts) if hasattr(self._model, "preprocess") else self._model.tokenize(texts)
            )
            features = {
                name: value.to(self._model.device) if hasattr(value, "to") else value
                for name, value in features.items()
            }
            output = self._model.forward(features)["sentence_embedding"]
            vectors: Vectors = output.float().cpu().numpy()
        return vectors
