"""What edits cost: tokens embedded against the least possible, through the chunker and the store protocol.

    python -m tests.bench.edits --seed 1 --json edits.json

A seeded script over real documents, edits of unbroken text, and a repository's history replayed
commit by commit. Vectors come from the hashing embedder; tokens and limits are MiniLM's.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.chunking.documents import chunked
from pipeline.config import ChunkingConfig, Config, ModelConfig
from pipeline.embedding.batches import embed_all
from pipeline.embedding.generation import chunker, generation_spec
from pipeline.embedding.loading import load
from pipeline.embedding.models import tokenizer_of
from pipeline.identity import DocumentKey
from pipeline.points import Vectors
from pipeline.ports import CollectionSpec
from pipeline.records import ChunkedDocument, DocumentChanged, DocumentDeleted, Provenance
from pipeline.store.memory import MemoryStore
from pipeline.sync import ToEmbed, sweep_deleted, synchronise
from tests.bench.corpus import Text, descriptions, unbroken

_PROVENANCE = Provenance(0.0)
_MEDIA_TYPES = {".md": "text/markdown", ".py": "text/x-python", ".rst": "text/x-rst"}


@dataclass(slots=True)
class Tally:
    """Sums over the edits of one kind."""

    edits: int = 0
    tokens: int = 0
    chunks: int = 0
    least: int = 0
    """Tokens that no way of cutting could have saved."""
    document_tokens: int = 0
    """What embedding each edited document anew would have cost."""
    document_chunks: int = 0
    worst_percent: float = 0.0
    """Of its document's chunks, the largest part that one edit embedded."""


class Index:
    """One generation in memory; counts what the model is asked to embed."""

    def __init__(self, chunking: ChunkingConfig) -> None:
        config = Config(chunking=chunking)
        self.spec = generation_spec(config)
        self.tokenizer = tokenizer_of(config.model)
        self._chunk = chunker(self.spec, self.tokenizer)
        self._embedder = load(ModelConfig(provider="hashing", name="hashing"))
        model = self._embedder.spec
        self._collection = MemoryStore().create(
            CollectionSpec(
                self.spec.id,
                self.spec.id,
                model.dimension,
                model.distance,
                model.fingerprint,
                self.spec.chunking.fingerprint,
            )
        )
        self._version = 0
        self._tokens = self._chunks = 0

    def put(self, *documents: tuple[str, str, str], metadata: Mapping[str, str] | None = None) -> list[ChunkedDocument]:
        """Bring documents (path, text, media type) up to date."""
        return [
            self._sync(
                DocumentChanged(_key(path), text, dict(metadata or {}), media_type, str(hash(text)), _PROVENANCE)
            )
            for path, text, media_type in documents
        ]

    def delete(self, path: str, *, sweep: bool = True) -> None:
        document = self._sync(DocumentDeleted(_key(path), _PROVENANCE))
        if sweep:
            sweep_deleted(self._collection, [document.key.doc])

    def replay(self, documents: Sequence[ChunkedDocument]) -> None:
        """The same records once more."""
        for document in documents:
            synchronise(self._collection, [document], self._embed)

    def spent(self) -> tuple[int, int]:
        """Tokens and chunks embedded since the last call."""
        spent = self._tokens, self._chunks
        self._tokens = self._chunks = 0
        return spent

    def _sync(self, event: DocumentChanged | DocumentDeleted) -> ChunkedDocument:
        self._version += 1
        document = chunked(event, self._version, self.spec.id, self._chunk)
        synchronise(self._collection, [document], self._embed)
        return document

    def _embed(self, items: Sequence[ToEmbed]) -> tuple[dict[str, Vectors], dict[str, str]]:
        self._tokens += sum(item.tokens for item in items)
        self._chunks += len(items)
        return embed_all(self._embedder, items, 1 << 20, 1 << 10)


def scripted(index: Index, texts: Sequence[Text], edits: int, rng: random.Random) -> dict[str, Tally]:
    """A seeded script: each kind of edit on random documents."""
    state = {text.name: text for text in texts}
    current = {text.name: index.put((text.name, text.text, text.media_type))[0] for text in texts}
    index.spent()
    tallies: dict[str, Tally] = {}

    def edit(kind: str, change: Callable[[str], str], least: Callable[[ChunkedDocument, str, str], int]) -> None:
        name = rng.choice(sorted(state))
        before = state[name]
        text = change(before.text)
        state[name] = Text(name, text, before.media_type)
        current[name] = index.put((name, text, before.media_type))[0]
        _add(tallies, kind, index, current[name], least(current[name], before.text, text))

    for _ in range(edits):
        edit("one word", lambda text: _one_word(text, rng), _holding_chunk)
        edit("one word back", lambda text: _one_word(text, rng), _holding_chunk)
        added = _paragraph(texts, rng)
        edit("insert at the top", lambda text, added=added: f"{added}\n\n{text}", lambda *_: _count(index, added))
        added = _paragraph(texts, rng)
        edit("insert inside", lambda text, added=added: _inserted(text, added, rng), lambda *_: _count(index, added))
        edit("shrink", lambda text: _shrunk(text, rng), lambda *_: 0)
        name = rng.choice(sorted(state))
        index.replay([current[name]])
        _add(tallies, "replay", index, current[name], 0)
        index.put((name, state[name].text, state[name].media_type), metadata={"owner": str(rng.random())})
        _add(tallies, "metadata only", index, current[name], 0)
        moved = f"{name}-{rng.randrange(10**9)}"
        text = state.pop(name)
        state[moved] = Text(moved, text.text, text.media_type)
        del current[name]
        current[moved] = index.put((moved, text.text, text.media_type))[0]
        index.delete(name)
        _add(tallies, "rename", index, current[moved], 0)
    for name in sorted(state)[: len(state) // 4]:
        index.delete(name)
        _add(tallies, "delete", index, current[name], 0)
    return tallies


def unbroken_edits(index: Index, texts: list[Text], edits: int, rng: random.Random) -> dict[str, Tally]:
    """Edits of a few characters in documents of one line."""
    tallies: dict[str, Tally] = {}
    for kind, characters in (("words", 30_000), ("letters", 150_000), ("cjk", 6_000)):
        name = f"unbroken {kind}"
        text = unbroken(texts, kind, characters, rng)
        index.put((name, text, "text/plain"))
        index.spent()
        for _ in range(edits):
            at, size = rng.randrange(len(text)), rng.randrange(1, 9)
            added = unbroken(texts, kind, 200, rng)[: rng.randrange(9)]
            text = text[:at] + added + text[at + rng.choice((0, size)) :]
            (document,) = index.put((name, text, "text/plain"))
            _add(tallies, name, index, document, _tokens_at(document, at))
    return tallies


def history(index: Index, repository: Path, commits: int) -> Tally:
    """A repository's Markdown, reStructuredText and Python files, commit by commit; the first
    commit's files are there at the start. Least possible: the tokens of lines that no file which
    the commit touches had before it, so that a move or a rename is worth nothing.
    """
    sums = Tally()
    for number, commit in enumerate(_git(repository, "rev-list", "--reverse", "--no-merges", "HEAD").split()[:commits]):
        index.spent()
        changes = list(_changed(repository, commit))
        before: set[str] = set()
        for status, path in changes if number else ():
            if status != "A":
                before.update(_git(repository, "show", f"{commit}^:{path}").splitlines())
        documents, fresh = [], dict.fromkeys(())
        for status, path in changes:
            if status == "D":
                index.delete(path, sweep=False)
                continue
            text = _git(repository, "show", f"{commit}:{path}")
            documents += index.put((path, text, _MEDIA_TYPES[Path(path).suffix]))
            fresh |= dict.fromkeys(line for line in text.splitlines() if line not in before)
        if number and documents:
            tokens, chunks = index.spent()
            sums.edits += 1
            sums.tokens += tokens
            sums.chunks += chunks
            sums.least += _count(index, "\n".join(fresh))
            sums.document_tokens += sum(span.tokens for document in documents for span in document.chunks)
            sums.document_chunks += sum(len(document.chunks) for document in documents)
    return sums


def _changed(repository: Path, commit: str) -> Iterator[tuple[str, str]]:
    listed = _git(
        repository, "diff-tree", "--root", "-r", "--no-commit-id", "--name-status", "-z", "--no-renames", commit
    )
    fields = listed.split("\0")
    pairs = [(fields[n], fields[n + 1]) for n in range(0, len(fields) - 1, 2)]
    # Creations first, as a connector publishes them: the deleted half of a rename gives its vectors.
    for status, path in sorted(pairs, key=lambda pair: (pair[0] == "D", pair[1])):
        if Path(path).suffix in _MEDIA_TYPES:
            yield status, path


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8", "replace")


def _add(tallies: dict[str, Tally], kind: str, index: Index, document: ChunkedDocument, least: int) -> None:
    tokens, chunks = index.spent()
    sums = tallies.setdefault(kind, Tally())
    sums.edits += 1
    sums.tokens += tokens
    sums.chunks += chunks
    sums.least += least
    sums.document_tokens += sum(span.tokens for span in document.chunks)
    sums.document_chunks += len(document.chunks)
    sums.worst_percent = max(sums.worst_percent, 100 * chunks / max(1, len(document.chunks)))


def _one_word(text: str, rng: random.Random) -> str:
    words = [at for at in range(1, len(text)) if text[at].isalpha() and not text[at - 1].isalpha()]
    at = rng.choice(words)
    end = at
    while end < len(text) and text[end].isalpha():
        end += 1
    return text[:at] + rng.choice(("river", "seventeen", "quietly", "lantern", "of", "parallel")) + text[end:]


def _holding_chunk(document: ChunkedDocument, before: str, after: str) -> int:
    at = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after) - 1)
    return _tokens_at(document, at) if before != after else 0


def _tokens_at(document: ChunkedDocument, at: int) -> int:
    return next((span.tokens for span in document.chunks if span.start <= at < span.end), 0)


def _paragraph(texts: Sequence[Text], rng: random.Random) -> str:
    paragraphs = [part.strip() for part in rng.choice(texts).text.split("\n\n")]
    return rng.choice([part for part in paragraphs if len(part) > 40] or ["A paragraph that was not there before."])


def _inserted(text: str, added: str, rng: random.Random) -> str:
    parts = text.split("\n\n")
    parts.insert(rng.randrange(len(parts) + 1), added)
    return "\n\n".join(parts)


def _shrunk(text: str, rng: random.Random) -> str:
    parts = text.split("\n\n")
    if len(parts) > 4:
        del parts[rng.randrange(len(parts))]
    return "\n\n".join(parts)


def _count(index: Index, text: str) -> int:
    return index.tokenizer.count([text])[0]


def _key(path: str) -> DocumentKey:
    return DocumentKey("bench", path)


def _table(tallies: Mapping[str, Tally]) -> str:
    titles = f"{'edit':<20}{'edits':>6}{'tokens':>9}{'least':>9}{'ratio':>7}"
    lines = [titles + f"{'chunks/edit':>13}{'% of doc':>10}{'worst %':>9}"]
    for kind, sums in tallies.items():
        ratio = f"{sums.tokens / sums.least:.2f}" if sums.least else "-"
        share = 100 * sums.tokens / max(1, sums.document_tokens)
        lines.append(
            f"{kind:<20}{sums.edits:>6}{sums.tokens:>9}{sums.least:>9}{ratio:>7}"
            f"{sums.chunks / sums.edits:>13.2f}{share:>10.2f}{sums.worst_percent:>9.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--documents", type=int, default=60)
    options.add_argument("--edits", type=int, default=200, help="of each kind")
    options.add_argument("--repository", type=Path, default=Path(__file__).parents[2])
    options.add_argument("--commits", type=int, default=300)
    options.add_argument("--target-tokens", type=int)
    options.add_argument("--context", choices=("none", "headings"))
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    settings = {"target_tokens": chosen.target_tokens, "context": chosen.context}
    chunking = ChunkingConfig(**{name: value for name, value in settings.items() if value is not None})
    rng = random.Random(chosen.seed)
    texts = descriptions()
    sample = rng.sample(texts, min(chosen.documents, len(texts)))
    tallies = scripted(Index(chunking), sample, chosen.edits, rng)
    tallies |= unbroken_edits(Index(chunking), texts, chosen.edits, rng)
    tallies["history"] = history(Index(chunking), chosen.repository, chosen.commits)
    print(f"seed {chosen.seed}, {len(sample)} documents, {chunking}")
    print(_table(tallies))
    if chosen.json:
        chosen.json.write_text(json.dumps({kind: asdict(sums) for kind, sums in tallies.items()}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
