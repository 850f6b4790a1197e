"""Stores for tests: every adapter, over what this machine has."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.ports import Store
from pipeline.store.edge import EdgeStore
from pipeline.store.memory import MemoryStore
from pipeline.store.qdrant import QdrantSettings, QdrantStore
from tests.support.certificates import Signed
from tests.support.qdrant_server import serve

REAL = os.environ.get("VECTIDE_TEST_QDRANT_URL")
#: Of that server, with every right; only with one are its rights tested.
REAL_KEY = os.environ.get("VECTIDE_TEST_QDRANT_KEY")
#: Also of that server.
REAL_GRPC_PORT = int(os.environ.get("VECTIDE_TEST_QDRANT_GRPC_PORT", "6334"))
KINDS = ("memory", "edge", "loopback", *(("rest", "grpc") if REAL else ()))


@contextmanager
def loopback(state: Path, tls: Signed | None = None, **options: Any) -> Iterator[str]:
    """A loopback server for a while; its URL."""
    server = serve(state, **options)
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)
        # The handshake is for the connection's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.RequestHandlerClass.shards.close()


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[Store]:
    """A store of a kind, empty but for what others left on a real server."""
    if kind in ("rest", "grpc"):
        assert REAL is not None
        settings = QdrantSettings(url=REAL, api_key=REAL_KEY, grpc=kind == "grpc", grpc_port=REAL_GRPC_PORT)
        store: Store = QdrantStore(settings)
        yield store
        store.close()
    elif kind == "loopback":
        with loopback(folder / "server") as url:
            store = QdrantStore(QdrantSettings(url=url))
            yield store
            store.close()
    else:
        store = MemoryStore() if kind == "memory" else EdgeStore(folder / "edge")
        yield store
        store.close()
