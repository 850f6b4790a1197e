"""Sources that are given as arguments: folders, and URIs of any connector that is installed."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from connectors.registry import scheme_of, source_of
from pipeline.config import SourceConfig
from pipeline.errors import ConfigError
from pipeline.masking import masked, without_passwords

log = logging.getLogger(__name__)

_FILE: Final = "sources.json"
_SITES: Final = ("http", "https")


def given_sources(arguments: Sequence[str]) -> dict[str, SourceConfig]:
    """A source for each folder and URI, named after the last part of it; equal names get what stands before. A site is
    named after its host and folders; equal names get the file, then the port and the scheme.

    Raises:
        ConfigError: one is not a folder, lies inside another, is given twice, or no connector knows it.
    """
    # Not Path's own: they have errors for a user that is not there, and for links that lead in a circle.
    folders = [Path(os.path.realpath(os.path.expanduser(one))) for one in arguments if scheme_of(one) is None]  # noqa: PTH111
    uris = [one for one in arguments if scheme_of(one) is not None]
    _check(folders)
    for uri in uris:
        if uris.count(uri) > 1:
            raise ConfigError(f"{without_passwords(uri)} is given twice", "give it once")
    found = [
        (_names(_parts(folder)), SourceConfig.model_validate({"connector": "filesystem", "path": str(folder)}))
        for folder in folders
    ]
    found += [(_names_of(uri), source_of(uri)) for uri in uris]
    for depth in range(max((len(names) for names, _ in found), default=0)):
        named = {names[min(depth, len(names) - 1)]: source for names, source in found}
        if len(named) == len(found):
            return named
    if not found:
        return {}
    last = ", ".join(sorted(names[-1] for names, _ in found))
    raise ConfigError(
        f"two of these would have the same name: {last}", "name them in the configuration: [sources.NAME]"
    )


def folder_sources(folders: Sequence[Path]) -> dict[str, SourceConfig]:
    """The same of folders alone."""
    return given_sources([str(folder) for folder in folders])


def remember(state: Path, sources: Mapping[str, SourceConfig]) -> None:
    """Keep what was given, so that commands know it while nothing runs; never what holds a secret."""
    tables = {id: source.model_dump(mode="json") for id, source in sources.items()}
    plain = {id: table for id, table in tables.items() if masked(table) == table}
    try:
        (state / _FILE).write_text(json.dumps(plain), encoding="utf-8")
    except OSError as error:
        log.debug("sources not remembered", extra={"error": str(error)})


def remembered(state: Path) -> dict[str, SourceConfig]:
    """What the last process on this state folder was given; nothing if that cannot be read."""
    try:
        tables: dict[str, Any] = json.loads((state / _FILE).read_text(encoding="utf-8"))
        return {id: SourceConfig.model_validate(table) for id, table in tables.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def no_longer_given(state: Path, known: Collection[str]) -> list[str]:
    """A line for each source that the last process on this state folder was given, and that is not among these."""
    return [
        f"source {id} is not given any more: its documents stay in the index as they are; "
        f"`vectide forget --source {shlex.quote(id)}` deletes them"
        for id in sorted(remembered(state).keys() - set(known))
    ]


def _check(roots: Sequence[Path]) -> None:
    for root in roots:
        if not os.path.isdir(root):  # noqa: PTH112 - False, too, where this user may not look
            raise ConfigError(f"{root} is not a folder", "give an existing folder, or the URI of a source")
    for one in roots:
        for other in roots:
            if one is not other and one.is_relative_to(other):
                raise ConfigError(f"{one} lies inside {other}, or is given twice", "give the outer folder only")


def _parts(root: Path) -> list[str]:
    return [part for part in root.parts if part != root.anchor] or ["root"]


def _names_of(uri: str) -> list[str]:
    """Of the source of a URI, the shortest first."""
    try:
        parts = urlsplit(uri)
        host, path = parts.hostname or "", unquote(parts.path)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        raise ConfigError(f"{without_passwords(uri)} is not a URI", "see docs/connectors.md") from None
    found = [name for name in path.split("/") if name not in ("", ".", "..", ".git")]
    if parts.scheme in _SITES:  # a sitemap has the same name everywhere
        folders = found if path.endswith("/") else found[:-1]
        longer = ["-".join([place, *found]) for place in (host, f"{host}{port}", f"{parts.scheme}-{host}{port}")]
        return [_printable("-".join([host, *folders])), *map(_printable, longer)]
    found = [name.removesuffix(".git") for name in ([host] if host else []) + found]
    return _names(found or [scheme_of(uri) or "source"])


def _names(parts: Sequence[str]) -> list[str]:
    """The last part, the last two, and so on."""
    return [_printable("-".join(parts[-depth:])) for depth in range(1, len(parts) + 1)]


def _printable(name: str) -> str:
    # A source's id is written to logs that are UTF-8; a folder's name need not be.
    return os.fsencode(name).decode("utf-8", "backslashreplace")
