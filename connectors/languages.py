"""In which language a text is, as far as that can be told: for rules of metadata that ask for it.

py3langid, loaded only when a source asks: 140 languages, without a network, the same answer for the same text. It tells
with how much confidence; below a threshold, and of source code, nothing is said.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from importlib.metadata import version
from typing import Any, Final

#: Raised with any change of what is said of a text: every document of a source that asks is then looked at again.
_VERSION: Final = 1
EXTRA: Final = "vectide[language]"
#: More of a text tells nothing new.
_CHARACTERS: Final = 5_000
#: Names, commands and a few words of European languages lie far below, a sentence above.
_CONFIDENCE: Final = 0.5
_PROSE: Final = frozenset({"text/plain", "text/markdown", "text/x-rst", "text/html"})
#: Code, addresses and markup inside of prose.
_NO_PROSE: Final = re.compile(
    r"^(```|~~~).*?(?:^\1|\Z)|`[^`\n]*`|https?://\S+|<[^<>\n]{1,200}>", re.MULTILINE | re.DOTALL
)
#: ISO 639 for "no linguistic content" and "undetermined".
_NONE: Final = ("zxx", "und")


def installed() -> bool:
    """True if there is something that can tell."""
    return importlib.util.find_spec("py3langid") is not None


def revision() -> str:
    """Another one whenever another language may be told of the same text."""
    return f"py3langid-{version('py3langid')}-{_VERSION}"


def language_of(text: str | None, media_type: str) -> str | None:
    """The language of a text, as ISO 639 has it (``en``, ``de`` ...); None: that cannot be told."""
    if text is None or media_type not in _PROSE:
        return None
    prose = _NO_PROSE.sub(" ", text[:_CHARACTERS])
    language, confidence = _identifier().classify(prose)
    return str(language) if confidence >= _CONFIDENCE and language not in _NONE else None


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
