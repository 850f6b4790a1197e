"""Is the new generation's search not worse than the old one's? The same queries, asked of both.

Labelled queries decide by nDCG@10, R@10 and RR@10. Without labels, queries drawn from the documents
themselves (:mod:`pipeline.generations.known_items`) decide by R@10 and RR@10: that is weaker, since
they ask for a place in the words of the place, and a comparison says which of the two it is.

A measure's mean over all queries may fall by the tolerance and no more. The p-value beside it says
how often chance alone would make such a difference; it decides nothing, for with few queries every
loss is within chance.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.generations.known_items import KnownItem
from pipeline.identity import DocumentKey

Ask: TypeAlias = Callable[[str, int], Sequence[str]]
"""A query and how many to document keys (``source:path``), best first, each once."""
OnQuery: TypeAlias = Callable[[int, int], None]
"""How many queries are done, of how many."""
Queries: TypeAlias = Mapping[str, str]
"""Query ids to texts."""
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query ids to documents to how relevant they are; 0 and less is not."""

TOP: Final = 10
_LABELLED: Final = (f"nDCG@{TOP}", f"R@{TOP}", f"RR@{TOP}")
_KNOWN_ITEMS: Final = (f"R@{TOP}", f"RR@{TOP}")
#: The measure by which the worst queries are chosen; with one relevant document, RR orders as nDCG.
_DECIDING: Final = {True: f"nDCG@{TOP}", False: f"RR@{TOP}"}

TOLERANCE: Final = 0.01
#: Known items begin where the old side's chunks begin, and are found the more easily there.
KNOWN_ITEM_TOLERANCE: Final = 0.05

_WORST: Final = 5
#: Documents of each that are shown for a query.
_SHOWN: Final = 5

#: Sign flips of the paired test; with so few differing queries that there are fewer ways, all of them.
PERMUTATIONS: Final = 10_000
_SEED: Final = 1
#: Signs in memory at a time.
_CELLS: Final = 1_000_000
#: Differences below this come from the arithmetic.
_ROUNDING: Final = 1e-9

#: trec_eval counts documents by relevance in an array as long as the highest one.
MAX_RELEVANCE: Final = 1_000
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,9}")
#: What the last column of a header line is called.
_HEADERS: Final = frozenset({"score", "rel", "relevance", "label"})


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of both sides, as means over the queries."""

    name: str
    old: float
    new: float
    p_value: float
    """Of a two-sided paired randomisation test: how often chance alone differs as much."""
    queries: int

    @property
    def difference(self) -> float:
        """Below 0: the new one is worse."""
        return self.new - self.old

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the history."""
        return {**asdict(self), "difference": self.difference}


@dataclass(frozen=True, slots=True)
class Lost:
    """A query that the new generation answers worse."""

    query: str
    """Its id; of a known item, its number from 1."""
    text: str
    """Of a known item, words of a document: shown once, and kept nowhere."""
    measure: str
    old: float
    new: float
    old_top: tuple[str, ...]
    """The first documents of the old answer."""
    new_top: tuple[str, ...]
    relevant: tuple[str, ...]
    """The most relevant documents."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the same queries found on both sides."""

    labelled: bool
    """False: by known items, which is weaker."""
    queries: int
    left_out: int
    """Queries without any relevant document."""
    unasked: int
    """Queries that have labels, but no text."""
    measures: tuple[Measured, ...]
    tolerance: float
    overlap: float
    """How much of the first ten answers both have in common, on average; never a reason to refuse."""
    worst: tuple[Lost, ...]
    """Those that lose most, the worst first."""
    why: str
    """Why the new one is refused; empty if it is not."""

    @property
    def ok(self) -> bool:
        """False: the new one is worse, or nothing could be compared."""
        return not self.why

    def as_json(self, *, drawn: bool = True) -> dict[str, Any]:
        """For ``--json`` and the history.

        Args:
            drawn: with texts that were drawn from documents; the history must not have them, for it
                is kept when such a document is forgotten.
        """
        worst = self.worst if drawn or self.labelled else tuple(replace(one, text="") for one in self.worst)
        return {
            "labelled": self.labelled,
            "ok": self.ok,
            "why": self.why,
            "queries": self.queries,
            "left_out": self.left_out,
            "unasked": self.unasked,
            "tolerance": self.tolerance,
            "overlap": self.overlap,
            "measures": [one.as_json() for one in self.measures],
            "worst": [one.as_json() for one in worst],
        }


@dataclass(frozen=True, slots=True)
class Matched:
    """Labels in terms of document keys."""

    qrels: dict[str, dict[str, int]]
    """Every query of the labels, with those of its documents that are in the index."""
    absent: int
    """Ids in the labels that no document of the index is called."""


@dataclass(frozen=True, slots=True)
class _Question:
    id: str
    text: str
    relevant: Mapping[str, int]


# ------------------------------------------------------------------------------ what decides


def labelled(
    queries: Queries,
    qrels: Qrels,
    old: Ask,
    new: Ask,
    tolerance: float = TOLERANCE,
    on_query: OnQuery | None = None,
) -> Comparison:
    """Both sides by labelled queries.

    Args:
        queries: see :func:`read_queries`.
        qrels: in terms of document keys, see :func:`matching`.
        old: the live generation's search, by document.
        new: the other one's.
        tolerance: how much the mean of a measure may fall.
        on_query: called after every query.

    Raises:
        ConfigError: the labels are of other queries, or call no document relevant; or the
            tolerance is no number between 0 and 1.
    """
    known = [id for id in queries if id in qrels]
    if not known:
        raise ConfigError(
            f"none of the {len(qrels)} queries of the qrels ({_example(qrels)}) is among the {len(queries)} "
            f"queries ({_example(queries)})",
            "give the queries and the qrels of the same set; their query ids must be equal",
        )
    questions = [
        _Question(id, queries[id], relevant)
        for id in known
        if (relevant := {key: score for key, score in qrels[id].items() if score > 0})
    ]
    if not questions:
        raise ConfigError(
            f"none of the {len(known)} queries has a relevant document in the index",
            "a score above 0 calls a document relevant; the documents of the qrels must be in the sources",
        )
    unasked = sum(id not in queries for id in qrels)
    return _compared(questions, len(queries) - len(questions), unasked, old, new, tolerance, on_query, labelled=True)


def unlabelled(
    items: Sequence[KnownItem],
    old: Ask,
    new: Ask,
    tolerance: float = KNOWN_ITEM_TOLERANCE,
    on_query: OnQuery | None = None,
) -> Comparison:
    """Both sides by known items: weaker than labels. Without any item it is refused.

    Args:
        items: see :func:`pipeline.generations.known_items.known_items`.
        old: the live generation's search, by document.
        new: the other one's.
        tolerance: how much the mean of a measure may fall.
        on_query: called after every query.

    Raises:
        ConfigError: the tolerance is no number between 0 and 1.
    """
    questions = [_Question(str(number), item.query, {item.key: 1}) for number, item in enumerate(items, 1)]
    return _compared(questions, 0, 0, old, new, tolerance, on_query, labelled=False)


def _compared(
    questions: Sequence[_Question],
    left_out: int,
    unasked: int,
    old: Ask,
    new: Ask,
    tolerance: float,
    on_query: OnQuery | None,
    *,
    labelled: bool,
) -> Comparison:
    # Not a number is in no range; as a bound it would refuse nothing.
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"tolerance {tolerance} is out of range", "give a number from 0 to 1; measures are within it")
    if not questions:
        why = "no query could be drawn from the documents, so nothing was compared"
        return Comparison(labelled, 0, left_out, unasked, (), tolerance, 1.0, (), why)
    answers: tuple[list[tuple[str, ...]], list[tuple[str, ...]]] = [], []
    for done, question in enumerate(questions, 1):
        for ask, found in zip((old, new), answers, strict=True):
            found.append(tuple(dict.fromkeys(ask(question.text, TOP)))[:TOP])
        if on_query is not None:
            on_query(done, len(questions))
    names = _LABELLED if labelled else _KNOWN_ITEMS
    before, after = (_values(questions, found, names) for found in answers)
    measures = tuple(
        Measured(
            name,
            float(before[name].mean()),
            float(after[name].mean()),
            p_value(after[name] - before[name]),
            len(questions),
        )
        for name in names
    )
    deciding = _DECIDING[labelled]
    return Comparison(
        labelled,
        len(questions),
        left_out,
        unasked,
        measures,
        tolerance,
        sum(map(_overlap, *answers)) / len(questions),
        _worst(questions, answers, deciding, before[deciding], after[deciding]),
        _why(measures, tolerance),
    )


def _why(measures: Sequence[Measured], tolerance: float) -> str:
    # Nothing found by both is no difference, but no proof either: such answers are of other documents.
    if all(one.old == one.new == 0 for one in measures):
        return f"neither search has any relevant document among its first {TOP}, so nothing was compared"
    return "; ".join(
        f"{one.name} falls from {one.old:.4f} to {one.new:.4f}, by {-one.difference:.4f}, over the tolerance of "
        f"{tolerance:g} ({one.queries} queries, p = {one.p_value:.4f})"
        for one in measures
        if -one.difference > tolerance + _ROUNDING
    )


def _worst(
    questions: Sequence[_Question],
    answers: tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]],
    measure: str,
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
) -> tuple[Lost, ...]:
    # A stable sort: of equal losses, the query that was given first.
    order = np.argsort(after - before, kind="stable")[:_WORST]
    return tuple(
        Lost(
            questions[at].id,
            questions[at].text,
            measure,
            float(before[at]),
            float(after[at]),
            answers[0][at][:_SHOWN],
            answers[1][at][:_SHOWN],
            _most_relevant(questions[at].relevant),
        )
        for at in map(int, order)
        if before[at] - after[at] > _ROUNDING
    )


def _most_relevant(relevant: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(relevant, key=lambda key: (-relevant[key], key))[:_SHOWN])


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    return len(set(one) & set(other)) / max(len(one), len(other)) if one or other else 1.0


def _values(
    questions: Sequence[_Question], answers: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Each measure of each query."""
    import ir_measures

    # Numbers for names: trec_eval keeps names as C strings, and a document key is any Unicode.
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for at, (question, found) in enumerate(zip(questions, answers, strict=True)):
        numbers = {key: str(number) for number, key in enumerate(dict.fromkeys((*question.relevant, *found)))}
        qrels[str(at)] = {numbers[key]: score for key, score in question.relevant.items()}
        run[str(at)] = {numbers[key]: float(-place) for place, key in enumerate(found)}
    values = {name: np.zeros(len(questions)) for name in names}
    measures = [ir_measures.parse_measure(name) for name in names]
    for metric in ir_measures.iter_calc(measures, qrels, run):
        values[str(metric.measure)][int(metric.query_id)] = metric.value
    return values


def p_value(differences: npt.ArrayLike) -> float:
    """How likely chance alone makes a mean as far from 0: a two-sided paired randomisation test.

    If both sides were equally good, each query's difference could as well have the other sign. All
    ways to flip signs are tried if they are few, and otherwise 10,000 that are drawn from a fixed seed.
    """
    given = np.asarray(differences, dtype=np.float64)
    moved = given[np.abs(given) > _ROUNDING]  # flipping nothing changes nothing
    count = len(moved)
    if count == 0:
        return 1.0
    least = abs(float(moved.sum())) - _ROUNDING
    if 2**count <= PERMUTATIONS:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ moved) >= least))
    rng = np.random.default_rng(_SEED)
    hits, left = 0, PERMUTATIONS
    while left:
        rows = min(left, max(1, _CELLS // count))
        bits = rng.integers(0, 2, (rows, count), dtype=np.int8)
        hits += int(np.count_nonzero(np.abs((1 - 2 * bits) @ moved) >= least))
        left -= rows
    # The observed signs are one of the ways, so that the answer is never 0.
    return (hits + 1) / (PERMUTATIONS + 1)


# ------------------------------------------------------------------------------- labels


def matching(qrels: Qrels, keys: Iterable[str]) -> Matched:
    """Labels in terms of document keys: what a set calls ``184`` may be ``docs:cranfield/184.txt`` here.

    An id is a document's whole key (``source:path``), or else its path, or else its path without the
    suffix; the first of these that fits counts. Documents that are not in the index are left out,
    since neither search can find them: kept, they would only make every difference smaller.

    Args:
        qrels: see :func:`read_qrels`.
        keys: of all documents in the index, as :attr:`pipeline.identity.DocumentKey.text`; read once.

    Raises:
        ConfigError: an id fits two documents equally well, or no id fits any.
    """
    wanted = {id for documents in qrels.values() for id in documents}
    found: dict[str, tuple[int, str]] = {}
    rivals: dict[str, tuple[int, str]] = {}
    example = "no document"
    for key in keys:
        example = key
        path = DocumentKey.from_text(key).path
        for rank, name in enumerate((key, path, posixpath.splitext(path)[0])):
            if name not in wanted:
                continue
            if name not in found or rank < found[name][0]:
                found[name] = rank, key
            elif rank == found[name][0] and key != found[name][1]:
                rivals[name] = rank, key
    for id, (rank, key) in sorted(rivals.items()):
        if rank == found[id][0]:
            raise ConfigError(
                f"document {id!r} of the qrels is both {found[id][1]} and {key}",
                "write source:path instead of the path in the qrels",
            )
    if not found:
        raise ConfigError(
            f"none of the {len(wanted)} documents of the qrels ({_example(wanted)}) is in the index (for example "
            f"{example})",
            "call documents in the qrels source:path, or by their path with or without its suffix",
        )
    matched: dict[str, dict[str, int]] = {}
    for query, documents in qrels.items():
        scores = matched[query] = {}
        for id, score in documents.items():
            if id in found:
                key = found[id][1]
                scores[key] = max(score, scores.get(key, score))
    return Matched(matched, len(wanted) - len(found))


def read_queries(path: Path) -> dict[str, str]:
    """A file of queries: JSON lines with ``_id`` or ``id`` and ``text`` or ``query``, or ids and texts
    with a tab between.

    Raises:
        ConfigError: the file, and the line, that cannot be read.
    """
    queries: dict[str, str] = {}
    for where, line in _lines(path):
        id, text = _from_json(where, line) if line.lstrip().startswith("{") else _from_columns(where, line)
        if not id or not text:
            raise ConfigError(f"{where}: the query has no {'text' if id else 'id'}", "complete it, or remove the line")
        if id in queries:
            raise ConfigError(f"{where}: query {id!r} is there twice", "give each query an id of its own")
        queries[id] = text
    if not queries:
        raise ConfigError(f"{path} has no query", 'write one a line, for example {"id": "1", "text": "..."}')
    return queries


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """A file of labels: query id, document id and score, or TREC's four columns (the second is not
    used), with tabs between, or spaces if there is no tab; a header line may come first.

    Raises:
        ConfigError: the file, and the line, that cannot be read.
    """
    qrels: dict[str, dict[str, int]] = {}
    for where, line in _lines(path):
        columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
        if not qrels and columns[-1].lower() in _HEADERS:
            continue
        if len(columns) not in {3, 4} or not all(columns):
            raise ConfigError(
                f"{where} has not the 3 columns query, document and score, nor TREC's 4 (query, 0, document, score)",
                "put a tab between any two columns, and nothing else",
            )
        query, document, score = columns[0], columns[-2], columns[-1]
        if not _INTEGER.fullmatch(score) or abs(int(score)) > MAX_RELEVANCE:
            raise ConfigError(f"{where}: score {score!r} is no whole number up to {MAX_RELEVANCE}", "correct it")
        scores = qrels.setdefault(query, {})
        if scores.setdefault(document, int(score)) != int(score):
            raise ConfigError(
                f"{where}: document {document!r} had score {scores[document]} for query {query!r} before",
                "keep one of the two",
            )
    if not qrels:
        raise ConfigError(f"{path} has no label", "write query id, document id and score a line, with tabs between")
    return qrels


def _from_json(where: str, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON: {error}", "write one JSON object a line") from None
    id, text = (next((row[name] for name in names if name in row), "") for names in (("_id", "id"), ("text", "query")))
    if isinstance(id, bool) or not isinstance(id, str | int) or not isinstance(text, str):
        raise ConfigError(f"{where}: the query's id or text is no string", 'write it like {"id": "1", "text": "..."}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: the query's text is no Unicode: {error.reason}", "correct its escapes") from None
    return str(id).strip(), text.strip()


def _from_columns(where: str, line: str) -> tuple[str, str]:
    id, tab, text = line.partition("\t")
    if not tab:
        raise ConfigError(
            f"{where} is neither JSON nor an id and a text with a tab between",
            'write it like {"id": "1", "text": "..."}',
        )
    return id.strip(), text.strip()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where it is, and what it says: each line that is not blank."""
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                where = f"{path}, line {number}"
                try:
                    line = data.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ConfigError(f"{where} is not UTF-8: {error.reason}", "save the file as UTF-8") from None
                if line.strip():
                    yield where, line.rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "name a file that can be read") from None


def _example(names: Iterable[str]) -> str:
    first = next(iter(sorted(names)), None)
    return "none" if first is None else f"for example {first!r}"
