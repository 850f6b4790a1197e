"""The configured store."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.ports import Store


def open_store(config: Config) -> Store:
    """The store that the configuration names; an embedded one lies in the state folder.

    Raises:
        Fatal: the state folder cannot be made.
    """
    if config.store == "embedded":
        from pipeline.store.edge import EdgeStore

        return EdgeStore(config.state / "store")
    from pipeline.store.qdrant import QdrantSettings, QdrantStore

    qdrant = config.qdrant
    return QdrantStore(
        QdrantSettings(
            url=qdrant.url,
            api_key=qdrant.api_key.get_secret_value() if qdrant.api_key else None,
            grpc=qdrant.grpc,
            grpc_port=qdrant.grpc_port,
            ca_file=str(qdrant.ca_file) if qdrant.ca_file else None,
            timeout_seconds=qdrant.timeout_seconds,
            shard_number=qdrant.shard_number,
            replication_factor=qdrant.replication_factor,
        )
    )
