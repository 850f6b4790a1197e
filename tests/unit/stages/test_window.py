"""Only the contiguous prefix of what is done may be committed, whatever order it gets done in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ports import Record, TopicPartition
from pipeline.stages.window import Taken, Window

PARTITIONS = [TopicPartition("t", number) for number in range(3)]


def record(partition: int, offset: int) -> Record:
    return Record("t", partition, offset, b"k", b"v")


@given(st.lists(st.tuples(st.sampled_from(["take", "done", "revoke"]), st.integers(0, 2), st.integers(0, 50))))
def test_nothing_is_committed_beyond_the_first_record_that_is_not_done(steps: list[tuple[str, int, int]]) -> None:
    window = Window()
    window.assign(PARTITIONS)
    taken: dict[int, list[Taken]] = {0: [], 1: [], 2: []}
    offsets = dict.fromkeys(range(3), 0)
    for step, partition, choice in steps:
        mine = taken[partition]
        if step == "take":
            # Offsets have gaps: transaction markers, compacted records.
            offsets[partition] += 1 + choice % 3
            mine.append(window.take(record(partition, offsets[partition])))
        elif step == "done" and mine:
            window.done(mine[choice % len(mine)])
        elif step == "revoke":
            window.revoke([PARTITIONS[partition]])
            window.assign([PARTITIONS[partition]])
            assert not any(one.live for one in mine)
            for late in mine:
                window.done(late)  # of a lost lease: ignored
            mine.clear()
        committable = window.committable()
        for number, records in taken.items():
            unfinished = [one.record.offset for one in records if not one.done]
            assert committable[PARTITIONS[number]] == (min(unfinished) if unfinished else None)
        assert window.in_flight == sum(not one.done for records in taken.values() for one in records)
