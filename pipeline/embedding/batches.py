"""Texts to vectors in batches of a token budget; a text that the model cannot take costs only itself.

A forward pass costs its padded tokens: texts x the longest of them. Sorting by length before
cutting keeps padding low; see docs/models.md for what it gains. Of a pass that gives some bad vectors,
only their texts are tried again; one that fails as a whole is halved down to the guilty text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from pipeline.errors import BadVector, Fatal, Poison, Transient
from pipeline.points import Vectors
from pipeline.ports import Embedder

#: A norm of 1 may be off by this much in float32 (and in half precision, rounded to float32).
NORM_TOLERANCE = 1e-2
_PROBE = "a text that any model can take"
#: Model code raises what it likes.
_RAISED = (Poison, Transient, ValueError, RuntimeError, IndexError)


class Item(Protocol):
    """A text to embed."""

    @property
    def content_hash(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> int: ...


def cut(lengths: Sequence[int], budget: int, most: int) -> list[list[int]]:
    """Indexes of texts in batches, the longest first; every index exactly once. Pure.

    Args:
        lengths: tokens of each text.
        budget: most padded tokens of a batch (a longer text is a batch alone).
        most: most texts of a batch.
    """
    # The longest first: a batch that does not fit the memory fails at the start, not after an hour.
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches:
            batch = batches[-1]
            longest = max(1, lengths[batch[0]])
            if len(batch) < most and (len(batch) + 1) * longest <= budget:
                batch.append(index)
                continue
        batches.append([index])
    return batches


def embed_all(
    embedder: Embedder,
    items: Sequence[Item],
    budget: int | None,
    most: int,
    observe: Callable[[int], None] = lambda padded: None,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Vectors], dict[str, str]]:
    """Vectors by content hash, and why the others could not be embedded.

    Args:
        embedder: the model.
        items: what to embed, each content hash once.
        budget: padded tokens of a forward pass; what suits the model's device if None.
        most: texts of a forward pass.
        observe: told the padded tokens of each pass.
        enough: asked before each pass; true ends it, with what there is.

    Raises:
        Fatal: the model is broken: it fails on any text.
        Transient: it cannot work now, not even on one text.
    """
    vectors: dict[str, Vectors] = {}
    failed: dict[str, str] = {}
    for batch in cut([item.tokens for item in items], budget or embedder.batch_tokens, most):
        if enough():
            break
        chosen = [items[index] for index in batch]
        observe(len(chosen) * max(1, chosen[0].tokens))
        _embed(embedder, chosen, vectors, failed)
    return vectors, failed


def check(vectors: Vectors, count: int, dimension: int, *, normalized: bool) -> None:
    """Refuse what must not be stored.

    Raises:
        BadVector: wrong shape, not finite, or not of length 1 where it should be.
    """
    for why in faults(vectors, count, dimension, normalized=normalized):
        if why:
            raise BadVector(why)


def faults(vectors: Vectors, count: int, dimension: int, *, normalized: bool) -> list[str]:
    """Of each vector why it must not be stored; empty where it may.

    Raises:
        BadVector: wrong shape: no row belongs to a text.
    """
    if vectors.shape != (count, dimension):
        raise BadVector(f"the model gave shape {vectors.shape}, not {(count, dimension)}")
    found = [""] * count
    finite = np.isfinite(vectors).all(axis=1)
    for row in np.flatnonzero(~finite):
        found[row] = "the model gave NaN or infinity"
    if normalized:
        lengths = np.linalg.norm(vectors, axis=1)
        for row in np.flatnonzero(finite & ~np.isclose(lengths, 1.0, atol=NORM_TOLERANCE)):
            found[row] = "the model gave a vector whose length is not 1"
    return found


def _probe(embedder: Embedder) -> None:
    """A text is only to blame if another one succeeds: a device that failed must not turn the whole
    backlog into dead letters.
    """
    try:
        found = embedder.embed_documents([_PROBE])
        check(found, 1, embedder.spec.dimension, normalized=embedder.spec.normalize)
    except Transient:
        raise
    except Exception as error:
        raise Fatal(
            f"model {embedder.spec.name} fails on any text: {type(error).__name__}: {error}"[:500],
            "look at its device and its files; nothing that waits for it was given up",
        ) from error


def _embed(embedder: Embedder, items: Sequence[Item], vectors: dict[str, Vectors], failed: dict[str, str]) -> None:
    try:
        bad = _passed(embedder, items, vectors)
        if len(bad) == len(items):
            raise BadVector(bad[0][1])  # it may be the model, and not the texts
    except _RAISED as error:
        if len(items) == 1:
            if isinstance(error, Transient):
                raise  # nothing smaller could be tried: wait
            _probe(embedder)
            failed[items[0].content_hash] = f"{type(error).__name__}: {error}"[:500]
            return
        _halve(embedder, items, vectors, failed)
        return
    if bad:
        _embed_again(embedder, [item for item, _ in bad], vectors, failed)


def _embed_again(
    embedder: Embedder, items: Sequence[Item], vectors: dict[str, Vectors], failed: dict[str, str]
) -> None:
    """Texts whose vectors were bad in a pass that gave good ones to others: the model works, so they are
    to blame if it happens again without these neighbours.
    """
    try:
        bad = _passed(embedder, items, vectors)
    except _RAISED:
        _embed(embedder, items, vectors, failed)
        return
    for item, why in bad:
        failed[item.content_hash] = f"{BadVector.__name__}: {BadVector(why)}"


def _halve(embedder: Embedder, items: Sequence[Item], vectors: dict[str, Vectors], failed: dict[str, str]) -> None:
    middle = len(items) // 2
    _embed(embedder, items[:middle], vectors, failed)
    _embed(embedder, items[middle:], vectors, failed)


def _passed(embedder: Embedder, items: Sequence[Item], vectors: dict[str, Vectors]) -> list[tuple[Item, str]]:
    """One forward pass: good vectors are kept, the items of the others returned, and why."""
    spec = embedder.spec
    found = embedder.embed_documents([item.text for item in items])
    whys = faults(found, len(items), spec.dimension, normalized=spec.normalize)
    vectors.update((item.content_hash, vector) for item, vector, why in zip(items, found, whys, strict=True) if not why)
    return [(item, why) for item, why in zip(items, whys, strict=True) if why]
