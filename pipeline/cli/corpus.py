"""Real documents that every machine has: the descriptions of the installed Python packages, and our own."""

from __future__ import annotations

import importlib.metadata
import re
from email.message import Message
from pathlib import Path
from typing import Final, cast

#: A shorter description is a one-liner; a longer one would be most of a demo's minute.
_SIZES: Final = range(800, 10_000)
_SUFFIXES: Final = {"text/markdown": ".md", "text/x-rst": ".rst", "text/plain": ".txt"}


def write_corpus(folder: Path) -> int:
    """Write the documents into ``folder/packages`` and ``folder/vectide``; returns how many."""
    written = 0
    packages = folder / "packages"
    packages.mkdir(parents=True)
    for distribution in importlib.metadata.distributions():
        metadata = cast("Message", distribution.metadata)  # its type's own protocol lacks half of it
        name, text = metadata["Name"], metadata.get_payload()
        if not isinstance(text, str) or not text.strip():
            text = metadata.get("Description") or ""
        if not name or len(text) not in _SIZES:
            continue
        kind = (metadata.get("Description-Content-Type") or "text/x-rst").split(";")[0].strip().lower()
        path = packages / (re.sub(r"[^A-Za-z0-9._-]", "-", name) + _SUFFIXES.get(kind, ".txt"))
        if not path.exists():
            path.write_text(text)
            written += 1
    docs = Path(__file__).parents[2] / "docs"
    if docs.is_dir():
        own = folder / "vectide"
        own.mkdir()
        for source in sorted(docs.glob("*.md")):
            text = source.read_text()
            if len(text) in _SIZES:
                (own / source.name).write_text(text)
                written += 1
    return written
