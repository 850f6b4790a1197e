"""What a configuration proposes as a generation, and the chunker of a generation. No torch here."""

from __future__ import annotations

from typing import Final

from pipeline.chunking import ALGORITHM, chunk
from pipeline.chunking.documents import Chunk
from pipeline.config import ChunkingConfig, Config
from pipeline.embedding.models import model_spec, place_of, tokenizer_of
from pipeline.errors import ConfigError, FingerprintMismatch
from pipeline.ports import Tokenizer
from pipeline.specs import ChunkingSpec, GenerationSpec, ModelSpec

#: A prompt and a text can be a token more together than alone, where they meet.
_SEAM: Final = 2
#: Below this a single character of a byte-level tokenizer with its context could be over the limit.
_LEAST: Final = 16


def generation_spec(config: Config) -> GenerationSpec:
    """The generation that a configuration asks for.

    Raises:
        ConfigError: the model is not on this machine, or the limits do not fit it.
    """
    tokenizer = tokenizer_of(config.model)
    model = model_spec(config.model, tokenizer)
    return GenerationSpec(
        chunking=_chunking_spec(config.chunking, model, tokenizer),
        model=model,
        filter_fields=dict(config.pipeline.filter_fields),
        model_at=place_of(config.model),
    )


def chunker(spec: GenerationSpec, tokenizer: Tokenizer) -> Chunk:
    """A generation's chunker.

    Raises:
        FingerprintMismatch: the generation was cut with another tokenizer, or by another version
            of our chunking.
    """
    if tokenizer.sha256 != spec.chunking.tokenizer_sha256:
        raise FingerprintMismatch(
            f"generation {spec.id} was cut with the tokenizer of {spec.model.name}, not the one configured here",
            "configure the model of the live generation; a new model needs a migration",
        )
    if spec.chunking.algorithm != ALGORITHM:
        raise FingerprintMismatch(
            f"generation {spec.id} was cut by chunking {spec.chunking.algorithm}, this vectide cuts by {ALGORITHM}",
            "run the version that made it, or migrate to a new generation",
        )
    return lambda text, media_type: chunk(text, media_type, spec.chunking, tokenizer)


def _chunking_spec(config: ChunkingConfig, model: ModelSpec, tokenizer: Tokenizer) -> ChunkingSpec:
    allowed = model.max_tokens - tokenizer.special_tokens
    if model.document_prompt:
        allowed -= tokenizer.count([model.document_prompt])[0] + _SEAM
    most = config.max_tokens or allowed
    if most > allowed:
        raise ConfigError(
            f"chunking.max_tokens = {most} is over the {allowed} that {model.name} reads beside its special tokens"
            " and document prompt",
            "leave it out: it is then what the model allows",
        )
    if most < _LEAST:
        raise ConfigError(f"chunking.max_tokens = {most} is below {_LEAST}", "raise it, or model.max_tokens")
    target = config.target_tokens or most
    if target > most:
        raise ConfigError(f"chunking.target_tokens = {target} is over chunking.max_tokens = {most}", "lower it")
    return ChunkingSpec(
        algorithm=ALGORITHM,
        max_tokens=most,
        target_tokens=target,
        context=config.context,
        tokenizer_sha256=tokenizer.sha256,
    )
