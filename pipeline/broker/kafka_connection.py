"""kafka-python's clients for a configuration: their options, checked, and nothing left of one that did not open."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from pipeline.broker.kafka_errors import REFUSED
from pipeline.broker.kafka_tls import TlsContext, tls_context
from pipeline.config import KafkaClusterConfig
from pipeline.errors import BrokerUnavailable, ConfigError

T = TypeVar("T")

_BOOTSTRAP_MS: Final = 10_000
#: The client's own 30 s would add half a minute to every outage.
_RECONNECT_MS: Final = 2_000
#: Mechanisms that need a name and a password.
_NAMED: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_MECHANISMS: Final = (*_NAMED, "GSSAPI", "AWS_MSK_IAM")


class Connection:
    """How this process reaches a cluster.

    Args:
        config: of the cluster.
        place: of these settings in the configuration, for the texts of errors.

    Raises:
        ConfigError: a setting is wrong, or a file that it names is.
    """

    def __init__(self, config: KafkaClusterConfig, place: str = "kafka") -> None:
        self._config = config
        options = connection_of(config)
        _refuse_unknown(config.options, place)
        _refuse_half_of_sasl(options, place)
        self._tls: TlsContext | None = None
        if options["security_protocol"] in ("SSL", "SASL_SSL"):
            self._tls = tls_context(options, place)
            options = {name: value for name, value in options.items() if not name.startswith("ssl_")}
            options["ssl_context"] = self._tls
        self.options: Mapping[str, Any] = options
        """For a client of any kind."""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell with an error what TLS had against the brokers."""
        try:
            yield
        except BrokerUnavailable as error:
            failures = [] if self._tls is None else self._tls.failures()
            if not failures:
                raise
            raise BrokerUnavailable(f"{error}; {'; '.join(one.text for one in failures)}") from None

    @contextmanager
    def opening(self) -> Iterator[None]:
        """The same for a process's first connection. What TLS refuses then does not pass by itself; later
        it may be one broker's, or a certificate that is being changed, and is waited out.

        Raises:
            ConfigError: no broker could be trusted, or none trusts this client.
        """
        try:
            yield
        except BrokerUnavailable as error:
            failures = [] if self._tls is None else self._tls.failures()
            if failures and all(one.remedy for one in failures):
                remedies = "; ".join(dict.fromkeys(one.remedy for one in failures))
                raise ConfigError("; ".join(one.text for one in failures), remedies) from None
            with self.explained():
                raise error from None


def made(kind: Callable[..., T], options: Mapping[str, Any]) -> T:
    """A client of kafka-python. One that cannot be made says why, and takes its thread and its sockets
    with it: the library keeps the cause to itself and leaves those behind.

    Args:
        kind: ``KafkaAdminClient``, ``KafkaConsumer`` or ``KafkaProducer``.
        options: for it.
    """
    networks: list[_Network] = []

    def network(**given: Any) -> _Network:
        networks.append(_Network(**given))
        return networks[-1]

    try:
        return kind(**options, kafka_client=network)
    except BaseException as error:
        for one in networks:
            with suppress(Exception):  # the first error counts
                one.close()
        causes = [one.failure for one in networks if one.failure is not None]
        if causes and isinstance(error, KafkaTimeoutError):
            raise type(error)(f"{' '.join(map(str, error.args))}: {causes[-1]}") from None
        raise


class _Network(KafkaNetClient):  # type: ignore[misc] # the library has no types
    """Connections that keep the cause of a failure."""

    def __init__(self, **options: Any) -> None:
        net = NetworkSelector(**options)
        self._watched = _Connections(net, **options)
        super().__init__(net, self._watched, **options)

    @property
    def failure(self) -> BaseException | None:
        """The last one."""
        return self._watched.failure


class _Connections(KafkaConnectionManager):  # type: ignore[misc] # the library has no types
    """A refusal of the credentials ends the first attempts at once; the library would go on for their
    whole time, and for each of them with the same password: accounts are locked for less.
    """

    failure: BaseException | None = None
    _refusal: BaseException | None = None

    def get_connection(self, node_id: Any, *args: Any, **kwargs: Any) -> Any:
        """A new connection, or the present one."""
        if self._refusal is not None and not self.bootstrapped:
            raise self._refusal
        connection = super().get_connection(node_id, *args, **kwargs)
        connection.init_future.add_errback(self._failed)
        return connection

    async def _build_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = await super()._build_transport(*args, **kwargs)
        received = transport._sock_recv  # noqa: SLF001 - see below

        def data_before_its_end() -> tuple[bytes, BaseException | None]:
            # A broker sends why it refuses and closes: the library finds both in one look, and drops
            # what was sent. The next look finds the end again.
            data, error = received()
            return data, None if data else error

        transport._sock_recv = data_before_its_end  # noqa: SLF001
        return transport

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        if isinstance(error, REFUSED):
            self._refusal = error


def connection_of(config: KafkaClusterConfig) -> dict[str, Any]:
    """kafka-python's client options for a configuration."""
    options: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in config.bootstrap_servers.split(",")],
        "security_protocol": config.security_protocol,
        "request_timeout_ms": round(config.request_timeout_seconds * 1000),
        "bootstrap_timeout_ms": _BOOTSTRAP_MS,
        "reconnect_backoff_max_ms": _RECONNECT_MS,
        "ssl_check_hostname": config.ssl_check_hostname,
    }
    password, key_password = config.sasl_password, config.ssl_key_password
    given = {
        "sasl_mechanism": config.sasl_mechanism,
        "sasl_plain_username": config.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "ssl_cafile": str(config.ssl_cafile) if config.ssl_cafile else None,
        "ssl_certfile": str(config.ssl_certfile) if config.ssl_certfile else None,
        "ssl_keyfile": str(config.ssl_keyfile) if config.ssl_keyfile else None,
        "ssl_password": key_password.get_secret_value() if key_password else None,
    }
    return {**options, **{name: value for name, value in given.items() if value is not None}, **config.options}


def _refuse_unknown(options: Mapping[str, Any], place: str) -> None:
    known = set(KafkaAdminClient.DEFAULT_CONFIG) & set(KafkaConsumer.DEFAULT_CONFIG) & set(KafkaProducer.DEFAULT_CONFIG)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "it must be one of admin client, consumer and producer"
            raise ConfigError(f"{place}.options.{name}: kafka-python has no such option; {hint}", "correct it")


def _refuse_half_of_sasl(options: Mapping[str, Any], place: str) -> None:
    protocol, mechanism = options["security_protocol"], options.get("sasl_mechanism")
    if not protocol.startswith("SASL"):
        if options.get("sasl_plain_password"):
            raise ConfigError(
                f'{place}.sasl_password is given, and {place}.security_protocol = "{protocol}" would not use it',
                'set it to "SASL_SSL"',
            )
        return
    if mechanism not in _MECHANISMS:
        raise ConfigError(
            f"{place}.sasl_mechanism = {mechanism!r} is none that there is", f"one of {', '.join(_MECHANISMS)}"
        )
    if mechanism in _NAMED and not (options.get("sasl_plain_username") and options.get("sasl_plain_password")):
        raise ConfigError(
            f"{place}.sasl_mechanism = {mechanism!r} needs a name and a password",
            f"set {place}.sasl_username, and {place}.sasl_password_file",
        )
