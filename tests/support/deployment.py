"""Real vectide processes of one pipeline, as an operator starts them, and the truth to hold them against."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import load
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.models import tokenizer_of
from pipeline.identity import DocumentKey, content_hash
from pipeline.ports import Collection
from pipeline.store.edge import EdgeStore
from tests.support.commands import run

READY_SECONDS = 60.0
QUIET_SECONDS = 300.0
#: Less than a repair walk takes at rest over the 300 documents of a test: a zombie takes away its own.
EQUAL_SECONDS = 20.0


class Command:
    """One running vectide process."""

    def __init__(self, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.arguments = arguments
        self._errors = (folder / f"{arguments[0]}-{time.monotonic_ns()}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ready(self) -> str:
        """Wait for the ready line, and return it."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "ready" in line, f"{self.arguments}: {line!r}, exit {self.process.poll()}\n{self.errors()}"
        return line

    def errors(self) -> str:
        """The last of what it wrote to standard error, also when it has ended."""
        return Path(self._errors.name).read_text()[-4000:]

    def said(self, word: str) -> bool:
        """Whether it has written this to standard error, however long ago."""
        return word in Path(self._errors.name).read_text()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._end()

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.arguments} did not stop\n{self.errors()}") from None
        self._end()
        return self.process.returncode

    def _end(self) -> None:
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


class Deployment:
    """A folder with a configuration and documents, and commands that run there."""

    def __init__(self, folder: Path, configuration: str) -> None:
        self.folder = folder
        self.documents = folder / "docs"
        self.documents.mkdir()
        (folder / "vectide.toml").write_text(configuration)
        self.running: list[Command] = []

    def start(self, *arguments: str, **environment: str) -> Command:
        """A long-lived command; its ready line has come."""
        command = self.begin(*arguments, **environment)
        command.ready()
        return command

    def begin(self, *arguments: str, **environment: str) -> Command:
        """A long-lived command."""
        command = Command(list(arguments), self.folder, environment)
        self.running.append(command)
        return command

    def ask(self, *arguments: str, code: int = 0, errors: bool = True) -> str:
        """A short command's output; of one that fails what it wrote to standard error, unless ``errors`` is False."""
        done = subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
            cwd=self.folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if code and errors else done.stdout

    def report(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """A short command's JSON, whatever its exit code says."""
        found: dict[str, Any] = json.loads(self.ask(*arguments, "--json", code=code, errors=False))
        return found

    def status(self) -> dict[str, Any]:
        """``vectide status --json``."""
        return self.look("status")

    def look(self, *arguments: str) -> dict[str, Any]:
        """A report's JSON, asked for in this process: a wait looks often, and each start of one costs a second."""
        done = run(self.folder, *arguments, "--json")
        assert done.code == 0, f"{arguments}: exit {done.code}\n{done.shown}"
        found: dict[str, Any] = json.loads(done.out)
        return found

    def quiet(self, documents: int) -> dict[str, Any]:
        """Wait until nothing lags and so many documents are there."""
        deadline = time.monotonic() + QUIET_SECONDS
        while True:
            found = self.status()
            if found["lag"] == 0 and found["documents"] == documents and found["generation"] is not None:
                return found
            assert time.monotonic() < deadline, f"not quiet: {found}\n" + "\n".join(
                f"{command.arguments}: {command.process.poll()}\n{command.errors()[-600:]}"
                for command in self.running
                if not command._errors.closed
            )
            time.sleep(0.5)

    def until_equal(self, collection: Collection, source: str, **settings: Any) -> None:
        """Wait until the store is what the documents say: no lag tells of an edit that is not noticed yet, nor of
        what a zombie writes and takes away.
        """
        deadline = time.monotonic() + EQUAL_SECONDS
        while found := self.differences(collection, source, **settings):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)

    def end(self) -> None:
        """Kill what still runs."""
        for command in self.running:
            if command.process.poll() is None:
                command.kill()
            elif not command._errors.closed:
                command._end()

    def truth(self) -> dict[str, str]:
        """Path to text of every document."""
        paths = (path for path in self.documents.rglob("*") if path.is_file())
        return {path.relative_to(self.documents).as_posix(): path.read_text() for path in paths}

    def embedded_differences(self, source: str, state: Path | None = None) -> list[str]:
        """Likewise, for the one embedded store of a pipeline that has stopped."""
        store = EdgeStore((state or self.folder / ".vectide") / "store")
        try:
            (name,) = store.names("")
            return self.differences(store.open(name), source)
        finally:
            store.close()

    def differences(self, collection: Collection, source: str, **settings: Any) -> list[str]:
        """Where the store is not what the documents say; empty if they are equal.

        Args:
            settings: of the generation, where they are not those of the configuration.
        """
        config = load(self.folder / "vectide.toml", {}, **settings)
        cut = chunker(generation_spec(config), tokenizer_of(config.model))
        found, wrong = _stored(collection), []
        for path, text in self.truth().items():
            key = DocumentKey(source, path)
            media_type = "text/markdown" if path.endswith(".md") else "text/plain"
            wanted = sorted(span.content_hash for span in cut(text, media_type))
            head, chunks = found.pop(key.doc, (None, {}))
            if head is None or head.state != "complete":
                wrong.append(f"{path}: head {head and head.state}, not complete")
            elif sorted(listed.id for listed in head.chunks) != sorted(chunks):
                wrong.append(f"{path}: the head lists {len(head.chunks)} chunks, there are {len(chunks)}")
            elif sorted(chunks.values()) != wanted:
                wrong.append(f"{path}: the chunks are of another text")
        for head, chunks in found.values():
            if head is None or head.state != "deleted" or chunks:
                wrong.append(f"{head and head.key.text}: no such document, {len(chunks)} chunks")
        return wrong


def _stored(collection: Collection) -> dict[str, tuple[Any, dict[str, str]]]:
    found: dict[str, tuple[Any, dict[str, str]]] = {}
    after = None
    while True:
        heads, after = collection.scan_heads(after)
        for head in heads:
            found[head.doc] = (head, {})
        if after is None:
            break
    while True:
        chunks, after = collection.scan_chunks(after)
        for chunk in chunks:
            assert chunk.content_hash == content_hash(chunk.text)
            found.setdefault(chunk.doc, (None, {}))[1][chunk.id] = chunk.content_hash
        if after is None:
            return found


@contextmanager
def loopback_qdrant(folder: Path) -> Iterator[str]:
    """A loopback Qdrant in a process of its own; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.qdrant_server", "--state", str(folder)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
