"""The image's HEALTHCHECK: ends with 0 if this container's vectide is alive, with 1 and the reason if not.

The image has neither curl nor wget. Python's own client asks without a proxy, whatever the environment says.
"""

from __future__ import annotations

import http.client
import os
import sys
from typing import Final

#: Below the HEALTHCHECK's own timeout, so that the reason is told and not a kill.
_SECONDS: Final = 3.0


def main() -> int:
    """The exit code; what /livez says goes to standard output, which `docker inspect` keeps."""
    port = int(os.environ.get("VECTIDE_HTTP__PORT", "8080"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        print(answer.read().decode(errors="replace"))
        return 0 if answer.status == http.HTTPStatus.OK else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port}: {type(error).__name__} {error}")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
