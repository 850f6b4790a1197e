"""The topics of a pipeline: what each needs so that nothing is lost, and how large a record gets."""

from __future__ import annotations

from typing import Final

from pipeline.config import PipelineConfig
from pipeline.naming import Names
from pipeline.ports import TopicSpec

DAY_SECONDS: Final = 86_400.0
#: Superseded and erased text is gone after this long, however little a partition is written.
COMPACTION_LAG_SECONDS: Final = 7 * DAY_SECONDS
#: Dead letters that nobody resolved.
DEAD_LETTER_RETENTION_SECONDS: Final = 30 * DAY_SECONDS
#: The last report of a worker stays this long after its end.
REPORT_RETENTION_SECONDS: Final = 7 * DAY_SECONDS
#: A worker writes 720 reports an hour, and `status` reads all that are not compacted.
REPORT_COMPACTION_LAG_SECONDS: Final = 600.0

#: One byte of text as JSON takes at most six: a control character becomes ``\u0000``.
_JSON_GROWTH: Final = 6
#: Metadata, path, media type and digest around the text.
_AROUND_BYTES: Final = 1024 * 1024
#: A broker closes the connection at a request over 100 MiB (its ``socket.request.max.bytes``) and
#: kafka-python at an answer over 100 MB (``receive_message_max_bytes``): what is larger than this
#: can't travel, and is refused as poison before it is sent.
_LARGEST_BYTES: Final = 90 * 1024 * 1024
#: Connector state, reports and generations are some hundred bytes each; paths can be long.
_SMALL_BYTES: Final = 1024 * 1024


def pipeline_topics(names: Names, pipeline: PipelineConfig) -> list[TopicSpec]:
    """Every topic but those of the generations."""
    return [
        TopicSpec(
            names.documents(pipeline.epoch),
            pipeline.partitions,
            "compact",
            _document_bytes(pipeline),
            max_compaction_lag_seconds=COMPACTION_LAG_SECONDS,
        ),
        TopicSpec(
            names.connector_state,
            pipeline.partitions,
            "compact",
            _SMALL_BYTES,
            max_compaction_lag_seconds=COMPACTION_LAG_SECONDS,
        ),
        TopicSpec(
            names.dead_letters,
            pipeline.partitions,
            "compact,delete",
            _dead_letter_bytes(pipeline),
            retention_seconds=DEAD_LETTER_RETENTION_SECONDS,
            max_compaction_lag_seconds=COMPACTION_LAG_SECONDS,
        ),
        # One partition: its order is the order of transitions. Each has a key of its own, so
        # compaction keeps them all.
        TopicSpec(names.control, 1, "compact", _SMALL_BYTES),
        TopicSpec(
            names.reports,
            1,
            "compact,delete",
            _SMALL_BYTES,
            retention_seconds=REPORT_RETENTION_SECONDS,
            max_compaction_lag_seconds=REPORT_COMPACTION_LAG_SECONDS,
        ),
    ]


def chunks_topic(names: Names, generation: str, pipeline: PipelineConfig) -> TopicSpec:
    """The chunks topic of one generation: as many partitions as documents has, because a chunked
    document is written to the partition that its document was read from. No time limit: it is
    trimmed below the embed stage's commit.
    """
    return TopicSpec(names.chunks(generation), pipeline.partitions, "delete", _chunked_bytes(pipeline))


def _document_bytes(pipeline: PipelineConfig) -> int:
    return min(_JSON_GROWTH * pipeline.document_limit_bytes + _AROUND_BYTES, _LARGEST_BYTES)


def _chunked_bytes(pipeline: PipelineConfig) -> int:
    # A span with its hash takes some 70 bytes and stands for at least as much text in all but
    # freak documents, whose text is then not one that grows sixfold: one more of the limit.
    return min((_JSON_GROWTH + 1) * pipeline.document_limit_bytes + _AROUND_BYTES, _LARGEST_BYTES)


def _dead_letter_bytes(pipeline: PipelineConfig) -> int:
    # It holds a whole record of either topic in base64: four bytes for three.
    return min(_chunked_bytes(pipeline) * 4 // 3 + _AROUND_BYTES, _LARGEST_BYTES)
