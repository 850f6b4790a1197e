"""``[sources.<id>]`` with ``connector = "web"``, and the URIs that say the same."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from connectors.extraction import ExtractionLimits
from connectors.ignoring import patterns
from connectors.settings import secret_in
from connectors.web.addresses import Address, Paths
from pipeline.config import Seconds

_LISTING: Final = re.compile(
    r"\.(?:xml|xml\.gz|gz|rss|atom|rdf|txt)$|sitemap|(?:^|/)(?:feed|rss|atom)/?$", re.IGNORECASE
)
_HOST: Final = re.compile(
    r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?"
)
_MIB: Final = 1024 * 1024


def _url(value: str) -> str:
    return Address.parse(value).url


def _urls(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_url(value) for value in values)


def _site(value: str) -> str:
    if not value:
        return value
    address = Address.parse(value)
    if address.target != "/":
        raise ValueError("it is a host, as https://www.example.com; folders go to `include`, sitemaps to `sitemaps`")
    return address.url


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HOST.fullmatch(value):
            raise ValueError(f"{value!r} is no host: give www.example.com, *.example.com or host:port")
    return tuple(value.lower() for value in values)


def _agent(value: str) -> str:
    if not value.strip() or not value.isprintable() or not value.isascii():
        raise ValueError("it must be a line of ASCII")
    return value.strip()


class WebSettings(BaseModel):
    """The settings of a web source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: Annotated[str, AfterValidator(_site)] = Field(
        "", description="`https://host`: its robots.txt names the sitemaps, else `/sitemap.xml` is asked for"
    )
    sitemaps: Annotated[tuple[str, ...], AfterValidator(_urls)] = Field(
        (), description="URLs; indexes, gzip and text, too"
    )
    feeds: Annotated[tuple[str, ...], AfterValidator(_urls)] = Field((), description="URLs of RSS or Atom")
    hosts: Annotated[tuple[str, ...], AfterValidator(_hosts)] = Field(
        (), description="further hosts whose pages count: `docs.example.com`, `*.example.com`, `host:port`"
    )
    include: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; only pages whose path matches one"
    )
    exclude: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; no page whose path matches"
    )
    poll_seconds: Seconds = Field(300.0, description="between two looks at sitemaps and feeds")
    recheck_seconds: Annotated[float, Field(ge=0)] = Field(
        86400.0, description="a page is asked for at least so often, whatever its `lastmod` says; 0: at each poll"
    )
    pages_per_second: Annotated[float, Field(gt=0, le=1000)] = Field(
        2.0, description="of one host; a `Crawl-delay` in its robots.txt counts up to 10 s"
    )
    grace_seconds: Annotated[float, Field(ge=0)] = Field(
        86400.0, description="a page that answers 404 stays for so long; 410 and `noindex` count at once"
    )
    removal_limit_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        30,
        description="if more pages than this, and more than 10, go within two days, or twice `recheck_seconds` if that "
        "is longer, nothing more is deleted; 100: they are",
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=25)] = Field(
        20.0, description="for one page with its redirects, or one sitemap"
    )
    page_limit_bytes: Annotated[int, Field(gt=0)] = Field(
        16 * _MIB, description="unpacked; a larger page is published without its text"
    )
    pages_limit: Annotated[int, Field(gt=0)] = Field(100_000, description="of the source; further ones are left out")
    user_agent: Annotated[str, AfterValidator(_agent)] = Field(
        "vectide/0.1", description="its first word, up to `/`, is the name that robots.txt is asked for"
    )
    private_hosts: Annotated[tuple[str, ...], AfterValidator(_hosts)] = Field(
        (), description="hosts that may lie in a private network; addresses and `localhost` in URLs here may anyway"
    )
    username: str = Field("", description="for the hosts of `site`, `sitemaps` and `feeds` alone")
    password: SecretStr | None = Field(None, description="better given as a file")
    password_file: Path | None = Field(None, description="file that holds it; read again when it is refused")
    token_file: Path | None = Field(None, description="file with a bearer token, instead of username and password")
    ca_file: Path | None = Field(
        None, description="certificates to trust, read again when one is refused; the system's if not given"
    )
    extraction: ExtractionLimits = Field(ExtractionLimits(), description="what a PDF, an Office file ... may cost")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not (self.site or self.sitemaps or self.feeds):
            raise ValueError("give `site`, `sitemaps` or `feeds`")
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file exclude each other")
        secret = self.password is not None or self.password_file is not None
        if secret != bool(self.username):
            raise ValueError("username and its password (password_file) belong together")
        if secret and self.token_file is not None:
            raise ValueError("token_file excludes username and password")
        return self

    @property
    def seeds(self) -> tuple[Address, ...]:
        """What is named here; the first one's host is the source's own."""
        return tuple(Address.parse(url) for url in (self.site, *self.sitemaps, *self.feeds) if url)

    def authorization(self) -> str:
        """The header's value, out of its file; empty: there is none.

        Raises:
            ValueError: a file cannot be read.
        """
        if self.token_file is not None:
            token = _read("token_file", self.token_file)
            if not (token.isascii() and token.isprintable()):  # the error of who sends it would show it
                raise ValueError("token_file: it holds a character that no token has, such as a zero byte")
            return f"Bearer {token}"
        if not self.username:
            return ""
        password = "" if self.password is None else self.password.get_secret_value()
        if self.password_file is not None:
            password = _read("password_file", self.password_file)
        return "Basic " + base64.b64encode(f"{self.username}:{password}".encode()).decode()


def settings_of(uri: str) -> dict[str, Any]:
    """The settings that a URI says: that of a sitemap or a feed, of a site, or of a folder of one.

    Raises:
        ValueError: it is no such URI.
    """
    address = Address.parse(uri.partition("#")[0])
    path = urlsplit(address.url).path
    if path != "/" and _LISTING.search(path):
        return {"connector": "web", "sitemaps": [address.url]}
    if path != "/" and not path.endswith("/"):
        raise ValueError(
            "it is neither a sitemap, a feed nor a folder; end a folder with /, or name it in `sitemaps` or `feeds` "
            "(a repository is git+https://...)"
        )
    table: dict[str, Any] = {"connector": "web", "site": address.at("/").url}
    return table if path == "/" else table | {"include": [f"/{Paths(address).path_of(address)}"]}


def _read(name: str, file: Path) -> str:
    text = secret_in(name, file)
    if "\n" in text or "\r" in text:
        raise ValueError(f"{name}: it holds a line break")
    if not text:
        raise ValueError(f"{name}: it is empty")
    return text
