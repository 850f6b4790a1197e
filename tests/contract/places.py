"""Places for the certification suite: one for each connector."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from connectors.certification import LIMIT_BYTES, Fault, NotShown, Place
from connectors.http.settings import HttpSettings
from connectors.http.source import HttpSource
from connectors.memory import MemorySource
from connectors.registry import open_source
from pipeline.config import SourceConfig
from pipeline.errors import Poison, SourceUnavailable
from pipeline.ports import Fetched, Hint, Listed, Skipped, Source, without_pauses
from tests.contract.kafka_place import KafkaPlace
from tests.contract.postgres_place import PostgresPlace
from tests.support.object_store import KEY_ID, SECRET, object_store
from tests.support.repositories import Repository, Served
from tests.support.website import Website


class FolderPlace:
    """A folder on disk."""

    faults: tuple[Fault, ...] = ("down", "unauthorised") if os.geteuid() else ("down",)  # root may read everything

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "root"
        self.folder.mkdir()

    def _path(self, path: str) -> Path:
        away = self.folder.with_name("away")
        return (away if away.exists() else self.folder) / path

    def put(self, path: str, text: str) -> None:
        self._path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path(path).write_text(text, encoding="utf-8")

    def remove(self, path: str) -> None:
        self._path(path).unlink()

    def rename(self, old: str, new: str) -> None:
        self._path(old).rename(self._path(new))

    def poison(self, path: str) -> None:
        self.put(path, "x" * (LIMIT_BYTES + 1))

    def break_(self, fault: Fault) -> None:
        if fault == "down":
            self.folder.rename(self.folder.with_name("away"))
        else:
            self.folder.chmod(0)

    def mend(self) -> None:
        if self.folder.exists():
            self.folder.chmod(0o700)
        else:
            self.folder.with_name("away").rename(self.folder)

    def source(self) -> Source:
        return open_source("place", SourceConfig.model_validate({"path": str(self.folder)}), LIMIT_BYTES)


class MemoryPlace:
    """A source in memory, and all that a place can be."""

    faults: tuple[Fault, ...] = ("down", "slow", "unauthorised", "garbled")
    secrets = ("hunter2",)

    def __init__(self, folder: Path) -> None:
        self.one = MemorySource("place")
        self.fault: Fault | None = None
        self.calls = 0
        self.poisoned: set[str] = set()
        self.open: list[MemorySource] = []

    def put(self, path: str, text: str) -> None:
        self.one.put(path, text)
        self._tell()

    def remove(self, path: str) -> None:
        self.one.remove(path)
        self._tell()

    def rename(self, old: str, new: str) -> None:
        self.one.rename(old, new)
        self._tell()

    def poison(self, path: str) -> None:
        self.poisoned.add(path)
        self.put(path, "poison")

    def break_(self, fault: Fault) -> None:
        self.fault = fault

    def mend(self) -> None:
        self.fault = None

    def asked(self) -> int:
        return self.calls

    def source(self) -> Source:
        made = MemorySource("place", self.one._documents, _revision=self.one._revision)
        self.open.append(made)
        return _Weathered(made, self)

    def _tell(self) -> None:
        for source in self.open:
            with source._changed:
                for path in list(self.one._hints):
                    source._note(path)
        self.one._hints.clear()


class _Weathered:
    """A source whose place can break."""

    def __init__(self, source: MemorySource, place: MemoryPlace) -> None:
        self._source = source
        self._place = place
        self._closed = threading.Event()
        self.id = source.id

    def _check(self) -> None:
        self._place.calls += 1
        match self._place.fault:
            case "slow":
                self._closed.wait(0.05)
            case None:
                pass
            case fault:
                raise SourceUnavailable(f"the place is {fault}")

    def scan(self) -> Iterator[Listed]:
        self._check()
        for listed in without_pauses(self._source.scan()):
            self._check()
            yield listed

    def hints(self, timeout: float) -> list[Hint]:
        end = time.monotonic() + timeout
        self._check()
        return self._source.hints(max(0.0, end - time.monotonic()))

    def fetch(self, path: str) -> Fetched | Skipped | None:
        self._check()
        if path in self._place.poisoned and path in self._source._documents:
            raise Poison("broken", "nobody can read it")
        return self._source.fetch(path)

    def close(self) -> None:
        self._closed.set()
        self._source.close()


class GitPlace:
    """A repository on this machine, with a working tree."""

    faults: tuple[Fault, ...] = ("down", "garbled")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = Repository(folder / "team" / "handbook")

    def put(self, path: str, text: str) -> None:
        self.repository.put(path, text)

    def put_many(self, documents: Mapping[str, str]) -> None:
        self.repository.put_many(documents)

    def remove(self, path: str) -> None:
        self.repository.remove(path)

    def rename(self, old: str, new: str) -> None:
        self.repository.rename(old, new)

    def poison(self, path: str) -> None:
        self.put(path, "x" * (LIMIT_BYTES + 1))

    def break_(self, fault: Fault) -> None:
        here = self.repository.folder
        self.repository.folder = here.with_name("away")
        here.rename(self.repository.folder)
        if fault == "garbled":
            shutil.copytree(self.repository.folder / ".git", here / ".git")
            (here / ".git" / "refs" / "heads" / "main").write_text("garbage\n")

    def mend(self) -> None:
        here = self.repository.folder.with_name("handbook")
        shutil.rmtree(here, ignore_errors=True)
        self.repository.folder.rename(here)
        self.repository.folder = here

    def source(self) -> Source:
        return self._opened(repository=str(self.folder / "team" / "handbook"))

    def _opened(self, **settings: object) -> Source:
        config = SourceConfig.model_validate({"connector": "git", **settings})
        return open_source("place", config, LIMIT_BYTES, self.folder / "state")


class GitHttpPlace(GitPlace):
    """The same on a server that asks for a password."""

    faults = ("down", "slow", "unauthorised", "garbled")
    poll_seconds = 0.3
    secrets = (Served.PASSWORD,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = Served(folder / "team")

    def break_(self, fault: Fault) -> None:
        self.server.fault = fault

    def mend(self) -> None:
        self.server.fault = None

    def asked(self) -> int:
        return self.server.requests

    def source(self) -> Source:
        return self._opened(
            repository=f"{self.server.url}/handbook/.git",
            username=self.server.USER,
            password=self.server.PASSWORD,
            poll_seconds=self.poll_seconds,
        )

    def close(self) -> None:
        self.server.close()


class S3QueuePlace:
    """A folder of a bucket, with a queue of its notifications."""

    faults: tuple[Fault, ...] = ("down", "slow", "unauthorised", "garbled")
    secrets = (SECRET,)
    prefix = "handbook/ü b/"

    def __init__(self, folder: Path) -> None:
        self.store = object_store()
        self.client = self.store.client()
        self.bucket = self.store.bucket()
        self.queue_url = self.queue()

    def queue(self) -> str:
        return self.store.queue(self.bucket)

    def put(self, path: str, text: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=text.encode())

    def put_many(self, documents: Mapping[str, str]) -> None:
        self.store.put_many(self.bucket, {self.prefix + path: text for path, text in documents.items()})

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def rename(self, old: str, new: str) -> None:
        source = {"Bucket": self.bucket, "Key": self.prefix + old}
        self.client.copy_object(Bucket=self.bucket, Key=self.prefix + new, CopySource=source)
        self.remove(old)

    def poison(self, path: str) -> None:
        self.put(path, "x" * (LIMIT_BYTES + 1))

    def break_(self, fault: Fault) -> None:
        self.store.fault({"unauthorised": "InvalidAccessKeyId"}.get(fault, fault))

    def mend(self) -> None:
        self.store.fault()

    def asked(self) -> int:
        return self.store.requests()

    def source(self) -> Source:
        return open_source("place", SourceConfig.model_validate(self.settings()), LIMIT_BYTES)

    def settings(self) -> dict[str, object]:
        return {
            "connector": "s3",
            "bucket": self.bucket,
            "prefix": self.prefix,
            "endpoint_url": self.store.url,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "queue_url": self.queue_url,
        }

    def close(self) -> None:
        self.store.fault()


class S3Place(S3QueuePlace):
    """A folder of a bucket, listed from time to time."""

    poll_seconds = 0.3

    def queue(self) -> str:
        return ""

    def settings(self) -> dict[str, object]:
        return super().settings() | {"poll_seconds": self.poll_seconds}


class WebPlace:
    """A site whose sitemap says nothing of times: every page is asked for at every poll."""

    faults: tuple[Fault, ...] = ("down", "slow", "unauthorised", "garbled")
    poll_seconds = 0.3
    secrets = (Website.PASSWORD,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = Website()
        self.site.password = True

    def put(self, path: str, text: str) -> None:
        if "%" in path:
            raise NotShown("a percent sign in a URL begins an escape")
        kind = "text/markdown" if path.endswith(".md") else "text/plain"
        self.site.put(f"/{path}", text, type=kind)

    def remove(self, path: str) -> None:
        self.site.remove(f"/{path}")

    def rename(self, old: str, new: str) -> None:
        body = self.site.answers[f"/{old}"].body
        self.put(new, body.decode())
        self.site.redirect(f"/{old}", f"/{new}", listed=False)
        self.site.listed.pop(f"/{old}")

    def poison(self, path: str) -> None:
        self.put(path, "x" * (LIMIT_BYTES + 1))

    def break_(self, fault: Fault) -> None:
        self.site.fault = fault

    def mend(self) -> None:
        self.site.fault = None

    def asked(self) -> int:
        return self.site.requests.total()

    def source(self) -> Source:
        settings = {
            "connector": "web",
            "sitemaps": [f"{self.site.url}/sitemap.xml"],
            "poll_seconds": self.poll_seconds,
            "recheck_seconds": 0,
            "grace_seconds": 0,
            "pages_per_second": 1000,
            "username": self.site.USER,
            "password": self.site.PASSWORD,
        }
        return open_source("place", SourceConfig.model_validate(settings), LIMIT_BYTES, self.folder / "state")

    def close(self) -> None:
        self.site.close()


class _Pushed(HttpSource):
    """What lists and fetches cannot be shown of it."""

    def scan(self) -> Iterator[Listed]:
        raise NotShown(_PUSHED)

    def fetch(self, path: str) -> Fetched | Skipped | None:
        raise NotShown(_PUSHED)

    def hints(self, timeout: float) -> list[Hint]:
        raise NotShown(_PUSHED)


_PUSHED = "documents are pushed to it: it lists, fetches and hints nothing"


class HttpPlace:
    """A sender that keeps what nobody has taken, and the push APIs that it knows."""

    secrets = ("a token that is never shown",)

    def __init__(self, folder: Path) -> None:
        self.tokens = folder / "tokens.toml"
        digest = hashlib.sha256(self.secrets[0].encode()).hexdigest()
        self.tokens.write_text(f'[tokens.sender]\nsha256 = "{digest}"\nscopes = ["write", "delete"]\n')
        self.sources: list[_Pushed] = []
        self.texts: dict[str, str] = {}
        self.changed = threading.Condition()
        self.outbox: dict[str, dict[str, Any]] = {}
        self.revision = 0
        self.closed = False
        for name in ("httpx", "httpcore"):  # the sender's own
            logging.getLogger(name).setLevel(logging.WARNING)
        self.sender = threading.Thread(target=self._run, daemon=True)
        self.sender.start()

    def put(self, path: str, text: str) -> None:
        self._keep({path: text})

    def put_many(self, documents: Mapping[str, str]) -> None:
        self._keep(documents)

    def remove(self, path: str) -> None:
        self._keep({path: None})

    def rename(self, old: str, new: str) -> None:
        self._keep({old: None, new: self.texts[old]})

    def poison(self, path: str) -> None:
        raise NotShown("what cannot be read is refused, and its sender is told")

    def delivered(self) -> bool:
        with self.changed:
            return not self.outbox

    def source(self) -> Source:
        self.sources.append(_Pushed("place", HttpSettings(port=0, tokens_file=self.tokens), LIMIT_BYTES))
        return self.sources[-1]

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.sender.join(60)

    def _keep(self, documents: Mapping[str, str | None]) -> None:
        with self.changed:
            for path, text in documents.items():
                self.revision += 1
                said = {"op": "delete"} if text is None else {"op": "put", "text": text}
                self.outbox.pop(path, None)
                self.outbox[path] = {**said, "key": path, "revision": self.revision}
                if text is None:
                    self.texts.pop(path, None)
                else:
                    self.texts[path] = text
            self.changed.notify()

    def _run(self) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {self.secrets[0]}"}, timeout=60) as client:
            while True:
                with self.changed:
                    while not self.outbox and not self.closed:
                        self.changed.wait()
                    if self.closed:
                        return
                    # Few in a request, so that there are several transactions to be killed at.
                    operations = list(self.outbox.values())[: 3 if len(self.outbox) < 50 else 200]
                # Whoever was taken over learns it by a request: it is asked first, as behind a balancer.
                if not any(self._sent(client, one, operations) for one in list(self.sources)):
                    time.sleep(0.02)

    def _sent(self, client: httpx.Client, source: _Pushed, operations: list[dict[str, Any]]) -> bool:
        if not source.port:
            return False
        try:
            answer = client.post(f"http://127.0.0.1:{source.port}/batches", json={"operations": operations})
        except httpx.HTTPError:
            return False
        if answer.status_code != 200:
            return False
        assert not answer.json()["refused"], answer.text
        with self.changed:
            for one in operations:
                if self.outbox.get(one["key"]) is one:
                    del self.outbox[one["key"]]
        return True


PLACES: dict[str, Callable[[Path], Place]] = {
    "filesystem": FolderPlace,
    "memory": MemoryPlace,
    "git": GitPlace,
    "git-http": GitHttpPlace,
    "http": HttpPlace,
    "kafka": KafkaPlace,
    "postgres": PostgresPlace,
    "s3": S3Place,
    "s3-queue": S3QueuePlace,
    "web": WebPlace,
}
