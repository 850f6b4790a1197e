"""From a configured model to a loaded one."""

from __future__ import annotations

from pipeline.config import ModelConfig
from pipeline.embedding.hashing import HashingEmbedder
from pipeline.embedding.models import model_spec, resolve, tokenizer_of
from pipeline.errors import FingerprintMismatch
from pipeline.ports import Embedder
from pipeline.specs import ModelSpec


def load(config: ModelConfig, expected: ModelSpec | None = None) -> Embedder:
    """Load a model; torch is imported only for those that need it.

    Args:
        config: which, and where it runs.
        expected: what ``control`` says that it must be.

    Raises:
        ConfigError: it is not on this machine.
        FingerprintMismatch: it is another model than expected.
    """
    tokenizer = tokenizer_of(config)
    spec = model_spec(config, tokenizer)
    if expected is not None and spec.fingerprint != expected.fingerprint:
        differing = {
            name: (value, getattr(spec, name))
            for name, value in expected.model_dump().items()
            if getattr(spec, name) != value
        }
        raise FingerprintMismatch(
            f"the live generation was made by another model: {differing} (there, here)",
            "configure the model of the live generation; a new model needs a migration",
        )
    if config.provider == "hashing":
        return HashingEmbedder(spec, tokenizer)
    files = resolve(config)
    if config.provider == "wordllama":
        from pipeline.embedding.wordllama import WordLlamaEmbedder

        return WordLlamaEmbedder(spec, tokenizer, files.weights[0], files.tokenizer)
    from pipeline.embedding.sentence_transformers import SentenceTransformersEmbedder

    return SentenceTransformersEmbedder(spec, tokenizer, files, config.device, config.threads)
