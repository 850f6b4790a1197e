"""``[sources.<id>]`` with ``connector = "git"``, and the URIs that say the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from connectors.extraction import ExtractionLimits
from connectors.git.addresses import SCHEMES, SCP, URL, repository_address
from connectors.git.commands import Access
from connectors.ignoring import patterns
from connectors.settings import secret_in
from pipeline.config import Seconds
from pipeline.errors import ConfigError

#: What git refuses in a name of a branch, and what would be more than one.
_NOT_A_BRANCH: Final = re.compile(r"^[-/.]|[\s~^:?*\[\\\x00-\x1f\x7f]|\.\.|@\{|//|[/.]$|\.lock$")

_HOST: Final = re.compile(r"[\w.:-]*\w")


def _branch(value: str) -> str:
    if _NOT_A_BRANCH.search(value):
        raise ValueError("this cannot be the name of a branch")
    return value


def _folder(value: str) -> str:
    inside = value.strip("/")
    if (any(part in ("", ".", "..") for part in inside.split("/")) and inside) or "\0" in inside:
        raise ValueError("it must be a folder inside the repository, as docs/handbook")
    return inside


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HOST.fullmatch(value):
            raise ValueError(f"{value!r} must be a host, or host:port")
    return tuple(value.lower() for value in values)


class GitSettings(BaseModel):
    """The settings of a git source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: Annotated[str, AfterValidator(repository_address)] = Field(
        description="a folder, a URL, or `user@host:path`", repr=False
    )
    branch: Annotated[str, AfterValidator(_branch)] = Field("", description="the repository's own default if not given")
    folder: Annotated[str, AfterValidator(_folder)] = Field("", description="only what lies below it")
    include: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; only files that match one"
    )
    exclude: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; no file or folder that matches"
    )
    hidden: bool = Field(False, description="names that begin with a dot, too")
    history: bool = Field(
        True,
        description="`commit`, `author`, `authored_at` of the last change as metadata; `false`: no history is fetched",
    )
    extraction: ExtractionLimits = Field(ExtractionLimits(), description="what a PDF, an Office file ... may cost")
    poll_seconds: Seconds = Field(60.0, description="between two fetches; a local repository is watched besides")
    hook_file: Path | None = Field(
        None, description="a file that whoever knows of a push touches: it is fetched at once"
    )
    fetch_seconds: Seconds = Field(600.0, description="most time of one fetch")
    files_limit: Annotated[int, Field(gt=0)] = Field(
        2_000_000,
        description="of the newest commit; beyond it the source is not ready, for a few objects can say billions",
    )
    submodules: bool = Field(
        False, description="the documents of submodules, too: each at the commit that the branch names"
    )
    submodule_hosts: Annotated[tuple[str, ...], AfterValidator(_hosts)] = Field(
        (), description="hosts that submodules may be fetched from besides the repository's own: `host`, `host:port`"
    )
    username: str = Field("", description="for http and https")
    password: SecretStr | None = Field(None, description="or a token; better given as a file")
    password_file: Path | None = Field(None, description="file that holds it")
    ssh_key_file: Path | None = Field(None, description="private key for ssh")
    known_hosts_file: Path | None = Field(None, description="ssh's; an unknown host is refused")
    ca_file: Path | None = Field(None, description="certificates to trust; the system's if not given")
    trust_owner: bool = Field(False, description="read a local repository that belongs to another user")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file exclude each other")
        if (self.password or self.password_file) and not self.repository.lower().startswith(("http://", "https://")):
            raise ValueError("a password is for http and https; ssh has ssh_key_file")
        return self

    def access(self) -> Access:
        """How the repository is reached; the password out of its file or its URL.

        Raises:
            ValueError: the file cannot be read.
        """
        repository, username, password = self.repository, self.username, ""
        url = URL.fullmatch(repository)
        if url is None and not SCP.fullmatch(repository):
            repository = os.path.abspath(os.path.expanduser(repository))
        elif url is not None and url.group(1).lower() in ("http", "https"):
            parts = urlsplit(repository)
            # Never in an argument of a process: what the URL holds goes the way of the settings.
            username, password = username or unquote(parts.username or ""), unquote(parts.password or "")
            repository = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if self.password is not None:
            password = self.password.get_secret_value()
        if self.password_file is not None:
            password = secret_in("password_file", self.password_file)
        if any(char in username + password for char in "\0\r\n"):
            raise ValueError("username: it or the password holds a line break")
        return Access(
            repository=repository,
            username=username or ("git" if password else ""),
            password=password,
            ssh_key_file=self.ssh_key_file,
            known_hosts_file=self.known_hosts_file,
            ca_file=self.ca_file,
            trust_owner=self.trust_owner,
        )


def settings_of(uri: str) -> dict[str, Any]:
    """The settings that a URI says: ``git+https://host/team/handbook.git#branch=main&folder=docs``.

    Raises:
        ConfigError: it has another scheme, or a part that is not known.
    """
    address, _, fragment = uri.partition("#")
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower().removeprefix("git+")
    if scheme not in SCHEMES:
        raise ConfigError(f"git+{scheme}:// is no URI of a repository", "give git+https, git+ssh, git+file or git://")
    table: dict[str, Any] = {"repository": unquote(rest) if scheme == "file" else f"{scheme}://{rest}"}
    for name, value in parse_qsl(fragment, keep_blank_values=True):
        if name not in ("branch", "folder"):
            raise ConfigError(f"{name!r} after the # of a git URI is not known", "give branch= and folder=")
        table[name] = value
    return table
