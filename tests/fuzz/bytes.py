"""Bytes as a hostile or a broken writer leaves them: mutated, cut, repeated, nested."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

#: Deeper than Python's stack.
DEEP = 100_000
#: What is fine JSON and not what anyone expects.
ODD = (
    None,
    True,
    -1,
    1 << 63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    {"": None},
    "x" * 5000,
)


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """Some bytes changed, cut out, put twice, or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        end = min(len(data), at + draw(st.integers(1, 8)))
        match draw(st.sampled_from(["set", "cut", "twice", "insert", "truncate"])):
            case "set":
                data[at] = draw(
                    st.sampled_from([0, 9, 34, 44, 48, 57, 91, 92, 93, 101, 123, 125, 0x80, 0xC0, 0xED, 0xFF])
                )
            case "cut":
                del data[at:end]
            case "twice":
                data[at:at] = data[at:end]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "truncate":
                del data[at:]
    return bytes(data)


@st.composite
def changed_json(draw: st.DrawFn, original: Any) -> bytes:
    """The same JSON with some value, anywhere in it, replaced by an odd one, or some key missing."""
    value = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        parent, place, node = None, None, value
        while isinstance(node, dict | list) and node and draw(st.booleans()):
            place = (
                draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
            )
            parent, node = node, node[place]
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        if parent is None:
            value = odd if draw(st.booleans()) else value
        elif isinstance(parent, dict) and draw(st.booleans()):
            del parent[place]
        else:
            parent[place] = odd
    return json.dumps(value).encode()


def nested(opening: bytes, closing: bytes, around: bytes = b"") -> bytes:
    """Nesting beyond any stack."""
    return opening * DEEP + around + closing * DEEP
