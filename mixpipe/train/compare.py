"""The comparison that counts: plain, plain shortened to the same cost, and mixed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mixpipe.plan import Plain, Policy
from mixpipe.report import Figure
from mixpipe.train.config import TrainConfig
from mixpipe.train.run import EpochMetrics, RunSummary, Trainer

__all__ = ["compare", "comparison_figures"]


def compare(
    config: TrainConfig,
    policy: Policy,
    *,
    name: str,
    output: str | os.PathLike[str] | None = None,
    progress: bool = True,
    on_epoch: Callable[[str, EpochMetrics], None] | None = None,
) -> list[RunSummary]:
    """Train by ``policy``, then plain at full length, then plain for the same network inputs.

    The shortened run has the whole number of epochs that comes nearest to the mixed run's network
    inputs, with its learning rate falling to zero over that length.

    Args:
        config: the settings of all three.
        policy: of the mixed run.
        name: what to call the mixed run.
        output: a folder; each run gets one of its name in it.
        progress: show progress bars.
        on_epoch: called with the run's name and each epoch's metrics.

    Returns:
        The summaries: ``plain``, ``plain-shortened`` and the mixed run's.
    """
    if isinstance(policy, Plain):
        raise ValueError(
            "policy: expected one that mixes or prunes, to compare with plain; got plain"
        )

    def run(run_name: str, settings: TrainConfig, run_policy: Policy) -> RunSummary:
        folder = None if output is None else Path(output) / run_name
        trainer = Trainer(settings, run_policy, output=folder, name=run_name, progress=progress)
        try:
            return trainer.fit(None if on_epoch is None else lambda m: on_epoch(run_name, m))
        finally:
            trainer.close()

    mixed = run(name, config, policy)
    plain = run("plain", config, Plain())
    epochs = max(1, round(mixed.network_inputs / plain.plain_inputs * plain.epochs))
    shortened = run("plain-shortened", replace(config, epochs=epochs), Plain())
    return [plain, shortened, mixed]


def comparison_figures(runs: Sequence[RunSummary]) -> list[Figure]:
    """Speed-ups and differences of the mixed run to both plain ones, and what it waited for.

    A run waits at the start of an epoch, whose plan needs the losses of the one before. Inside an
    epoch the loader is ahead of the network; 0.05 is taken for never, since the clock counts what
    handing a batch over costs too.
    """
    plain, shortened, mixed = runs
    return [
        Figure("speed-up in network inputs", plain.network_inputs / mixed.network_inputs),
        Figure("speed-up in seconds", plain.seconds / mixed.seconds),
        Figure("accuracy minus plain, points", 100 * (mixed.accuracy - plain.accuracy)),
        Figure(
            "accuracy minus plain-shortened, points", 100 * (mixed.accuracy - shortened.accuracy)
        ),
        Figure(
            "share of its seconds that the network waits for batches inside epochs",
            (mixed.wait_seconds - mixed.start_seconds) / mixed.seconds,
            "<= 0.05",
        ),
    ]
