"""Dead letters as a topic: each once, foreign records passed over, resolved for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipeline.broker.embedded import EmbeddedBroker
from pipeline.deadline import Deadline
from pipeline.errors import Poison
from pipeline.identity import DocumentKey
from pipeline.ports import NewRecord, Publisher, Record, Written
from pipeline.records import DeadLetter
from pipeline.stages.dead_letters import DETAIL_CHARACTERS, bury, count, describe, letter_of, resolve, standing
from tests.support.workers import NAMES

RECORD = Record("topic", 2, 7, DocumentKey("s", "größe").to_bytes(), b"value", (("h", b"1"),))


def test_burying_twice_leaves_one_letter_with_everything_that_a_person_needs(broker: EmbeddedBroker) -> None:
    letter = letter_of(RECORD, "g1", "embed", 42, Poison("bad", "why"), 3)
    publisher = broker.publisher("test")
    bury(publisher, NAMES, [letter])
    bury(publisher, NAMES, [letter])
    assert standing(broker, NAMES) == {letter.id: letter}
    assert count(broker, NAMES) == 1
    described = describe(letter)
    assert described.pop("failed_at") == letter.failed_at
    assert described == {
        "id": "g1/embed/topic/2/7", "key": "s:größe", "generation": "g1", "stage": "embed", "topic": "topic",
        "partition": 2, "offset": 7, "version": 42, "reason": "bad", "detail": "why", "attempts": 3, "record_bytes": 5,
    }  # fmt: skip


def test_a_resolved_letter_is_gone_and_others_stay(broker: EmbeddedBroker) -> None:
    first = letter_of(RECORD, "g1", "embed", 1, Poison("bad", ""), 1)
    second = letter_of(RECORD, "g1", "chunk", 1, Poison("bad", ""), 1)
    publisher = broker.publisher("test")
    bury(publisher, NAMES, [first, second])
    resolve(publisher, NAMES, [first.id])
    assert list(standing(broker, NAMES)) == [second.id]
    assert count(broker, NAMES) == 1


def test_a_foreign_record_hides_no_letter(broker: EmbeddedBroker) -> None:
    publisher = broker.publisher("test")
    publisher.publish([NewRecord(NAMES.dead_letters, b"x", b"not ours")], Deadline.after(5))
    bury(publisher, NAMES, [letter_of(RECORD, "g1", "embed", 1, Poison("bad", ""), 1)])
    assert len(standing(broker, NAMES)) == count(broker, NAMES) == 1


class Counting:
    """A publisher that counts its calls, of a topic that takes no record over a limit."""

    def __init__(self, inner: Publisher, limit: int) -> None:
        self.inner, self.limit, self.calls = inner, limit, 0

    def publish(self, records: Sequence[NewRecord], deadline: Deadline) -> list[Written]:
        self.calls += 1
        if any(len(record.value or b"") > self.limit for record in records):
            raise Poison("record_too_large", "over the topic's limit")
        return self.inner.publish(records, deadline)

    def close(self, deadline: Deadline) -> None:
        self.inner.close(deadline)


def letters_of(sizes: Sequence[int]) -> list[DeadLetter]:
    records = [replace(RECORD, offset=place, value=b"x" * size) for place, size in enumerate(sizes)]
    return [letter_of(record, "g1", "chunk", 1, Poison("bad", ""), 1) for record in records]


def test_many_letters_are_written_at_once(broker: EmbeddedBroker) -> None:
    publisher = Counting(broker.publisher("test"), 1 << 30)
    bury(publisher, NAMES, letters_of([10] * 100))
    assert (publisher.calls, count(broker, NAMES)) == (1, 100)
    # In parts, where they are large
    publisher.calls = 0
    bury(publisher, NAMES, letters_of([3 << 20] * 5))
    assert publisher.calls == 3


def test_a_letter_that_is_too_large_loses_its_record_and_the_others_keep_theirs(broker: EmbeddedBroker) -> None:
    publisher = Counting(broker.publisher("test"), 10_000)
    sizes = [10] * 64
    sizes[37] = 20_000
    bury(publisher, NAMES, letters_of(sizes))
    found = standing(broker, NAMES).values()
    assert len(found) == 64
    assert [letter.origin.offset for letter in found if letter.record_value is None] == [37]
    assert publisher.calls <= 2 * 7


def test_a_cause_is_bounded_and_any_text_can_be_one() -> None:
    letter = letter_of(RECORD, "g1", "embed", 1, Poison("bad", "\ud800" + "x" * 10_000), 1)
    assert letter.detail.startswith("\\ud800x")
    assert len(letter.detail) <= DETAIL_CHARACTERS + 5


@pytest.mark.parametrize("before", ["", "x" * (DETAIL_CHARACTERS - 30)])
def test_a_cause_has_no_password_of_what_it_quotes(before: str) -> None:
    """Nor half of one, where the letter's text ends."""
    for text in ("cannot reach pg://me:c4nary@db.example.com/db", "refused: host=db user=me password=c4nary sslmode=x"):
        detail = letter_of(RECORD, "g1", "embed", 1, Poison("bad", before + text), 1).detail
        assert "c4n" not in detail
        assert detail.startswith(before + text[:10])


def test_a_letter_without_a_readable_key_is_described_all_the_same() -> None:
    bare = Record("topic", 0, 0, None, None)
    assert describe(letter_of(bare, "g1", "chunk", 1, Poison("bad", ""), 1))["key"] == ""
