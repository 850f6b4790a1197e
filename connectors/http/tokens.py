"""Who may do what: bearer tokens, of which only hashes are kept, in a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectors.http.files import Watch
from pipeline.errors import ConfigError

log = logging.getLogger(__name__)

Scope: TypeAlias = Literal["read", "write", "delete"]
SCOPES: Final[tuple[Scope, ...]] = ("read", "write", "delete")

_LARGEST_BYTES: Final = 1024 * 1024
_LONGEST: Final = 1024


class Token(BaseModel):
    """``[tokens.NAME]`` of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the token, in lower-case hexadecimal."""
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sources: tuple[str, ...] | None = None
    """Ids of the sources that it is for; None: all that name this file."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: Annotated[Mapping[str, Token], Field(min_length=1)]


class Tokens:
    """The tokens of one source. Safe for several threads.

    Args:
        file: TOML, tables ``[tokens.NAME]``.
        source: its id.

    Raises:
        ConfigError: the file cannot be read, or a value in it is wrong.
    """

    def __init__(self, file: Path, source: str) -> None:
        self._file = file
        self._source = source
        self._watch = Watch(file)
        self._tokens = _read(file, source)

    def scopes(self, token: str) -> tuple[str, frozenset[Scope]] | None:
        """The name and the scopes of a token; None: it is none of this source's.

        It is compared with all of them, in the same time whichever it is.
        """
        self._watch.refresh(self._read_again)
        if len(token) > _LONGEST:
            return None
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for name, one in self._tokens.items():
            if hmac.compare_digest(one.sha256, given):
                found = name, one.scopes
        return found

    def _read_again(self) -> None:
        """While the file is missing or broken, the tokens stay that it had."""
        try:
            self._tokens = _read(self._file, self._source)
        except ConfigError as error:
            log.error("tokens stay as they were", extra={"file": str(self._file), "error": str(error)})  # noqa: TRY400 - no traceback of a file with secrets
        else:
            log.info("tokens were read again", extra={"file": str(self._file), "tokens": len(self._tokens)})


def _read(file: Path, source: str) -> Mapping[str, Token]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST_BYTES + 1)
        if len(data) > _LARGEST_BYTES:
            raise ConfigError(f"{file} is larger than {_LARGEST_BYTES} bytes", "is it the right file?")
        found = _File.model_validate(tomllib.loads(data.decode()))
    except OSError as error:
        raise ConfigError(f"tokens_file: {error}", "name a file that this process may read") from None
    except (UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", "see docs/connectors.md: http") from None
    except ValidationError as error:
        # The input is not shown: it may be a token itself.
        wrong = [f"{file}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ConfigError("\n".join(wrong), "see docs/connectors.md: http") from None
    return {name: one for name, one in found.tokens.items() if one.sources is None or source in one.sources}
