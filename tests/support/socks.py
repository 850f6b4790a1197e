"""Proxies before real servers: what a client sees of them can be cut off, slowed down or spoiled.

A Kafka client goes to the addresses that brokers say, around any proxy before one of them; through a SOCKS5 proxy it
goes to all.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

_SLOW_SECONDS = 0.5
_CHUNK = 64 * 1024


class Relay:
    """Before one server; listens on a port of its own until :meth:`close`.

    Args:
        port: the server's, on this machine.
    """

    def __init__(self, port: int = 0) -> None:
        self._upstream = port
        self.fault: str | None = None
        self.connections = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    def break_(self, fault: str) -> None:
        self.fault = fault
        if fault == "down":
            self._cut()

    def mend(self) -> None:
        spoiled, self.fault = self.fault == "garbled", None
        if spoiled:
            self._cut()

    def close(self) -> None:
        self._server.close()
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self.fault == "down":
                return
            with self._connected(client) as server:
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
                back.start()
                self._pump(client, server, False)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _connected(self, client: socket.socket) -> socket.socket:
        """To the server that a client is to reach."""
        return socket.create_connection(("127.0.0.1", self._upstream))

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if answers and self.fault == "slow":
                    time.sleep(_SLOW_SECONDS)
                if answers and self.fault == "garbled":
                    data = data[: len(data) // 2] + bytes(byte ^ 0xA5 for byte in data[len(data) // 2 :])
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


class SocksProxy(Relay):
    """Before all servers: each client says which one."""

    @property
    def url(self) -> str:
        return f"socks5://127.0.0.1:{self.port}"

    def _connected(self, client: socket.socket) -> socket.socket:
        _, methods = client.recv(2)
        client.recv(methods)
        client.sendall(b"\x05\x00")
        _, _, _, kind = client.recv(4)
        host = socket.inet_ntoa(client.recv(4)) if kind == 1 else client.recv(client.recv(1)[0]).decode()
        (port,) = struct.unpack(">H", client.recv(2))
        server = socket.create_connection((host, port))
        client.sendall(b"\x05\x00\x00\x01" + bytes(6))
        return server
