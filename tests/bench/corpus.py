"""Real documents that every machine has: the long descriptions of its installed packages."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib.metadata import distributions

#: Below this there is nothing to cut.
_LEAST_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Text:
    name: str
    text: str
    media_type: str


def descriptions() -> list[Text]:
    """READMEs of the installed distributions, by name, each once."""
    found: dict[str, Text] = {}
    for distribution in distributions():
        metadata = distribution.metadata
        name, text = metadata["Name"].lower(), str(metadata.get_payload() or metadata.get("Description") or "")
        if len(text) >= _LEAST_CHARACTERS:
            declared = str(metadata.get("Description-Content-Type") or "text/x-rst")
            found[name] = Text(name, text, "text/markdown" if "markdown" in declared else "text/x-rst")
    return [found[name] for name in sorted(found)]


def unbroken(texts: list[Text], kind: str, characters: int, rng: random.Random) -> str:
    """One line of about so many characters, without a sentence's end.

    ``words`` keeps spaces, ``letters`` drops them, ``cjk`` maps letters to ideographs.
    """
    words = [word for one in rng.sample(texts, len(texts)) for word in one.text.split()]
    letters = ["".join(filter(str.isalnum, word)) for word in words]
    if kind == "words":
        return " ".join(filter(None, letters))[:characters].strip()
    joined = "".join(letters)[:characters]
    if kind == "letters":
        return joined
    return "".join(chr(0x4E00 + (ord(char) * 7919 + ord(after)) % 20_000) for char, after in zip(joined, joined[1:]))
