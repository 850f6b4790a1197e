"""The real workers over a log of broken records: none ends, none hangs, and no failure is silent."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from pipeline.codec import GENERATION, decode_chunked, encode_chunked
from pipeline.errors import MalformedRecord
from pipeline.identity import DocumentKey
from pipeline.ports import NewRecord, Record
from tests.fuzz.bytes import nested
from tests.support.pipelines import CHUNKS, DOCUMENTS, changed, pipeline


def broken(record: NewRecord, rng: random.Random) -> NewRecord:
    """Its value, key or headers changed in some places."""
    value, key, headers = bytearray(record.value or b""), bytearray(record.key or b""), dict(record.headers)
    for _ in range(rng.randint(1, 3)):
        target = value if rng.random() < 0.8 else key
        at = rng.randrange(len(target)) if target else 0
        match rng.randrange(5):
            case 0:
                target[at : at + 1] = rng.randbytes(1)
            case 1:
                del target[at : at + rng.randint(1, 6)]
            case 2:
                target[at:at] = target[at : at + 6]
            case 3:
                del target[at:]
            case _:
                # Not the generation's, which is fatal, and no high schema, which waits for an upgrade.
                name = rng.choice(sorted(headers.keys() - {GENERATION}))
                headers[name] = rng.choice([b"", b"\xff", b"nan", b"-1", b"changed"])
    return NewRecord(record.topic, bytes(key), bytes(value), tuple(headers.items()), rng.randrange(2))


def again(model: Record, number: int) -> NewRecord:
    """As the stage before would have written it of another document, at another version."""
    key = DocumentKey("s", f"d{number}")
    if model.topic == CHUNKS:
        encoded = encode_chunked(replace(decode_chunked(model), key=key, version=1000 + number))
        return NewRecord(CHUNKS, *encoded, partition=0)
    return NewRecord(model.topic, key.to_bytes(), model.value, model.headers, 0)


def hostile(record: NewRecord) -> list[NewRecord]:
    """What chance does not find."""
    told = json.loads(record.value or b"")
    values = [
        nested(b"[", b"]"),
        b'{"text":"x","media_type":"text/plain","digest":"d","metadata":' + nested(b'{"a":', b"}", b"1") + b"}",
        json.dumps({**told, "metadata": {"n": 10**30}}).encode(),
        json.dumps({**told, "media_type": "\0" * 300}).encode(),
        json.dumps({**told, "text": "\0\ufeff\u202e" * 200 + "word " * 50}).encode(),
        json.dumps({**told, "text": "(" * 50_000}).encode(),
        b"null",
        b"",
    ]
    return [
        NewRecord(record.topic, DocumentKey("s", f"hostile-{number}").to_bytes(), value, record.headers, 0)
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize("topic", [DOCUMENTS, CHUNKS])
def test_broken_records_become_letters_and_failed_heads_and_the_others_come_through(topic: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with pipeline() as at_work:
        at_work.write([changed("model", "# Title\n\nSome text.", 0)])
        at_work.until_quiet()
        reader = at_work.broker.reader(topic)
        (model,) = reader.poll(1.0, 1)
        reader.close()
        sound = [again(model, number) for number in range(1, 151)]
        at_work.write([broken(one, rng) for one in sound] + hostile(sound[0]))
        good = [f"good-{number}" for number in range(10)]
        at_work.write([changed(path, f"Text of {path}.", number % 2) for number, path in enumerate(good)])
        at_work.until_quiet()
        # Then what is fine is there
        heads = [at_work.head(path) for path in good]
        assert [head and head.state for head in heads] == ["complete"] * 10
        # And each letter whose document and version can be read has a head that says so, or a newer one
        letters = at_work.letters()
        assert len(letters) > 10
        for letter in letters:
            try:
                key = DocumentKey.from_bytes(letter.record_key or b"")
            except MalformedRecord:
                continue
            head = at_work.collection.heads([key.doc]).get(key.doc)
            if letter.version >= 0:
                assert head is not None, letter
                assert head.version > letter.version or head.state in ("failed", "incomplete"), (head, letter)
        numbers = at_work.head("hostile-2")
        assert numbers is not None
        assert numbers.state == "failed"
