"""What an alert must not do without: each of these changes makes one of its tests fail."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """A change of an alert's expression; of its ``for``, where ``old`` is ``for``."""

    old: str
    new: str


_AT_ONCE: Final = Mutant("for", "0s")
_PARTITION: Final = "max by (pipeline, stage, generation, topic, partition)"
_HELD_BACK: Final = "pipeline_stage_generation:vectide_held_back:sum"
_DRAIN: Final = "pipeline_stage_generation:vectide_drain_seconds:ratio"
_LAST_SCAN: Final = "vectide_source_last_scan_timestamp_seconds"

MUTANTS: Final[dict[str, list[Mutant]]] = {
    "VectideFreshnessBurnFast": [
        Mutant("> 14.4", "> 10"),
        Mutant("and pipeline:vectide_freshness_burn:ratio_rate5m > 14.4", ""),
        Mutant(">= 10", ">= 0"),
    ],
    "VectideFreshnessBurnSlow": [
        Mutant("> 6", "> 4"),
        Mutant("and pipeline:vectide_freshness_burn:ratio_rate30m > 6", ""),
    ],
    "VectideStalled": [
        _AT_ONCE,
        Mutant(f"unless {_PARTITION} (changes(vectide_consumer_committed_offset[5m])) > 0", ""),
        Mutant(f"and {_PARTITION} (vectide_consumer_lag_records offset 5m) > 0", ""),
        Mutant(
            f"unless {_PARTITION} (changes(vectide_consumer_committed_offset[5m])) > 0",
            "unless on (pipeline, generation) "
            "max by (pipeline, generation) (changes(vectide_consumer_committed_offset[5m])) > 0",
        ),
        Mutant(f"unless on (pipeline, stage, generation) last_over_time({_HELD_BACK}[5m])", ""),
        Mutant(
            f"unless on (pipeline, stage, generation) last_over_time({_HELD_BACK}[5m])",
            "unless on (pipeline, stage, generation) "
            'label_replace(pipeline_stage_generation:vectide_lag:sum{stage="embed"} > 0, "stage", "chunk", "", "")',
        ),
        Mutant(f"last_over_time({_HELD_BACK}[5m])", _HELD_BACK),
        Mutant("[5m]", "[2m]"),
        Mutant("unless on (pipeline, generation) max by (pipeline, generation) (vectide_migration_throttle_ratio)", ""),
    ],
    "VectideDrainTimeGrowing": [
        Mutant("> 600", "> 60"),
        Mutant("[30m]) > 0.1", "[30m]) > 0.01"),
        Mutant("[30m]) > 0.01", "[30m]) > -1"),
        Mutant("> 3600", "> 36000"),
        Mutant(f"and {_DRAIN} > ({_DRAIN} offset 15m)", ""),
        Mutant(f"> ({_DRAIN} offset 15m)", f"> 1.1 * ({_DRAIN} offset 15m)"),
        Mutant("and on (pipeline, generation) pipeline_generation:vectide_live:max", ""),
    ],
    "VectidePollBudgetNearlySpent": [Mutant("> 0.5", ">= 0.5"), Mutant("[10m]", "[1m]")],
    "VectideRebalanceStorm": [_AT_ONCE, Mutant("> 6", "> 4")],
    "VectideDeadLetters": [
        Mutant("[1h]", "[2h]"),
        Mutant("sum by (pipeline, reason) (increase(vectide_dead_letters_total[1h])) > 0 or", ""),
        Mutant("unless vectide_dead_letters_total offset 1h", ""),
        Mutant("unless vectide_dead_letters_total offset 1h", "unless vectide_dead_letters_total"),
        Mutant("vectide_dead_letters_total > 0", "vectide_dead_letters_total >= 0"),
    ],
    "VectideStageMissing": [_AT_ONCE, Mutant("> 0", ">= 0")],
    "VectideSourceMissing": [
        _AT_ONCE,
        Mutant("unless on (pipeline, source) vectide_source_rescan_seconds", ""),
        Mutant("unless on (pipeline, source) vectide_source_rescan_seconds", "unless vectide_source_rescan_seconds"),
        Mutant("unless on (pipeline, source)", "unless on (pipeline)"),
        Mutant("[6h]", "[1d]"),
    ],
    "VectideTargetDown": [_AT_ONCE, Mutant("and on (job) group by (job) (last_over_time(vectide_build_info[6h]))", "")],
    "VectideAbsent": [_AT_ONCE],
    "VectideNotReady": [_AT_ONCE],
    "VectideDependencyErrors": [_AT_ONCE, Mutant("> 5", "> 4")],
    "VectideSearchErrors": [Mutant("> 0.05", "> 0.03"), Mutant(">= 5", ">= 4"), Mutant(">= 5", ">= 8")],
    "VectideScanTooOld": [
        Mutant("max_over_time(vectide_source_scan_duration_seconds[1d])", "0 * vectide_source_scan_duration_seconds"),
        Mutant("max_over_time(vectide_source_scan_duration_seconds[1d])", "vectide_source_scan_duration_seconds"),
        Mutant(f"max_over_time({_LAST_SCAN}[1d])", _LAST_SCAN),
        Mutant(f"and max by (pipeline, source) (max_over_time({_LAST_SCAN}[1d])) > 0", ""),
        Mutant("and on (pipeline, source) vectide_source_rescan_seconds", ""),
        Mutant("offset 1d", "offset 12h"),
        Mutant("== 0", ">= 0"),
    ],
    "VectideSourceBacklog": [_AT_ONCE, Mutant("> 4 *", ">= 4 *"), Mutant('{unit="bytes"}', "")],
    "VectideModelMismatch": [_AT_ONCE],
    "VectideMigrationStuck": [
        _AT_ONCE,
        Mutant("(vectide_migration_throttle_ratio) > 0", "(vectide_migration_throttle_ratio) >= 0"),
        Mutant(f"unless {_PARTITION} (changes(vectide_consumer_committed_offset[15m])) > 0", ""),
        Mutant(
            f"unless {_PARTITION} (changes(vectide_consumer_committed_offset[15m])) > 0",
            "unless on (pipeline, stage, generation) "
            "max by (pipeline, stage, generation) (changes(vectide_consumer_committed_offset[15m])) > 0",
        ),
        Mutant("(vectide_consumer_lag_records) > 0", "(vectide_consumer_lag_records) >= 0"),
        Mutant(f"unless on (pipeline, stage, generation) last_over_time({_HELD_BACK}[5m])", ""),
        Mutant(
            "and on (pipeline, generation) max by (pipeline, generation) (vectide_migration_throttle_ratio) > 0", ""
        ),
        Mutant(
            "unless on (pipeline, stage, generation) "
            "(sum by (pipeline, stage, generation) (vectide_assigned_partitions) > 0)",
            "unless on (pipeline, generation) (sum by (pipeline, generation) (vectide_assigned_partitions) > 0)",
        ),
        Mutant('"stage", "chunk"', '"stage", "embed"'),
        Mutant('"stage", "embed"', '"stage", "chunk"'),
    ],
    "VectideMigrationFailed": [Mutant('state="failed"', 'state=~".+"')],
    "VectideMigrationUndecided": [Mutant("> 86400", "> 80000"), Mutant("== 0", ">= 0")],
    "VectideOldGenerationRetained": [Mutant("> 7 *", "> 5 *")],
    "VectideVerifyFindings": [Mutant("> 0", ">= 0")],
    "VectideVerifyStale": [_AT_ONCE, Mutant("3 *", "1 *"), Mutant("> 0)", ">= 0)")],
}
