"""Secrets in what is shown: masked by the names of their keys, and by where passwords stand in a text.

What vectide itself holds as a secret never gets into a text. This is for what others put there: the
settings of a connector, options passed through, an address with a password in an error of a library.
"""

from __future__ import annotations

import re
from typing import Any, Final

MASK: Final = "**********"

#: Keys whose whole value is a secret, numbers and tables too.
_SECRET: Final = re.compile(
    r"pass(word|wd|phrase|code)?s?$|pwd$|secret|token$|credential|authorization|bearer|cookie"
    r"|(api|access|account|private|shared|signing|encryption|master)[_-]?keys?$",
    re.IGNORECASE,
)
#: A path of a file that holds one is none.
_PLACE: Final = re.compile(r"_(file|path|dir)$", re.IGNORECASE)
#: ``scheme://user:password@host``; to the last @, for not everybody escapes the others.
_USERINFO: Final = re.compile(r"(?<=://)([^/@:\s]*):[^\s'\"<>]*@")
#: ``https://token@host``, as git has it; ``ssh://git@host`` names a user.
_TOKEN: Final = re.compile(r"(?<=https://)[^/@:\s]+@|(?<=http://)[^/@:\s]+@", re.IGNORECASE)
#: ``password=...`` in a query, a connection string or a JAAS line. Looked for once in a name: from each of its
#: parts on, a text like ``a-a-a-`` took a second for each 2,000 characters.
_PAIR: Final = re.compile(
    r"(?<![\w.-])([\w.-]*(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|account_?key|access_?key|signature))"
    r"(\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\"]+)",
    re.IGNORECASE,
)


def masked(value: Any, key: str = "") -> Any:
    """Plain values as they may be shown.

    Args:
        value: of any of JSON's types.
        key: what it is called.
    """
    if value is None or isinstance(value, bool):
        return value
    if _SECRET.search(key) and not _PLACE.search(key):
        return MASK if value not in ("", [], {}) else value
    match value:
        case dict():
            return {name: masked(inner, str(name)) for name, inner in value.items()}
        case list() | tuple():
            return [masked(inner, key) for inner in value]
        case str():
            return without_passwords(value)
    return value


def without_passwords(text: str) -> str:
    """A text without the passwords of addresses and connection strings in it."""
    text = _USERINFO.sub(rf"\1:{MASK}@", text)
    text = _TOKEN.sub(f"{MASK}@", text)
    return _PAIR.sub(rf"\1\2{MASK}", text)
