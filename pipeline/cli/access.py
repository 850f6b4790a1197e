"""How a short command reaches a pipeline: over loopback where ``up`` runs, else by opening it.

The embedded state admits one process. A running one writes ``endpoint.json`` into its state
folder: its address, and an instance id that its answer must repeat, for a port can be reused.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.deadline import Deadline
from pipeline.errors import ConfigError, Transient, VectideError, as_error

if TYPE_CHECKING:
    from urllib.error import HTTPError

    from pipeline.config import Config
    from pipeline.observe.http import Route

#: A first search may load a model behind the endpoint.
_ASK_SECONDS: Final = 60.0
_KNOCK_SECONDS: Final = 3.0
_KNOCK_BYTES: Final = 4096

Ask = Callable[[str, str, Mapping[str, Any]], Any]
"""Method, path, arguments; the JSON answer."""


@contextmanager
def reached(config: Config) -> Iterator[Ask]:
    """Something to ask: the running process if there is one, else the opened pipeline.

    Raises:
        ConfigError: there is no index, or this user may not see it.
        StateInUse: a process has the state, but does not answer.
        Transient: no answer.
    """
    url = running(config.state) if config.broker == "embedded" else None
    if url is not None:
        yield _Following(config.state, url, token_of(config))
        return
    if config.broker == "embedded":
        _found(config.state)
    # What makes a pipeline takes long to import, and who asks a running one needs none of it.
    from pipeline.cli.assembly import Followed, Models, apply_topics, opened, search_service
    from pipeline.cli.given import remembered
    from pipeline.cli.operations import Operations

    with opened(config, "command") as parts:
        if config.broker == "embedded":
            apply_topics(parts)
        control, models = Followed(parts), Models(config)
        # What `up` was given is no longer said by anybody.
        known = remembered(config.state) if config.broker == "embedded" else {}
        sources = {**known, **config.sources}
        search = search_service(parts, control, models)
        alone = config.broker == "embedded"
        operations = Operations(parts, control, search, models, sources=sources, alone=alone)
        routes = operations.routes()
        try:
            yield lambda method, path, arguments: routes[method, path](arguments)
        finally:
            operations.close()
            control.close()


def token_of(config: Config) -> str | None:
    """What asks must carry; None: nothing."""
    return config.http.token.get_secret_value() if config.http.token else None


def _found(state: Path) -> None:
    try:
        (state / "log").stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"there is no index in {state}", "start one with `vectide up FOLDER`, or name its folder with --state"
        ) from None
    except OSError as error:  # it is its owner's only
        raise ConfigError(
            f"state folder {state}: {error.strerror}",
            "ask as the user who runs `vectide up`, or name another folder with --state",
        ) from None


def running(state: Path) -> str | None:
    """The address of the process that has this state open; None if there is none, or none that answers.

    One that is alive and slow is knocked at again: it has the state, whatever else takes its time.
    """
    deadline = Deadline.after(_ASK_SECONDS)
    while True:
        described: dict[str, Any] = {}
        try:
            described = json.loads((state / "endpoint.json").read_text())
            url, instance = str(described["url"]), str(described["instance"])
            # Without the token: another program may have the port by now.
            answer = posted(url, "GET", "/instance", {}, None, _KNOCK_SECONDS, _KNOCK_BYTES)
        except _Slow:
            if deadline.expired or not _alive(described.get("pid")):
                return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, VectideError):
            return None
        else:
            return url if answer == {"instance": instance} else None


def _alive(pid: object) -> bool:
    """Whether there is such a process here; one of another container is none."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, OverflowError):
        return False
    return True


class _Following:
    """Asks the running process, and the next one after a restart: its port may be another."""

    def __init__(self, state: Path, url: str, token: str | None) -> None:
        self._state = state
        self._url = url
        self._token = token

    def __call__(self, method: str, path: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return posted(self._url, method, path, arguments, self._token)
        except _Silent:
            found = running(self._state)
            if found is None:
                raise
            self._url = found
            return posted(found, method, path, arguments, self._token)


class Endpoint:
    """Says where this process answers, as long as it does."""

    def __init__(self, state: Path) -> None:
        self._path = state / "endpoint.json"
        self.instance = uuid.uuid4().hex

    def route(self) -> Route:
        """The answer to ``GET /instance``."""
        return lambda arguments: {"instance": self.instance}

    def announce(self, host: str, port: int) -> None:
        """Write the file; whole or not at all."""
        temporary = self._path.with_suffix(".new")
        described = {"url": f"http://{_near(host)}:{port}", "instance": self.instance, "pid": os.getpid()}
        temporary.write_text(json.dumps(described))
        temporary.replace(self._path)

    def withdraw(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def _near(host: str) -> str:
    """How this machine reaches what listens on ``host``."""
    if ":" in host:
        return "[::1]" if host == "::" else f"[{host}]"
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - every address is one of them


def posted(
    url: str,
    method: str,
    path: str,
    arguments: Mapping[str, Any],
    token: str | None,
    seconds: float = _ASK_SECONDS,
    most: int = -1,
) -> Any:
    """The JSON answer of a vectide at ``url``, never asked through a proxy.

    Args:
        url: http or https, without the path.
        method: ``GET`` or ``POST``.
        path: begins with ``/``.
        arguments: the body of a POST.
        token: sent as a bearer's; None: none.
        seconds: of the request.
        most: bytes of the answer that are read; -1: all.

    Raises:
        Transient: no answer, or none of a vectide.
        VectideError: what it answers with.
    """
    import http.client
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url} is no address of a vectide", "give it as http://host:port")
    body = json.dumps(arguments).encode() if method == "POST" else None
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url + path, body, headers, method=method)  # noqa: S310 - looked at above
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    try:
        with opener.open(request, timeout=seconds) as answer:
            return json.loads(answer.read(most))
    except urllib.error.HTTPError as error:
        raise _raised(url, error) from None
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        # The latter of another program that has the port by now: whatever it speaks, it is not vectide.
        late = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
        raise (_Slow if late else _Silent)(f"{url} does not answer: {type(error).__name__} {error}") from None


class _Silent(Transient):
    """Nobody answers there any more."""


class _Slow(_Silent):
    """Nobody has answered in time."""


def _raised(url: str, error: HTTPError) -> VectideError:
    from http.client import HTTPException

    try:
        described = json.load(error)
        return as_error(int(described["code"]), str(described["error"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError, HTTPException):
        return Transient(f"{url}: status {error.code}")
