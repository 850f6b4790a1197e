"""What hinders a real vectide process, by variables that only this file knows. Never in the product.

``VECTIDE_TEST_IMPORT``  a file: it is made when the command's own module is about to be imported, which then hangs
``VECTIDE_TEST_LOAD``    a file: it is made when the model is about to be loaded, which then hangs
``VECTIDE_TEST_PASS``    seconds that each forward pass of documents takes longer
``VECTIDE_TEST_QUERY``   a file: while it is there, no query is embedded; what was asked is written there
``VECTIDE_TEST_CUT``     a file: while it is there, not more than the first hundred documents are cut
``VECTIDE_TEST_COMMIT``  a file: while it is there, a commit of offsets does not come back
``VECTIDE_TEST_BEATS``   seconds without a beat after which a loop is stuck
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import sys
import time
from importlib.abc import MetaPathFinder

NAMED = {
    name.removeprefix("VECTIDE_TEST_").lower(): value
    for name, value in os.environ.items()
    if name.startswith("VECTIDE_TEST_")
}


class _Hanging(MetaPathFinder):
    """An import that takes for ever."""

    def find_spec(self, name, path, target=None):
        if name in ("pipeline.cli.up", "pipeline.cli.work", "pipeline.cli.connect", "pipeline.cli.serve"):
            _hang(NAMED["import"])


def _hang(path: str) -> None:
    pathlib.Path(path).touch()
    time.sleep(600)


def _wait(name: str) -> None:
    while pathlib.Path(NAMED[name]).exists():
        time.sleep(0.05)


def _models() -> None:
    from pipeline.embedding import generation
    from pipeline.embedding.hashing import HashingEmbedder

    init, passed, asked = HashingEmbedder.__init__, HashingEmbedder.embed_documents, HashingEmbedder.embed_query
    cut = generation.chunk

    def loaded(self, *of):
        if "load" in NAMED:
            _hang(NAMED["load"])
        init(self, *of)

    def slowly(self, texts):
        time.sleep(float(NAMED.get("pass", 0)))
        return passed(self, texts)

    def asked_slowly(self, text):
        if "query" in NAMED:
            with contextlib.suppress(FileNotFoundError), open(NAMED["query"], "r+") as file:
                file.write(text)
            _wait("query")
        return asked(self, text)

    def cut_slowly(*of):
        # More than one batch: the first is sent on meanwhile.
        if "cut" in NAMED and next(begun) >= 100:
            _wait("cut")
        return cut(*of)

    begun = itertools.count()
    HashingEmbedder.__init__, HashingEmbedder.embed_documents = loaded, slowly
    HashingEmbedder.embed_query, generation.chunk = asked_slowly, cut_slowly


def _commits() -> None:
    from pipeline.broker.embedded import _EmbeddedConsumer
    from pipeline.broker.kafka_consumer import KafkaGroupConsumer

    def hindered(commit):
        def hanging(self, offsets, deadline):
            _wait("commit")
            commit(self, offsets, deadline)

        return hanging

    for consumer in (_EmbeddedConsumer, KafkaGroupConsumer):
        consumer.commit = hindered(consumer.commit)


def _beats() -> None:
    from pipeline.observe.health import Health

    Health.__init__.__defaults__ = (float(NAMED["beats"]), *Health.__init__.__defaults__[1:])


if "import" in NAMED:
    sys.meta_path.insert(0, _Hanging())
if NAMED.keys() & {"load", "pass", "query", "cut"}:
    _models()
if "commit" in NAMED:
    _commits()
if "beats" in NAMED:
    _beats()
