"""A server of S3 and SQS in a process of its own, which can be told to misbehave.

``python -m tests.support.object_store`` serves until its input ends.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

KEY_ID, SECRET = "AKIDOFTHETESTS", "s3cret/of+the=tests"
_FAULTS = "/_faults"
_OBJECTS = "/_objects"
_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>{message}</Message><RequestId>1</RequestId></Error>"""
_STATUS = {"SlowDown": 503, "InternalError": 500}


class ObjectStore:
    """The server, as the tests see it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.stop)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        assert port, "the object store did not start"
        self.url = f"http://127.0.0.1:{port}"
        self._buckets = 0

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.kill()
        self._process.wait(30)

    @functools.lru_cache  # noqa: B019 - there is one store, and clients take a quarter of a second each
    def client(self, service: str = "s3") -> Any:
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        session.set_credentials(KEY_ID, SECRET)
        config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        return session.create_client(service, region_name="us-east-1", endpoint_url=self.url, config=config)

    def bucket(self) -> str:
        """A new one."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.client().create_bucket(Bucket=name)
        return name

    def queue(self, bucket: str) -> str:
        """The URL of a new queue that is told of every change in a bucket."""
        sqs = self.client("sqs")
        url: str = sqs.create_queue(QueueName=f"of-{bucket}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        told = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
        self.client().put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]}
        )
        return url

    def put_many(self, bucket: str, texts: Mapping[str, str]) -> None:
        """Objects by key, all at once."""
        self._tell(_OBJECTS, {"bucket": bucket, "texts": texts})

    def fault(self, kind: str = "", of: str = "", times: int = -1) -> None:
        """Misbehave from now on; an empty kind: no more.

        Args:
            kind: ``down``, ``slow``, ``dribbling``, ``garbled``, ``truncated`` or a code of the protocol.
            of: only what is asked of paths that end so; anything, if empty.
            times: how often; without end, if negative.
        """
        self._tell(_FAULTS, {"kind": kind, "of": of, "times": times})

    def requests(self) -> int:
        """How many there were."""
        with urllib.request.urlopen(self.url + _FAULTS, timeout=30) as answer:
            return int(answer.read())

    def _tell(self, path: str, what: object) -> None:
        body = json.dumps(what).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, method="PUT"), timeout=60):
            pass


@functools.cache
def object_store() -> ObjectStore:
    """The one of this process."""
    return ObjectStore()


# ---------------------------------------------------------------------- inside the process

_Start = Callable[..., Any]
_App = Callable[[dict[str, Any], _Start], Iterable[bytes]]


class _Weather:
    """A WSGI application around another one."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._fault: dict[str, Any] = {"kind": "", "of": "", "times": -1}
        self._mutex = threading.Lock()
        self._requests = 0

    def __call__(self, environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == _FAULTS:
            if environ["REQUEST_METHOD"] == "PUT":
                self._fault = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            return _plain(start, str(self._requests))
        if path == _OBJECTS:
            _put(**json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
            return _plain(start, "")
        reads = environ["REQUEST_METHOD"] in ("GET", "HEAD")
        self._requests += reads
        match self._due(path) if reads else "":
            case "":
                return self._app(environ, start)
            case "slow":
                time.sleep(0.5)
                return self._app(environ, start)
            case "dribbling":
                return _dribbling(self._app(environ, start))
            case "down":
                environ["werkzeug.socket"].close()
                return []
            case "garbled":
                start("200 OK", [("Content-Type", "text/html")])
                return [b"<html><body><h1>It works!</h1></body></html>"]
            case "truncated":
                return _truncated(self._app(environ, start))
            case code:
                status = _STATUS.get(code, 403)
                start(f"{status} {code}", [("Content-Type", "application/xml")])
                return [_ERROR.format(code=code, message="as the test wants it").encode()]

    def _due(self, path: str) -> str:
        with self._mutex:
            fault = self._fault
            if not path.endswith(fault["of"]) or fault["times"] == 0:
                return ""
            fault["times"] -= 1
            return str(fault["kind"])


def _plain(start: _Start, text: str) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]


def _put(bucket: str, texts: Mapping[str, str]) -> None:
    from moto.s3.models import s3_backends

    for key, text in texts.items():
        s3_backends["123456789012"]["aws"].put_object(bucket, key, text.encode())


def _dribbling(body: Iterable[bytes]) -> Iterator[bytes]:
    for byte in b"".join(body):
        time.sleep(0.02)
        yield bytes([byte])


def _truncated(body: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(body)
    yield whole[: len(whole) // 2]
    raise ConnectionAbortedError  # the server closes the connection


def _serve() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *of: Any) -> None:
            pass

    server = make_server(
        "127.0.0.1",
        0,
        _Weather(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=Handler,
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    _serve()
