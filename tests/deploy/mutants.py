"""What an alert must not do without: each of these changes makes one of its tests fail."""

from __future__ import annotations

from typing import Final, NamedTuple


class Mutant(NamedTuple):
    """A change of an alert's expression; of its ``for``, where ``old`` is ``for``."""

    old: str
    new: str


_AT_ONCE: Final = Mutant("for", "0s")
_PARTITION: Final = "max by (pipeline, stage, generation, topic, partition)"

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
        Mutant(
            "unless on (pipeline, stage, generation) "
            'label_replace(pipeline_stage_generation:vectide_lag:sum{stage="embed"} > 0, "stage", "chunk", "", "")',
            "",
        ),
        Mutant("unless on (pipeline, generation) max by (pipeline, generation) (vectide_migration_throttle_ratio)", ""),
    ],
    "VectideDrainTimeGrowing": [
        Mutant("> 600", "> 60"),
        Mutant("> 1.1 *", "> 0.5 *"),
        Mutant("and on (pipeline, generation) pipeline_generation:vectide_live:max", ""),
    ],
    "VectidePollBudgetNearlySpent": [Mutant("> 0.5", ">= 0.5"), Mutant("[10m]", "[1m]")],
    "VectideRebalanceStorm": [_AT_ONCE, Mutant("> 6", "> 4")],
    "VectideDeadLetters": [Mutant("[1h]", "[2h]")],
    "VectideStageMissing": [_AT_ONCE, Mutant("> 0", ">= 0")],
    "VectideTargetDown": [_AT_ONCE, Mutant("and on (job) group by (job) (last_over_time(vectide_build_info[6h]))", "")],
    "VectideAbsent": [_AT_ONCE],
    "VectideNotReady": [_AT_ONCE],
    "VectideDependencyErrors": [_AT_ONCE, Mutant("> 5", "> 4")],
    "VectideSearchErrors": [Mutant("> 0.05", "> 0.03")],
    "VectideScanTooOld": [
        Mutant("3 * vectide_source_scan_duration_seconds", "0 * vectide_source_scan_duration_seconds"),
        Mutant("> 86400", "> 43200"),
        Mutant("and vectide_source_last_scan_timestamp_seconds > 0", ""),
    ],
    "VectideModelMismatch": [_AT_ONCE],
    "VectideMigrationStuck": [
        Mutant("(vectide_migration_throttle_ratio) > 0", "(vectide_migration_throttle_ratio) >= 0"),
        Mutant(
            "unless on (pipeline, generation) "
            "(max by (pipeline, generation) (changes(vectide_consumer_committed_offset[15m])) > 0)",
            "",
        ),
        Mutant("(pipeline_stage_generation:vectide_lag:sum) > 0", "(pipeline_stage_generation:vectide_lag:sum) >= 0"),
        Mutant(
            "and on (pipeline, generation) max by (pipeline, generation) (vectide_migration_throttle_ratio) > 0", ""
        ),
    ],
    "VectideMigrationFailed": [Mutant('state="failed"', 'state=~".+"')],
    "VectideMigrationUndecided": [Mutant("> 86400", "> 80000"), Mutant("== 0", ">= 0")],
    "VectideOldGenerationRetained": [Mutant("> 7 *", "> 5 *")],
    "VectideVerifyFindings": [Mutant("> 0", ">= 0")],
    "VectideVerifyStale": [_AT_ONCE, Mutant("3 *", "1 *"), Mutant("> 0)", ">= 0)")],
}
