"""What holds for every document, whatever it is, with every tokenizer."""

from __future__ import annotations

import functools

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer

from pipeline.chunking import chunk
from pipeline.chunking.documents import Chunk
from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.models import resolve, tokenizer_of
from pipeline.identity import content_hash
from pipeline.ports import Tokenizer
from pipeline.specs import GenerationSpec
from tests.unit.chunking.documents import MEDIA_TYPES, documents, examples, spec_of

_SPECS = st.tuples(st.integers(16, 90), st.integers(1, 100), st.sampled_from(["none", "headings"]))


@examples(150)
@given(text=documents, media_type=st.sampled_from(MEDIA_TYPES), limits=_SPECS)
def test_every_character_is_in_exactly_one_chunk(
    tokenizer: Tokenizer, text: str, media_type: str, limits: tuple[int, int, str]
) -> None:
    """Given any text, when it is cut, then spans follow each other, only white space lies between
    them, and spans and gaps together are the text."""
    spans = chunk(text, media_type, spec_of(tokenizer, limits[0], min(limits[:2]), limits[2]), tokenizer)

    rebuilt, last = [], 0
    for span in spans:
        gap, part = text[last : span.start], text[span.start : span.end]
        assert last <= span.start < span.end
        assert not gap.strip(), f"left out: {gap!r}"
        assert part == part.strip()
        rebuilt += [gap, part]
        last = span.end
    assert not text[last:].strip()
    assert "".join([*rebuilt, text[last:]]) == text


@examples(150)
@given(text=documents, media_type=st.sampled_from(MEDIA_TYPES), limits=_SPECS)
def test_no_chunk_is_over_the_limit_and_its_hash_is_of_what_is_embedded(
    tokenizer: Tokenizer, text: str, media_type: str, limits: tuple[int, int, str]
) -> None:
    """Given any text, when it is cut, then each chunk's tokens are those of context + text, within
    the limit, and the content hash covers exactly that."""
    most, target, context = limits
    for span in chunk(text, media_type, spec_of(tokenizer, most, min(most, target), context), tokenizer):
        embedded = span.context + text[span.start : span.end]
        assert [span.tokens] == tokenizer.count([embedded])
        assert span.tokens <= most
        assert span.content_hash == content_hash(embedded)
        assert context == "headings" or span.context == ""
        assert len(span.headings) <= 8
        assert all(0 < len(title) <= 200 for title in span.headings)


@examples(60)
@given(text=documents, media_type=st.sampled_from(MEDIA_TYPES), most=st.sampled_from([None, 40]))
def test_prompt_context_text_and_special_tokens_are_within_what_the_model_reads(
    text: str, media_type: str, most: int | None
) -> None:
    """Given a model with a document prompt, when a text is cut with its whole limit, then what the
    model is given has at most its sequence limit of tokens, counted by its own tokenizer."""
    for spec, cut, raw in _readers(most):
        for span in cut(text, media_type):
            given_to_model = spec.model.document_prompt + span.context + text[span.start : span.end]
            assert len(raw.encode(given_to_model).ids) <= spec.model.max_tokens


@functools.cache
def _readers(most: int | None) -> list[tuple[GenerationSpec, Chunk, RawTokenizer]]:
    """Of two models with prompts: the spec, what cuts for it, and its tokenizer without a limit."""
    found = []
    for model in (
        ModelConfig(max_tokens=64, document_prompt="search_document: "),
        ModelConfig(provider="wordllama", name="wordllama", max_tokens=64, document_prompt="passage:"),
    ):
        spec = generation_spec(Config(model=model, chunking=ChunkingConfig(max_tokens=most)))
        raw = RawTokenizer.from_file(str(resolve(model).tokenizer))
        raw.no_truncation()
        raw.no_padding()
        found.append((spec, chunker(spec, tokenizer_of(model)), raw))
    return found


@examples(60)
@given(text=documents, media_type=st.sampled_from(MEDIA_TYPES))
def test_cutting_twice_gives_the_same(tokenizer: Tokenizer, text: str, media_type: str) -> None:
    """Given any text, when it is cut twice, then the chunks are equal."""
    spec = spec_of(tokenizer, 48)
    assert chunk(text, media_type, spec, tokenizer) == chunk(text, media_type, spec, tokenizer)


@examples(60)
@given(text=documents, media_type=st.sampled_from(MEDIA_TYPES), longer=documents)
def test_a_document_leaves_nothing_behind_for_the_next(
    tokenizer: Tokenizer, text: str, media_type: str, longer: str
) -> None:
    """Given two documents, when each is cut, then neither's chunks depend on the other: there is
    no state between documents."""
    spec = spec_of(tokenizer, 48)
    alone = chunk(text, media_type, spec, tokenizer)
    chunk(longer, media_type, spec, tokenizer)
    assert chunk(text, media_type, spec, tokenizer) == alone
