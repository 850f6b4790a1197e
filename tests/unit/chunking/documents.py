"""Documents to be cut: made up by hypothesis, written by hand, and the specs to cut them with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st

from pipeline.chunking import ALGORITHM
from pipeline.ports import Tokenizer
from pipeline.specs import ChunkingSpec

SEED = int(os.environ.get("VECTIDE_TEST_SEED", "20260101"))
MEDIA_TYPES = ("text/markdown", "text/x-rst", "text/x-python", "text/plain")


def examples(count: int) -> Callable[[Any], Any]:
    """So many made-up cases, the same at every run with the same VECTIDE_TEST_SEED."""
    quiet = settings(
        max_examples=count,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    return lambda test: seed(SEED)(quiet(test))


def spec_of(tokenizer: Tokenizer, most: int, target: int | None = None, context: str = "headings") -> ChunkingSpec:
    return ChunkingSpec(
        algorithm=ALGORITHM,
        max_tokens=most,
        target_tokens=target or most,
        context=context,
        tokenizer_sha256=tokenizer.sha256,
    )


_WORD = st.sampled_from("the river carries seventeen lanterns quietly past Über-große 42 x_y(z) don't 100%".split())
_SENTENCE = st.lists(_WORD, min_size=1, max_size=14).map(lambda words: " ".join(words) + ".")
_PARAGRAPH = st.lists(_SENTENCE, min_size=1, max_size=6).map(" ".join)
_ODD = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\x00\x07\x1c\x85\u00a0\u200b\ufeff\u2028\r\n\t 漢字。かなสวัสดี👩‍👩‍👧🏽é́#`=-|*"),
    ),
    max_size=120,
)
_BLOCK = st.one_of(
    _PARAGRAPH,
    _ODD,
    st.tuples(st.integers(1, 7), _SENTENCE).map(lambda pair: "#" * pair[0] + " " + pair[1]),
    st.tuples(_WORD, st.sampled_from("=-~")).map(lambda pair: f"{pair[0]}\n{pair[1] * len(pair[0])}"),
    st.lists(_SENTENCE, min_size=1, max_size=5).map(
        lambda items: "\n".join(f"- {item}\n  1. nested" for item in items)
    ),
    st.lists(_WORD, min_size=1, max_size=5).map(lambda cells: "| " + " | ".join(cells) + " |\n|---|\n| a |"),
    st.tuples(_PARAGRAPH, st.sampled_from(["\n```", "\n````", ""])).map(lambda pair: f"```python\n{pair[0]}{pair[1]}"),
    st.lists(_WORD, min_size=1, max_size=5).map(
        lambda names: "".join(f"def {name}(a):\n    return a\n\n" for name in names)
    ),
    st.tuples(st.sampled_from(["a", "0f", "漢", "ก", "👍", "&", " ", "\n", "\x00"]), st.integers(1, 400)).map(
        lambda pair: pair[0] * pair[1]
    ),
)
documents = st.lists(st.tuples(_BLOCK, st.sampled_from(["\n", "\n\n", "\r\n\r\n", " ", ""])), max_size=14).map(
    lambda parts: "".join(block + gap for block, gap in parts)
)
