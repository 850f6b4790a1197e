"""What publishes the changes of a source: for those that are read, and for those that are pushed to."""

from __future__ import annotations

from connectors.push.runner import PushLimits, PushRunner
from connectors.push.source import PushSource
from connectors.runner import Runner, RunnerLimits
from pipeline.cli.assembly import Followed, Parts, connector_state
from pipeline.cli.figures import live_lag
from pipeline.config import SourceConfig
from pipeline.ports import Source


def runner_of(parts: Parts, source: Source, config: SourceConfig, control: Followed) -> Runner | PushRunner:
    """What publishes a source's changes."""
    if isinstance(source, PushSource):

        def behind() -> int:
            live = control().live
            return 0 if live is None else live_lag(parts, live.spec)

        return PushRunner(
            source=source,
            broker=parts.broker,
            names=parts.names,
            epoch=parts.config.pipeline.epoch,
            state_directory=connector_state(parts.config),
            patience=parts.patience(),
            health=parts.health,
            metrics=parts.metrics,
            limits=PushLimits(drain_seconds=parts.config.work.drain_seconds),
            requests=lambda: control().asked,
            behind=behind,
        )
    return Runner(
        source=source,
        broker=parts.broker,
        names=parts.names,
        epoch=parts.config.pipeline.epoch,
        state_directory=connector_state(parts.config),
        patience=parts.patience(),
        health=parts.health,
        metrics=parts.metrics,
        limits=RunnerLimits(rescan_seconds=config.rescan_seconds),
        requests=lambda: control().asked,
    )
