"""A socket that listens where settings say."""

from __future__ import annotations

import errno
import os
import socket

from pipeline.errors import ConfigError


def listening(host: str, port: int, backlog: int, place: str = "") -> socket.socket:
    """Listen on one address; port 0: on any that is free.

    Args:
        host: a name or an address.
        port: of it.
        backlog: connections that wait to be accepted.
        place: of ``host`` and ``port`` among the settings, as ``http.``.

    Raises:
        ConfigError: it cannot.
    """
    try:
        # One family: a name with two addresses would give two listeners, on different ports if any will do.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise ConfigError(
                f"{place}port: cannot listen on {host}:{port}: {os.strerror(error.errno)}",
                f"another process has that port: set {place}port to a free one, or to 0 for any",
            ) from None
        raise ConfigError(f"{place}host = {host!r} is no address of this machine", "use 127.0.0.1") from None
