"""The same random operations on memory, on the engine and over REST give the same answers."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.identity import filter_hash
from pipeline.points import Alignment, ChunkPoint, Sweep
from pipeline.ports import Collection
from tests.contract.store_points import SPEC, chunk, contents, head, key, stamp
from tests.support.stores import KINDS, opened

NAMES = ("a", "b", "c")
SCRIPTS = 8
OPERATIONS = 60


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One store of each kind."""
    folder: Path = tmp_path_factory.mktemp("stores")
    contexts = {kind: opened(kind, folder) for kind in KINDS}
    stores = {kind: context.__enter__() for kind, context in contexts.items()}
    yield stores
    for context in contexts.values():
        context.__exit__(None, None, None)


def _fields(random_: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if random_.random() < 0.7:
        fields["acl"] = random_.choice(["x", ["x", "y"], ["z"]])
    if random_.random() < 0.5:
        fields["year"] = random_.randint(0, 2)
    if random_.random() < 0.5:
        fields["weight"] = random_.choice([0.5, 2.0])
    if random_.random() < 0.5:
        fields["public"] = random_.random() < 0.5
    return fields


def _where(random_: random.Random) -> dict[str, tuple[Any, ...]] | None:
    choices: list[dict[str, tuple[Any, ...]] | None] = [
        None,
        {"acl": ("y", "z")},
        {"year": (1,), "public": (True,)},
        {"weight": (2,)},
        {"public": (False, True)},
        {"team": ("t",)},
    ]
    return random_.choice(choices)


def _stamp(random_: random.Random) -> int:
    return stamp(random_.randint(0, 4), random_.randint(0, 1))


def _chunk(random_: random.Random) -> ChunkPoint:
    # No two vectors have the same angle to the query, so that the order of hits is one.
    text = random_.choice("pqrs")
    name = random_.choice(NAMES)
    at = (1.0, 0.1 + "pqrs".index(text) + 7 * NAMES.index(name), 0.0)
    return chunk(name, text, _stamp(random_), at, _fields(random_))


def _operation(random_: random.Random) -> tuple[str, Any]:
    docs = [key(name).doc for name in NAMES]
    some = random_.sample(docs, random_.randint(0, 3))
    chunks = [_chunk(random_) for _ in range(random_.randint(0, 4))]
    heads = [
        head(random_.choice(NAMES), _stamp(random_), *chunks, filters=_fields(random_), state=random_.choice(_STATES))
        for _ in range(random_.randint(0, 3))
    ]
    kind = random_.choice(_KINDS)
    match kind:
        case "upsert":
            fences = {doc: _stamp(random_) for doc in some}
            return kind, lambda c: c.upsert_chunks(chunks, fences)
        case "insert":
            return kind, lambda c: c.insert_heads(heads)
        case "replace":
            read = {doc: _stamp(random_) for doc in docs}
            return kind, lambda c: c.replace_heads(heads, read)
        case "sweep":
            sweeps = [Sweep(doc, frozenset(one.id for one in chunks), _stamp(random_)) for doc in some]
            return kind, lambda c: c.sweep(sweeps)
        case "align" | "misaligned":
            alignments = []
            for doc in some:
                fields = _fields(random_)
                alignments.append(Alignment(doc, fields, filter_hash(fields), _stamp(random_)))
            if kind == "align":
                return kind, lambda c: c.align(alignments)
            return kind, lambda c: c.misaligned(alignments)
        case "heads":
            where = _where(random_)
            return kind, lambda c: c.heads(some, where)
        case "existing":
            return kind, lambda c: c.existing([one.id for one in chunks])
        case "vectors":
            # Which of several equal texts gives its vector is the store's choice.
            return kind, lambda c: set(c.vectors([one.content_hash for one in chunks]))
        case "search":
            where = _where(random_)
            return kind, lambda c: [
                (hit.id, hit.stamp, round(hit.score, 4)) for hit in c.search(chunk("a", "p", 0).vector, 5, where, some)
            ]
    if kind == "cells":
        of = random_.choice(("heads", "tombstones", "documents", "chunks"))
        return kind, lambda c: (c.tally(of).tolist(), c.in_cells(of, np.flatnonzero(c.tally(of)).tolist()))
    return kind, lambda c: (c.count_heads(), c.count_chunks())


_KINDS = (
    *("upsert", "upsert", "upsert", "insert", "replace", "replace", "sweep", "align", "misaligned"),
    *("heads", "existing", "vectors", "search", "counts", "cells"),
)
_STATES = ("complete", "failed", "deleted")


def test_all_stores_answer_alike(collections: dict[str, Any]) -> None:
    """Given a random script, when each store runs it, then answers and contents are equal after every step."""
    first = int(os.environ.get("VECTIDE_TEST_SEED") or secrets.randbelow(1 << 32))
    for seed in range(first, first + SCRIPTS):
        print(f"VECTIDE_TEST_SEED={seed}")
        spec = replace(SPEC, name=f"vectide-test-{secrets.token_hex(4)}.equal")
        made: dict[str, Collection] = {}
        for kind, store in collections.items():
            made[kind] = store.create(replace(spec, name=f"{spec.name}.{kind}"))
        random_ = random.Random(seed)
        done: list[str] = []
        for _ in range(OPERATIONS):
            kind, operation = _operation(random_)
            done.append(kind)
            answers = {name: operation(collection) for name, collection in made.items()}
            assert all(answer == answers["memory"] for answer in answers.values()), (seed, done, answers)
            states = {name: contents(collection) for name, collection in made.items()}
            assert all(state == states["memory"] for state in states.values()), (seed, done, states)
        for name, collection in made.items():
            collections[name].drop(collection.spec.name)
