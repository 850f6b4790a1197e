"""Git repositories for tests: made by git itself, and served over HTTP by its own backend."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

_ENVIRONMENT: Final = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "An Author",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "A Committer",
    "GIT_COMMITTER_EMAIL": "committer@example.com",
    "LC_ALL": "C",
}


class Repository:
    """A repository with a working tree, on the branch ``main``, with one empty commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message=the beginning")

    def git(self, *arguments: str, at: float | None = None, given: bytes = b"") -> str:
        times = {} if at is None else {"GIT_AUTHOR_DATE": f"{at:.0f} +0000", "GIT_COMMITTER_DATE": f"{at:.0f} +0000"}
        done = subprocess.run(
            ["git", "-c", "gc.auto=0", *arguments],
            cwd=self.folder,
            env=_ENVIRONMENT | times,
            input=given,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def write(self, path: str, text: str | bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

    def commit(self, message: str = "a change", *, at: float | None = None) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}", at=at)
        return self.git("rev-parse", "HEAD")

    def commit_by(self, author: bytes) -> str:
        """A commit of what is there, with any bytes for its author's name, mail and date."""
        self.git("add", "--all")
        lines = (
            b"tree " + self.git("write-tree").encode(),
            b"parent " + self.git("rev-parse", "HEAD").encode(),
            b"author " + author,
            b"committer C <c@example.com> 1700000000 +0000",
        )
        made = self.git(
            "hash-object", "--literally", "-t", "commit", "-w", "--stdin", given=b"\n".join(lines) + b"\n\nodd\n"
        )
        self.git("update-ref", "HEAD", made)
        return made

    def put(self, path: str, text: str | bytes) -> str:
        self.write(path, text)
        return self.commit(f"put {path}")

    def put_many(self, texts: Mapping[str, str]) -> None:
        for path, text in texts.items():
            self.write(path, text)
        self.commit("many")

    def remove(self, path: str) -> str:
        self.git("rm", "--quiet", "--", path)
        return self.commit(f"remove {path}")

    def rename(self, old: str, new: str) -> str:
        (self.folder / new).parent.mkdir(parents=True, exist_ok=True)
        self.git("mv", "--force", "--", old, new)
        return self.commit(f"rename {old}")


class Served:
    """Repositories below a folder, over HTTP, for one user; it can refuse, hang and talk rubbish."""

    USER, PASSWORD = "robot", "s3cret/with:signs@"

    def __init__(self, folder: Path) -> None:
        self.fault: str | None = None
        self.requests = 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *of: object) -> None:
                pass

            def do_GET(self) -> None:
                served.answer(self, folder)

            do_POST = do_GET  # noqa: N815 - the library's name

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, folder: Path) -> None:
        self.requests += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        expected = "Basic " + base64.b64encode(f"{self.USER}:{self.PASSWORD}".encode()).decode()
        match self.fault:
            case "down":
                request.close_connection = True
                return
            case "slow":
                time.sleep(0.5)
            case "garbled":
                self._send(request, 200, {"Content-Type": "text/html"}, b"<h1>It works!</h1>")
                return
        if self.fault == "unauthorised" or request.headers.get("Authorization") != expected:
            self._send(request, 401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
            return
        path, _, query = request.path.partition("?")
        environment = _ENVIRONMENT | {
            "GIT_PROJECT_ROOT": str(folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding") or "",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol") or "",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, timeout=60, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self._send(request, status, headers, content)

    def _send(self, request: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], content: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
