"""A real Kafka broker that lets nobody in unknown: TLS, passwords, client certificates, and ACLs.

The plain listener of the other tests stays, for its tests' own administration: whoever comes there
is nobody (``User:ANONYMOUS``) and may do everything. What the broker allowed and refused the others
is in its log of decisions.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority, Signed
from tests.support.kafka import KafkaServer, _free_ports

#: Names and passwords: one for each role of docs/security.md, and one that may do everything with what is its own.
USERS = {
    name: f"{name}-password-{secrets.token_hex(8)}"
    for name in ("connector", "chunk", "embed", "search", "operator", "writer")
}

_MORE = """
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL,RENAMED:SSL
listener.name.sasl.ssl.keystore.type=PEM
listener.name.sasl.ssl.keystore.location={server}
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {users};
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.mutual.ssl.keystore.type=PEM
listener.name.mutual.ssl.keystore.location={server}
listener.name.mutual.ssl.truststore.type=PEM
listener.name.mutual.ssl.truststore.location={authority}
listener.name.mutual.ssl.client.auth=required
listener.name.renamed.ssl.keystore.type=PEM
listener.name.renamed.ssl.keystore.location={server}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""

_LOGGING = """
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
appender.decisions.type=File
appender.decisions.name=decisions
appender.decisions.fileName={file}
appender.decisions.append=true
appender.decisions.immediateFlush=true
appender.decisions.layout.type=PatternLayout
appender.decisions.layout.pattern=%m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.decisions.name=kafka.authorizer.logger
logger.decisions.level=debug
logger.decisions.additivity=false
logger.decisions.appenderRef.decisions.ref=decisions
"""

_DECISION = re.compile(
    r"Principal = User:(?P<user>\S+) is (?P<verdict>Allowed|Denied) operation = (?P<operation>\w+) from host = \S+ "
    r"on resource = (?P<kind>\w+):LITERAL:(?P<name>\S+) for request"
)


@dataclass(frozen=True)
class Decision:
    """What the broker decided once."""

    user: str
    allowed: bool
    operation: str
    kind: str
    name: str


class SecureKafka(KafkaServer):
    """One broker.

    Args:
        directory: for everything.
        users: names and passwords, for SASL/PLAIN.
    """

    def __init__(self, directory: Path, users: Mapping[str, str]) -> None:
        super().__init__(directory)
        self.authority = Authority(directory / "tls")
        server = self.authority.sign("broker", ["IP:127.0.0.1"])
        self.client: Signed = self.authority.sign("client", password="key-password")
        self.users = dict(users)
        self._ports = dict(zip(("SASL", "MUTUAL", "RENAMED"), _free_ports(3)))
        # `localhost` is no name of the certificate: who is sent there finds somebody else.
        hosts = dict.fromkeys(self._ports, "127.0.0.1") | {"RENAMED": "localhost"}
        bound = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self._ports.items())
        advertised = ",".join(f"{name}://{hosts[name]}:{port}" for name, port in self._ports.items())
        text = self._properties.read_text()
        for line, more in (("listeners=", bound), ("advertised.listeners=", advertised)):
            assert text.count(f"\n{line}") == 1
            text = text.replace(f"\n{line}", f"\n{line}{more},")
        known = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        text += _MORE.format(server=server.both, authority=self.authority.certificate, users=known)
        self._properties.write_text(text)
        self._decisions = directory / "decisions.log"
        (directory / "log4j2.properties").write_text(_LOGGING.format(file=self._decisions))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        before = os.environ.get("LOG4J_CONFIGURATION_FILE")
        os.environ["LOG4J_CONFIGURATION_FILE"] = str(self.directory / "log4j2.properties")
        try:
            super().start()
        finally:
            if before is None:
                del os.environ["LOG4J_CONFIGURATION_FILE"]
            else:
                os.environ["LOG4J_CONFIGURATION_FILE"] = before

    def as_user(self, user: str, **settings: Any) -> dict[str, Any]:
        """``[kafka]`` for a user with a password."""
        return {
            "bootstrap_servers": f"127.0.0.1:{self._ports['SASL']}",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "PLAIN",
            "sasl_username": user,
            "sasl_password": self.users.get(user, ""),
            "ssl_cafile": str(self.authority.certificate),
            **settings,
        }

    def with_certificate(self, **settings: Any) -> dict[str, Any]:
        """``[kafka]`` for whoever has a certificate."""
        return {
            "bootstrap_servers": f"127.0.0.1:{self._ports['MUTUAL']}",
            "security_protocol": "SSL",
            "ssl_cafile": str(self.authority.certificate),
            "ssl_certfile": str(self.client.certificate),
            "ssl_keyfile": str(self.client.key),
            "ssl_key_password": "key-password",
            **settings,
        }

    def renamed(self, host: str = "127.0.0.1") -> dict[str, Any]:
        """``[kafka]`` for a listener that advertises a name which its certificate does not have."""
        return {
            "bootstrap_servers": f"{host}:{self._ports['RENAMED']}",
            "security_protocol": "SSL",
            "ssl_cafile": str(self.authority.certificate),
        }

    def decisions(self) -> set[Decision]:
        """All that the broker has decided about users so far."""
        found = _DECISION.finditer(self._decisions.read_text())
        return {
            Decision(one["user"], one["verdict"] == "Allowed", one["operation"], one["kind"], one["name"])
            for one in found
            if one["user"] != "ANONYMOUS"
        }
