"""``[sources.<id>]`` with ``connector = "http"``, and the URIs that say the same."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.extraction import ExtractionLimits
from pipeline.config import Seconds

_MIB: Final = 1024 * 1024
_DAY: Final = 86_400.0
_PORT: Final = 8090
#: What a URI may say after its ``#``.
_OF_A_URI: Final = ("tokens_file", "tls_certificate_file", "tls_key_file")

Count = Annotated[int, Field(gt=0)]


class HttpSettings(BaseModel):
    """The settings of an http source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        "127.0.0.1", description="the address to listen on; another one than loopback needs `tokens_file`"
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(_PORT, description="`0`: any that is free")
    tokens_file: Path | None = Field(None, description="who may do what; read again when it changes")
    tls_certificate_file: Path | None = Field(
        None, description="with the chain, PEM, read again when it changes; without it, let a proxy do TLS"
    )
    tls_key_file: Path | None = Field(None, description="of the certificate, PEM")
    body_limit_bytes: Count = Field(16 * _MIB, description="of a request")
    batch_limit: Annotated[int, Field(gt=0, le=500)] = Field(500, description="most operations of a batch")
    extraction: ExtractionLimits = Field(ExtractionLimits(), description="a table, see [Documents](#documents)")
    request_seconds: Annotated[Seconds, Field(le=55)] = Field(
        10.0,
        description="from the whole request to its answer; then 503. A PDF, an Office file ... has its `seconds` more",
    )
    receive_seconds: Seconds = Field(
        30.0, description="for a request's header, and again for its body; then it is cut off"
    )
    idle_seconds: Seconds = Field(30.0, description="how long a connection may wait for its next request")
    requests_limit: Count = Field(256, description="requests at the same time; more get 429")
    connections_limit: Count = Field(1_024, description="connections at the same time; more get 503")
    buffer_bytes: Count = Field(128 * _MIB, description="bodies at the same time; more get 429")
    lag_limit_records: Annotated[int, Field(ge=0)] = Field(
        100_000, description="the live generation may be behind by so many records; beyond that 429. `0`: by any number"
    )
    tombstone_seconds: Seconds = Field(7 * _DAY, description="how long the revision of a deleted document is kept")
    tombstone_limit: Count = Field(100_000, description="of how many; then the oldest is forgotten earlier")
    idempotency_seconds: Seconds = Field(_DAY, description="how long the answer to an `Idempotency-Key` is kept")
    idempotency_limit: Count = Field(100_000, description="how many; then the oldest is forgotten earlier")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together")
        if not loopback(self.host) and self.tokens_file is None:
            raise ValueError(
                f"host = {self.host!r} can be reached from other machines, and there is no tokens_file: "
                "name one, or use 127.0.0.1"
            )
        if self.buffer_bytes < self.body_limit_bytes:
            raise ValueError("buffer_bytes is less than body_limit_bytes: no request of that size could ever pass")
        return self


def settings_of(uri: str) -> dict[str, Any]:
    """The settings that a URI says: ``http+listen://127.0.0.1:8090#tokens_file=/run/secrets/tokens.toml``.

    Raises:
        ValueError: a part is not known.
    """
    parts = urlsplit(uri)
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must hold no password; tokens_file is for that")
    if parts.path not in ("", "/") or parts.query:
        raise ValueError("it has a host, a port and nothing behind them: http+listen://127.0.0.1:8090")
    table: dict[str, Any] = {"connector": "http", "host": parts.hostname or "127.0.0.1"}
    if parts.port is not None:
        table["port"] = parts.port
    for name, value in parse_qsl(parts.fragment, keep_blank_values=True):
        if name not in _OF_A_URI:
            raise ValueError(f"{name!r} after the # is not known; there are {', '.join(_OF_A_URI)}")
        table[name] = value
    return table


def loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
