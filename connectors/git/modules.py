"""The submodules that a commit names: in its tree the commit of each, in its ``.gitmodules`` where from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from connectors.git.commands import Git
from pipeline.errors import SourceUnavailable

_FILE: Final = ".gitmodules"
_FILE_BYTES: Final = 1 << 20
_SECONDS: Final = 120.0
#: Named in one file; one that the tree does not have costs nothing but this.
_NAMED: Final = 1000
_FILE_MODE: Final = b"100"
_MODULE_MODE: Final = b"160000"


class Module(NamedTuple):
    """A submodule."""

    path: str
    """Below the folder that was asked for."""
    url: str
    """As ``.gitmodules`` says it."""
    commit: str


def modules_of(git: Git, commit: str, below: str) -> list[Module]:
    """Those of a commit.

    Args:
        git: has the commit.
        commit: which.
        below: only those in this folder; empty: all.

    Raises:
        SourceUnavailable: git does not answer, or cannot read what is said of them.
    """
    # By its blob: git would follow a link, and nothing is looked at but a file.
    found = list(_entries(git, commit, [_FILE]))
    if not found or not found[0][0].startswith(_FILE_MODE):
        return []
    blob = found[0][1]
    if int(git.output("cat-file", "-s", blob, seconds=_SECONDS)) > _FILE_BYTES:
        raise SourceUnavailable(f"{_FILE} is larger than {_FILE_BYTES >> 20} MiB")
    urls = _urls(git.tokens("config", f"--blob={blob}", "--null", "--list", seconds=_SECONDS))
    if len(urls) > _NAMED:
        raise SourceUnavailable(f"{_FILE} names more than {_NAMED} submodules")
    start = f"{below}/" if below else ""
    wanted = [path for path in urls if path.startswith(start)]
    return [
        Module(path[len(start) :], urls[path], id)
        for mode, id, path in (_entries(git, commit, wanted) if wanted else ())
        if mode == _MODULE_MODE and path in urls
    ]


def _entries(git: Git, commit: str, paths: Iterable[str]) -> Iterable[tuple[bytes, str, str]]:
    for token in git.tokens("ls-tree", "-z", commit, "--", *paths, seconds=_SECONDS):
        described, _, path = token.partition(b"\t")
        mode, _, id = described.split(b" ")
        yield mode, id.decode(), path.decode("utf-8", "surrogateescape")


def _urls(settings: Iterable[bytes]) -> dict[str, str]:
    """URL by path; what lacks one of the two is no submodule that can be fetched."""
    paths: dict[str, str] = {}
    urls: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.decode("utf-8", "surrogateescape").partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule" and variable == "path":
            paths[name] = value.strip("/")
        elif section == "submodule" and variable == "url":
            urls[name] = value
    return {
        path: urls[name]
        for name, path in paths.items()
        if name in urls and not any(part in ("", ".", "..") for part in path.split("/"))
    }
