"""``[sources.<id>]`` with ``connector = "s3"``, and the URIs that say the same."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from connectors.extraction import ExtractionLimits
from connectors.ignoring import patterns
from connectors.settings import secret_in
from pipeline.config import Seconds

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[\w:/.-]+")
#: What a URI may say after its ``#``.
_OF_A_URI: Final = ("region", "endpoint_url", "profile", "anonymous", "queue_url")


def _bucket(value: str) -> str:
    if not _BUCKET.fullmatch(value):
        raise ValueError("this is no name of a bucket, nor the ARN of an access point")
    return value


def _prefix(value: str) -> str:
    """As a folder: ``docs`` is what lies below ``docs/``, and not ``docs-of-2019/a``."""
    return value if not value or value.endswith("/") else value + "/"


def _address(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("it must be http://host:port or https://host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must hold no password; access_key_id and secret_access_key_file are for that")
    return value


class S3Settings(BaseModel):
    """The settings of an s3 source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: Annotated[str, AfterValidator(_bucket)] = Field(description="its name, or the ARN of an access point")
    prefix: Annotated[str, AfterValidator(_prefix)] = Field("", description="only what lies below this folder")
    include: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; only objects that match one"
    )
    exclude: Annotated[tuple[str, ...], AfterValidator(patterns)] = Field(
        (), description="patterns in git's syntax; no object or folder that matches"
    )
    hidden: bool = Field(False, description="names that begin with a dot, too")
    extraction: ExtractionLimits = Field(ExtractionLimits(), description="what a PDF, an Office file ... may cost")
    poll_seconds: Seconds = Field(
        60.0, description="between two listings; with `queue_url`, only `rescan_seconds` counts"
    )
    queue_url: Annotated[str, AfterValidator(_address)] = Field(
        "", description="an SQS queue of the bucket's notifications, for this source alone"
    )
    versions: bool = Field(
        False, description="`version_id` as metadata, for buckets with versioning; lists old versions, too"
    )
    region: str = Field("", description="the client's own, or `us-east-1`; found by itself for buckets of AWS")
    endpoint_url: Annotated[str, AfterValidator(_address)] = Field(
        "", description="of a server that is not AWS: MinIO, Ceph, R2 ..."
    )
    path_style: bool | None = Field(
        None, description="`https://host/bucket` instead of `https://bucket.host`; `true` with `endpoint_url`"
    )
    ca_file: Path | None = Field(None, description="certificates to trust; the client's own if not given")
    access_key_id: str = Field(
        "", description="the client's own chain if not given: environment, `~/.aws`, the machine's role"
    )
    secret_access_key: SecretStr | None = Field(None, description="better given as a file")
    secret_access_key_file: Path | None = Field(None, description="file that holds it; read again when it is refused")
    session_token_file: Path | None = Field(None, description="for temporary keys; read again when it is refused")
    profile: str = Field("", description="of `~/.aws/config`")
    anonymous: bool = Field(False, description="no credentials: a public bucket")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.secret_access_key is not None and self.secret_access_key_file is not None:
            raise ValueError("secret_access_key and secret_access_key_file exclude each other")
        secret = self.secret_access_key is not None or self.secret_access_key_file is not None
        if secret != bool(self.access_key_id):
            raise ValueError("access_key_id and its secret (secret_access_key_file) belong together")
        if sum((secret, bool(self.profile), self.anonymous)) > 1:
            raise ValueError("access_key_id, profile and anonymous exclude each other")
        if self.session_token_file is not None and not secret:
            raise ValueError("session_token_file belongs to an access_key_id")
        return self

    def keys(self) -> Keys | None:
        """What is given here, out of its files; None: the client finds its own.

        Raises:
            ValueError: a file cannot be read.
        """
        if not self.access_key_id:
            return None
        secret = "" if self.secret_access_key is None else self.secret_access_key.get_secret_value()
        if self.secret_access_key_file is not None:
            secret = secret_in("secret_access_key_file", self.secret_access_key_file)
        token = "" if self.session_token_file is None else secret_in("session_token_file", self.session_token_file)
        return Keys(self.access_key_id, secret, token)


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials that are given, not found."""

    id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)


def settings_of(uri: str) -> dict[str, Any]:
    """The settings that a URI says: ``s3://bucket/prefix#region=eu-west-1``. As for the tools of AWS, nothing in the
    prefix is an escape.

    Raises:
        ValueError: a part is not known.
    """
    address, _, fragment = uri.partition("#")
    bucket, _, prefix = address.partition("://")[2].partition("/")
    if not bucket:
        raise ValueError("there is no bucket in it; give s3://bucket or s3://bucket/folder")
    table: dict[str, Any] = {"bucket": bucket}
    if prefix:
        table["prefix"] = prefix
    for name, value in parse_qsl(fragment, keep_blank_values=True):
        if name not in _OF_A_URI:
            raise ValueError(f"{name!r} after the # is not known; there are {', '.join(_OF_A_URI)}")
        table[name] = value
    return table
