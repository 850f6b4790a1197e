"""The model's own tokens, without torch: a chunk's limit is never counted in characters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError, Poison
from pipeline.identity import canonical_json

#: Text is tokenised in pieces of about this many characters: a tokenizer's memory grows with its
#: input (some 200 bytes a token), and a document may be one line of megabytes.
_PIECE: Final = 32_768
#: And in calls of about this many: a call holds the tokens of all of its texts.
_CALL: Final = 32 * _PIECE
#: Where a piece may end: after white space, else anywhere.
_SPACE: Final = re.compile(r"\s(?=\S)")


class HuggingFaceTokenizer:
    """A ``tokenizer.json``. Nothing is truncated or padded, special tokens are left out.

    Raises:
        ConfigError: the file is not a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ConfigError(f"{path}: not a tokenizer: {error}", "give a model with a fast tokenizer") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # The library's own canonical form, so that formatting and padding settings do not count.
        self._sha256 = hashlib.sha256(self._tokenizer.to_str(pretty=False).encode()).hexdigest()
        self._special_tokens = int(self._tokenizer.num_special_tokens_to_add(False))

    @property
    def sha256(self) -> str:
        """Over the definition."""
        return self._sha256

    @property
    def special_tokens(self) -> int:
        """Of one text; a pair may have more."""
        return self._special_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text.

        Raises:
            Poison: a text has lone surrogates, or the definition has no token for a part of it.
        """
        counts = [0] * len(texts)
        owners: list[int] = []
        pieces: list[str] = []
        held = 0
        for index, text in enumerate(texts):
            for start, end in _pieces(text):
                owners.append(index)
                pieces.append(text[start:end])
                held += end - start
                if held >= _CALL:
                    self._add(counts, owners, pieces)
                    owners, pieces, held = [], [], 0
        self._add(counts, owners, pieces)
        return counts

    def offsets(self, text: str) -> Iterator[tuple[int, int]]:
        """The span of each token in code points.

        Raises:
            Poison: the text has lone surrogates, or the definition has no token for a part of it.
        """
        for start, end in _pieces(text):
            try:
                encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
            except UnicodeEncodeError as error:
                raise _not_unicode(error) from None
            except Exception as error:
                raise _unreadable(error) from None
            for a, b in encoding.offsets:
                if b > a:
                    yield start + a, start + b

    def _add(self, counts: list[int], owners: Sequence[int], pieces: list[str]) -> None:
        try:
            encodings = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        except UnicodeEncodeError as error:
            raise _not_unicode(error) from None
        except Exception as error:
            raise _unreadable(error) from None
        for owner, encoding in zip(owners, encodings, strict=True):
            counts[owner] += len(encoding)


class WordTokenizer:
    """Words and punctuation; for the hashing embedder. A long word counts once every 16 letters."""

    _TOKEN: Final = re.compile(r"\w{1,16}|[^\w\s]")

    @property
    def sha256(self) -> str:
        """Over the rule."""
        return hashlib.sha256(canonical_json(["words", self._TOKEN.pattern])).hexdigest()

    @property
    def special_tokens(self) -> int:
        """None."""
        return 0

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [sum(1 for _ in self._TOKEN.finditer(text)) for text in texts]

    def offsets(self, text: str) -> Iterator[tuple[int, int]]:
        """The span of each token in code points."""
        return (match.span() for match in self._TOKEN.finditer(text))


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > _PIECE:
        space = _SPACE.search(text, start + _PIECE, start + 2 * _PIECE)
        end = space.end() if space else start + _PIECE
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def _unreadable(error: Exception) -> Poison:
    """The library raises nothing more exact than Exception."""
    return Poison("chunking_failed", f"the model's tokenizer cannot read the text: {error}")


def _not_unicode(error: UnicodeEncodeError) -> Poison:
    return Poison("not_unicode", f"the text cannot be written as UTF-8: {error}")
