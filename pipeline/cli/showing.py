"""The parts of ``vectide demo``: sync, questions, live edits, a restart, a migration."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from pipeline.cli.assembly import opened
from pipeline.cli.corpus import write_corpus
from pipeline.cli.given import folder_sources
from pipeline.cli.index import Index
from pipeline.cli.migrate import gate_lines
from pipeline.cli.options import configuration
from pipeline.cli.progress import FirstSync
from pipeline.cli.search import described
from pipeline.cli.tasks import raised
from pipeline.config import Config
from pipeline.errors import Fatal, Transient
from pipeline.identity import DocumentKey
from pipeline.points import Head
from pipeline.ports import Embedder

_QUESTIONS: Final = (
    "How do I run tests on several cores at once?",
    "How can tests find edge cases by generating their own inputs?",
    "How do I watch a folder for changed files?",
)
_SENTENCE: Final = "The lighthouse keeper of Skerryvore records the tide in a blue notebook every morning."
_BURST: Final = 20
#: Whose words are not those of the answer: what a static model is bad at.
_HARD: Final = "split my test suite over all processors"
_KNOWN_ITEMS: Final = 100
#: Nothing in the demo takes longer, on two busy cores.
_WAIT_SECONDS: Final = 60.0


class Demo:
    """Everything, in a folder that holds nothing else, with every figure said on the console."""

    def __init__(self, folder: Path, stop: threading.Event, console: Console) -> None:
        self._documents = folder / "documents"
        self._config: Config = configuration(None, folder / "state")
        self._stop = stop
        self._console = console

    def run(self) -> None:
        """All parts, one after the other.

        Raises:
            Fatal: vectide did not do what it promises.
        """
        self._title("Documents")
        written = write_corpus(self._documents)
        size = sum(path.stat().st_size for path in self._documents.rglob("*") if path.is_file())
        self._say(
            f"{written} documents, {size / 1e6:.1f} MB: descriptions of installed packages and vectide's own docs"
        )
        started = time.monotonic()
        with self._index(None) as index:
            embedder = index.embedder
            self._say(f"model {index.spec.model.name}, {index.spec.model.dimension} dimensions, loaded")
            self._first_sync(index, started)
            self._questions(index)
            self._live(index)
        self._restart(embedder)
        self._migration(embedder)
        self._title("Yours")
        self._say("vectide up FOLDER                 keeps an index of your own folder live")
        self._say('vectide search "your question"    asks it, from another terminal')
        self._say("vectide migrate run --model X      changes the model, live")

    @contextmanager
    def _index(self, embedder: Embedder | None, config: Config | None = None) -> Iterator[Index]:
        ending = threading.Event()
        with opened(config or self._config, "demo") as parts:
            index = Index(parts, folder_sources((self._documents,)), ending, embedder)
            index.start()
            try:
                yield index
            finally:
                index.close()
            index.crew.raise_failure()

    # -------------------------------------------------------------------------- the parts

    def _first_sync(self, index: Index, started: float) -> None:
        self._title("First sync")
        seconds = FirstSync(index, sys.stdout).show(closing=False)
        totals = index.parts.metrics.totals()
        chunks, tokens = totals["chunks_embedded"], totals["tokens_embedded"]
        documents = sum(count for state, count in index.collection.count_heads().items() if state != "deleted")
        self._say(
            f"{documents} documents, {index.collection.count_chunks()} chunks, {tokens:.0f} tokens embedded "
            f"in {seconds:.1f} s: {chunks / seconds:.0f} chunks/s"
        )
        self._say(f"{chunks:.0f} embedded, {totals['chunks_reused']:.0f} reused (the same text twice is embedded once)")
        self._say(f"{time.monotonic() - started:.1f} s with loading the model")

    def _questions(self, index: Index) -> None:
        self._title("Three searches")
        for question in _QUESTIONS:
            answer = index.search.search(question, 2, by_document=True)
            self._console.print(f"[bold]{question}[/bold]  ({answer.seconds * 1000:.0f} ms)")
            for hit in answer.hits:
                click.echo("  " + described(hit.as_json()).replace("\n", "\n  "))

    def _live(self, index: Index) -> None:
        self._title("Live: from the change to searchable")
        files = sorted(self._documents.rglob("*.md"), key=lambda path: path.stat().st_size)
        edited, renamed, deleted = files[-1], files[-2], files[-3]
        self._edit(index, edited)
        moved = renamed.with_name("renamed-" + renamed.name)
        self._rename(index, renamed, moved)
        self._delete(index, deleted)
        self._burst(index, [path for path in files if path.exists() and path not in (edited, moved)][-_BURST:])

    def _edit(self, index: Index, path: Path) -> None:
        lines = path.read_text().split("\n\n")
        # A section of its own in the middle: inside of a table or of code it would be one of many words.
        sections = [
            place
            for place, part in enumerate(lines)
            if part.startswith("#") and "\n\n".join(lines[:place]).count("```") % 2 == 0
        ]
        at = sections[len(sections) // 2] if sections else len(lines)
        lines.insert(at, f"## The lighthouse\n\n{_SENTENCE}")
        before = self._head(index, path)

        def change() -> None:
            path.write_text("\n\n".join(lines))

        self._measure(index, f"one sentence added to {path.name}", change, lambda: self._newer(index, path, before))
        # A short section shares its chunk with the next one, whatever that is about.
        hits = index.search.search("a lighthouse keeper who records the tide in a blue notebook", 3).hits
        found = next((hit for hit in hits if _SENTENCE in " ".join(hit.text.split())), None)
        if found is None:
            raise Fatal("the new sentence is in step but was not found", "this is a bug of vectide: please report it")
        self._say(f"  found: {found.score:.3f} {found.key}")

    def _rename(self, index: Index, old: Path, new: Path) -> None:
        self._measure(
            index,
            f"{old.name} renamed",
            lambda: old.rename(new),
            lambda: self._gone(index, old) and self._head(index, new) is not None,
        )

    def _delete(self, index: Index, path: Path) -> None:
        self._measure(index, f"{path.name} deleted", path.unlink, lambda: self._gone(index, path))

    def _burst(self, index: Index, paths: list[Path]) -> None:
        before = {path: self._head(index, path) for path in paths}

        def change() -> None:
            for number, path in enumerate(paths):
                path.write_text(path.read_text() + f"\n\nEdit number {number} of a burst.\n")

        self._measure(
            index,
            f"a burst of {len(paths)} edits, the last one",
            change,
            lambda: all(self._newer(index, path, head) for path, head in before.items()),
        )

    def _restart(self, embedder: Embedder) -> None:
        self._title("The same sync after a restart")
        started = time.monotonic()
        with self._index(embedder) as index:
            FirstSync(index, sys.stdout).show(closing=False)
            totals = index.parts.metrics.totals()
            published, embedded = totals["documents_published"], totals["chunks_embedded"]
            self._say(
                f"{time.monotonic() - started:.1f} s: {published:.0f} changes found, {embedded:.0f} chunks embedded"
            )
            if published or embedded:
                raise Fatal("a restart did work again", "this is a bug of vectide: please report it")

    def _migration(self, embedder: Embedder) -> None:
        """From a static model, which is fast and coarse, to the one above, while the documents change."""
        self._title("A new model, live")
        with self._index(embedder, self._static) as index:
            FirstSync(index, sys.stdout).show(closing=False)
            self._say(
                f"an index of the same documents by {index.spec.model.name}, {index.spec.model.dimension} dimensions"
            )
            self._question(index)
            ask = index.operations.migrate
            target = ask({"action": "start", "model": self._config.model.name})["generation"]
            self._say(f"migration to {target['model']} started; one file is edited and one deleted meanwhile")
            started = time.monotonic()
            files = sorted(self._documents.rglob("*.md"), key=lambda path: path.stat().st_size)
            edited, deleted = files[-1], files[-4]
            before = self._head(index, edited)
            self._measure(
                index,
                "an edit during it, in the live index",
                lambda: edited.write_text(edited.read_text() + "\n\nAn edit during the migration.\n"),
                lambda: self._newer(index, edited, before),
            )
            deleted.unlink()
            self._built(index, target["id"])
            self._say(f"built beside the live index in {time.monotonic() - started:.1f} s")
            examined = self._gate(index)
            self._switch(index, "cutover", {"generation": target["id"], "examined": examined})
            self._question(index)
            self._switch(index, "rollback", {"reason": "to show it"})
            examined = self._gate(index, quiet=True)
            self._switch(index, "cutover", {"generation": target["id"], "examined": examined})

    @property
    def _static(self) -> Config:
        return configuration(
            None,
            self._config.state.parent / "static",
            model__provider="wordllama",
            model__name="wordllama",
            migrate__known_items=_KNOWN_ITEMS,
        )

    def _question(self, index: Index) -> None:
        answer = index.search.search(_HARD, 1, by_document=True)
        self._console.print(f"[bold]{_HARD}[/bold]  ({answer.model}, {answer.seconds * 1000:.0f} ms)")
        for hit in answer.hits:
            click.echo("  " + described(hit.as_json()).replace("\n", "\n  "))

    def _built(self, index: Index, id: str) -> None:
        until = time.monotonic() + 2 * _WAIT_SECONDS
        last = ""
        while True:
            found = index.operations.migrate({"action": "status"})["generations"]
            one = next(each for each in found if each["id"] == id)
            if one["documents"] >= one["documents_in_live"] and one["lag"] == 0:
                return
            said = f"  {one['documents']} of {one['documents_in_live']} documents"
            if sys.stdout.isatty() and said != last:
                click.echo(f"\r{said}", nl=False)
                last = said
            if time.monotonic() > until:
                raise Transient(f"the migration stands at{said}")
            if index.crew.wait(1.0) or self._stop.is_set():
                raise KeyboardInterrupt

    def _gate(self, index: Index, *, quiet: bool = False) -> int:
        ask = index.operations.migrate
        task = ask({"action": "gate"})
        while (task := ask({"action": "task", "id": task["id"]}))["running"]:
            if index.crew.wait(0.05) or self._stop.is_set():
                raise KeyboardInterrupt
        found = raised(task)
        for line in [] if quiet else gate_lines(found):
            self._say(line)
        if not found["ok"]:
            raise Fatal(f"the gate refused: {found['why']}", "this is a bug of vectide: please report it")
        return int(found["examined"])

    def _switch(self, index: Index, action: str, arguments: dict[str, object]) -> None:
        """How long until a search answers from the other generation."""
        before = index.search.search(_HARD, 1).generation
        started = time.monotonic()
        index.operations.migrate({"action": action, **arguments})
        while index.search.search(_HARD, 1).generation == before:
            if time.monotonic() - started > _WAIT_SECONDS:
                raise Transient(f"{action}: searches did not follow in {_WAIT_SECONDS:.0f} s")
            if index.crew.wait(0.002) or self._stop.is_set():
                raise KeyboardInterrupt
        self._say(f"{action}: {(time.monotonic() - started) * 1000:.0f} ms until searches are in the other index")

    # ------------------------------------------------------------------------- measuring

    def _measure(self, index: Index, what: str, change: Callable[[], object], done: Callable[[], bool]) -> None:
        before = self._effects(index)
        started = time.monotonic()
        change()
        while not done():
            if time.monotonic() - started > _WAIT_SECONDS:
                raise Transient(f"{what}: not in step after {_WAIT_SECONDS:.0f} s")
            if index.crew.wait(0.001) or self._stop.is_set():
                raise KeyboardInterrupt
        seconds = time.monotonic() - started
        # Counters follow the effect by a moment.
        time.sleep(0.05)
        embedded, reused = (now - then for now, then in zip(self._effects(index), before, strict=True))
        self._say(f"{what}: {seconds * 1000:.0f} ms, {embedded:.0f} chunks embedded, {reused:.0f} reused")

    def _effects(self, index: Index) -> tuple[float, float]:
        totals = index.parts.metrics.totals()
        return totals["chunks_embedded"], totals["chunks_reused"]

    def _head(self, index: Index, path: Path) -> Head | None:
        key = DocumentKey(self._documents.name, path.relative_to(self._documents).as_posix())
        return index.collection.heads([key.doc]).get(key.doc)

    def _newer(self, index: Index, path: Path, before: Head | None) -> bool:
        head = self._head(index, path)
        return head is not None and (before is None or head.stamp > before.stamp)

    def _gone(self, index: Index, path: Path) -> bool:
        head = self._head(index, path)
        return head is not None and head.state == "deleted"

    # --------------------------------------------------------------------------- talking

    def _title(self, text: str) -> None:
        self._console.print(f"\n[bold cyan]{text}[/bold cyan]")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
