"""What the documents are and were, by the writer's own record, and who changes them.

Every paragraph begins with a *marker*, three words that no other paragraph has: a search for them
finds it and nothing else, and a text that answers says by its markers how old it is.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.embedding.hashing import _hashed
from pipeline.identity import DocumentKey

Poisoned = Literal["", "embed", "chunk"]

SOURCE = "docs"
GROUPS = 6
LEVELS = 4
#: A word that the test's model makes no vector of, and one that the chunker fails on (shim/sitecustomize.py).
POISON: dict[Poisoned, str] = {"embed": "poisonembed", "chunk": "poisonchunk"}
MARKER = re.compile(r"\bmk(\d+)a\b")

#: Of the vectors, before and after a migration to fewer.
DIMENSIONS = (256, 128)
_WORDS = 600
_FOLDERS = 6
#: Versions of a document that may be on their way at once.
_VERSIONS = 8
#: Ended texts and permissions that the searcher asks for again.
_ENDED = 400
_KINDS = {"edit": 46, "permit": 16, "create": 10, "delete": 10, "rename": 12, "poison": 2, "cure": 2, "move": 2}


def asked(marker: int) -> str:
    """The question whose answer is the paragraph with this marker."""
    return f"mk{marker}a mk{marker}b mk{marker}c"


def findable(marker: int, words: str) -> bool:
    """False where the words of the marker meet in one place of a vector, and cancel each other out."""
    for dimension in DIMENSIONS:
        places = [_hashed(word, dimension)[0] for word in asked(marker).split()]
        others = [_hashed(word, dimension)[0] for word in words.split()]
        if len({*places}) < len(places) or {*places} & {*others}:
            return False
    return True


@dataclass(frozen=True)
class Document:
    """One document as it is on disk."""

    title: str
    group: str
    level: int
    paragraphs: tuple[tuple[int, str], ...]
    """Marker and words."""
    poison: Poisoned = ""

    @property
    def text(self) -> str:
        """The file."""
        parts = [f"---\ngroup: {self.group}\nlevel: {self.level}\n---", f"# {self.title}"]
        parts += [f"{asked(marker)} {words} {asked(marker)}." for marker, words in self.paragraphs]
        return "\n\n".join(parts) + "\n"

    @property
    def metadata(self) -> dict[str, str | int]:
        """What it says about itself."""
        return {"group": self.group, "level": self.level, "title": self.title}

    @property
    def markers(self) -> set[int]:
        """Of its paragraphs."""
        return {marker for marker, _ in self.paragraphs}


@dataclass
class Span:
    """From when until when something was so, as monotonic seconds; ``inf`` is not yet."""

    since: float = float("inf")
    until: float = float("inf")
    why: str = ""
    """What ended it."""


@dataclass
class Change:
    """One change whose way into the searches is timed."""

    path: str
    marker: int
    at: float
    gone: bool
    """True: the marker must vanish under this path; False: it must appear."""


@dataclass
class Truth:
    """Safe for several threads."""

    documents: dict[str, Document] = field(default_factory=dict)
    texts: dict[tuple[str, int], Span] = field(default_factory=dict)
    """By path and marker."""
    groups: dict[tuple[str, str], Span] = field(default_factory=dict)
    """By path and group."""
    versions: dict[str, deque[Document]] = field(default_factory=dict)
    """The last few of each path."""
    planted: dict[str, Poisoned] = field(default_factory=dict)
    """Every path that ever was poison."""
    ended: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=_ENDED))
    revoked: deque[tuple[str, str, int]] = field(default_factory=lambda: deque(maxlen=_ENDED))
    changes: deque[Change] = field(default_factory=deque)
    """Until somebody times or counts them."""
    operations: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def becoming(self, path: str, document: Document) -> None:
        """It may be read from now on."""
        with self.lock:
            for marker in document.markers:
                span = self.texts.setdefault((path, marker), Span())
                if span.until < float("inf"):
                    self.texts[path, marker] = Span()
            span = self.groups.setdefault((path, document.group), Span())
            if span.until < float("inf"):
                self.groups[path, document.group] = Span()

    def is_now(self, path: str, document: Document | None, why: str) -> None:
        """What is on disk under a path from now on; None: nothing."""
        now = time.monotonic()
        with self.lock:
            before = self.documents.pop(path, None)
            new = set() if document is None else document.markers
            for marker in () if before is None else before.markers - new:
                span = self.texts[path, marker]
                span.until, span.why = now, why
                self.ended.append((path, marker))
            if before is not None and (document is None or document.group != before.group):
                span = self.groups[path, before.group]
                span.until, span.why = now, why
                if document is not None:
                    self.revoked.append((path, before.group, next(iter(document.markers))))
            if document is not None:
                self.documents[path] = document
                self.versions.setdefault(path, deque(maxlen=_VERSIONS)).append(document)
                for marker in new:
                    span = self.texts[path, marker]
                    span.since = min(span.since, now)
                span = self.groups[path, document.group]
                span.since = min(span.since, now)
            old = set() if before is None else before.markers
            if document is not None and not document.poison and new - old:
                self.changes.append(Change(path, min(new - old), now, gone=False))
            elif old - new and not (before and before.poison):
                self.changes.append(Change(path, min(old - new), now, gone=True))

    def snapshot(self) -> dict[str, Document]:
        """All documents now."""
        with self.lock:
            return dict(self.documents)


class Writer:
    """Changes one document after the other, in a real folder.

    Args:
        folder: of the source.
        truth: told before and after each change.
        rng: decides everything.
        documents: how many there are, about.
    """

    def __init__(self, folder: Path, truth: Truth, rng: random.Random, documents: int) -> None:
        self._folder = folder
        self._spare = folder.parent / "spare"
        self._spare.mkdir()
        self._truth = truth
        self._rng = rng
        self._wanted = documents
        self._markers = 0
        self._poisons = 0

    def fill(self) -> None:
        """The first documents, one of each poison among them."""
        for _ in range(self._wanted):
            self._write(self._free(), self._made(), "create")
        for kind in POISON:
            self._poison(kind)

    def change(self) -> None:
        """One change of some kind."""
        rng, truth = self._rng, self._truth
        kind = rng.choices(list(_KINDS), weights=list(_KINDS.values()))[0]
        count = len(truth.documents)
        if kind == "create" and count > 1.2 * self._wanted:
            kind = "delete"
        elif kind in ("delete", "rename") and count < 0.8 * self._wanted:
            kind = "create"
        healthy = sorted(path for path, document in truth.documents.items() if not document.poison)
        ill = sorted(path for path, document in truth.documents.items() if document.poison)
        match kind:
            case "edit" | "permit" | "rename":
                getattr(self, f"_{kind}")(rng.choice(healthy))
            case "delete":
                self._delete(rng.choice(healthy))
            case "create":
                self._write(self._free(), self._made(), "create")
            case "poison" if len(ill) < 8:
                self._poison(rng.choice(list(POISON)))
            case "cure" if ill:
                path = rng.choice(ill)
                if rng.random() < 0.5:
                    self._write(path, self._made(), "cure")
                else:
                    self._delete(path)
            case "move":
                self._move()
            case _:
                self._edit(rng.choice(healthy))

    # ---------------------------------------------------------------------- the changes

    def _edit(self, path: str) -> None:
        """One paragraph or two: new, taken out, or put elsewhere."""
        rng, old = self._rng, self._truth.documents[path]
        parts = list(old.paragraphs)
        for _ in range(rng.randint(1, 2)):
            what = rng.random()
            if what < 0.6 or len(parts) == 1:
                parts[rng.randrange(len(parts))] = self._paragraph()
            elif what < 0.75 and len(parts) < 8:
                parts.insert(rng.randrange(len(parts) + 1), self._paragraph())
            elif what < 0.9:
                parts.pop(rng.randrange(len(parts)))
            else:
                rng.shuffle(parts)
        self._write(path, replace(old, paragraphs=tuple(parts)), "edit")

    def _permit(self, path: str) -> None:
        """The same text, for another group."""
        old = self._truth.documents[path]
        others = [f"g{number}" for number in range(GROUPS) if f"g{number}" != old.group]
        new = replace(old, group=self._rng.choice(others), level=self._rng.randrange(LEVELS))
        self._write(path, new, "permit")

    def _rename(self, path: str) -> None:
        """To a free name mostly, else over another document."""
        rng, truth = self._rng, self._truth
        taken = sorted(other for other, document in truth.documents.items() if not document.poison and other != path)
        other = rng.choice(taken) if rng.random() < 0.15 else self._free()
        document = truth.documents[path]
        truth.becoming(other, document)
        target = self._folder / other
        target.parent.mkdir(exist_ok=True)
        (self._folder / path).rename(target)
        truth.is_now(other, document, "renamed over")
        truth.is_now(path, None, "rename")
        truth.operations["rename"] += 1

    def _delete(self, path: str) -> None:
        (self._folder / path).unlink()
        self._truth.is_now(path, None, "delete")
        self._truth.operations["delete"] += 1

    def _poison(self, kind: Poisoned) -> None:
        self._poisons += 1
        document = self._made()
        marker, words = document.paragraphs[-1]
        bad = (*document.paragraphs[:-1], (marker, f"{words} {POISON[kind]}"))
        path = f"poison-{self._poisons}.md"
        with self._truth.lock:
            self._truth.planted[path] = kind
        self._write(path, replace(document, paragraphs=bad, poison=kind), "poison")

    def _move(self) -> None:
        """A whole folder gets another name, with all that is in it."""
        rng, truth = self._rng, self._truth
        folders = sorted({path.split("/")[0] for path in truth.documents if "/" in path})
        free = [f"f{number}" for number in range(_FOLDERS) if not (self._folder / f"f{number}").exists()]
        if not folders or not free:
            return
        old, new = rng.choice(folders), rng.choice(free)
        inside = {path: one for path, one in truth.documents.items() if path.startswith(old + "/")}
        for path, document in inside.items():
            truth.becoming(new + path[len(old) :], document)
        (self._folder / old).rename(self._folder / new)
        for path, document in inside.items():
            truth.is_now(new + path[len(old) :], document, "move")
            truth.is_now(path, None, "move")
        truth.operations["move"] += 1

    def _write(self, path: str, document: Document, kind: str) -> None:
        self._truth.becoming(path, document)
        target = self._folder / path
        target.parent.mkdir(exist_ok=True)
        if self._rng.random() < 0.3:
            target.write_text(document.text)  # in place: a reader can find half of it
        else:
            whole = self._spare / "new"
            whole.write_text(document.text)
            os.replace(whole, target)
        self._truth.is_now(path, document, kind)
        self._truth.operations[kind] += 1

    # ------------------------------------------------------------------------- the parts

    def _made(self) -> Document:
        rng = self._rng
        parts = [self._paragraph() for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.1 and self._truth.documents:
            # A paragraph of another document: its vector is there already.
            parts[0] = rng.choice(list(self._others())).paragraphs[0]
        return Document(
            f"Title {rng.randrange(_WORDS)}", f"g{rng.randrange(GROUPS)}", rng.randrange(LEVELS), tuple(parts)
        )

    def _others(self) -> Iterator[Document]:
        return (document for _, document in sorted(self._truth.documents.items()) if not document.poison)

    def _paragraph(self) -> tuple[int, str]:
        while True:
            self._markers += 1
            words = " ".join(f"word{self._rng.randrange(_WORDS)}" for _ in range(self._rng.randint(8, 20)))
            if findable(self._markers, words):
                return self._markers, words

    def _free(self) -> str:
        """From a bounded set: the head of a deleted document stays, so ever new names would be growth."""
        while True:
            name = f"d{self._rng.randrange(2 * self._wanted):04}.md"
            if self._rng.random() < 0.4:
                name = f"f{self._rng.randrange(_FOLDERS // 2)}/{name}"
            if name not in self._truth.documents:
                return name


def on_disk(folder: Path) -> dict[str, str]:
    """Path to text of every file, to hold the record against."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def key_of(path: str) -> DocumentKey:
    """Its key."""
    return DocumentKey(SOURCE, path)


def removed(folder: Path) -> None:
    """Take a run's folder away."""
    shutil.rmtree(folder, ignore_errors=True)
