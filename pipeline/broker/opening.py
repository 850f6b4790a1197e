"""The broker that a configuration names."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.ports import Broker


def open_broker(config: Config, client: str) -> Broker:
    """Open the log.

    Args:
        config: ``broker``, and ``state`` (the embedded log is in its folder ``log``) or ``kafka``.
        client: names this process in the broker's logs.

    Raises:
        BrokerUnavailable: Kafka does not answer; call again.
        StateInUse: another process has the embedded log open.
        Fatal: the folder, the settings or the installation are wrong.
    """
    if config.broker == "embedded":
        from pipeline.broker.embedded import EmbeddedBroker

        return EmbeddedBroker(config.state / "log")
    from pipeline.broker.kafka import KafkaBroker

    return KafkaBroker(config.kafka, client)
