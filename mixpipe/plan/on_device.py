"""Selection where the loss table lies: on a GPU, with one small copy to the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mixpipe.kernels import select_lowest

from .random import Draw, hashes
from .rules import MeanRule, QuantileRule, Tier
from .table import LossTable

__all__ = ["company_on_device", "has_device_rule"]


def has_device_rule(tiers: Sequence[Tier], *, budget: bool) -> bool:
    """Whether the device can select for these tiers: all by mean, or all by quantile unscaled."""
    if all(isinstance(tier.rule, MeanRule) for tier in tiers):
        return True
    return not budget and all(isinstance(tier.rule, QuantileRule) for tier in tiers)


def company_on_device(
    table: LossTable, tiers: Sequence[Tier], savings: float | None, *, seed: int, epoch: int
) -> npt.NDArray[np.uint8]:
    """How many samples share a composite with each: uint8 [N].

    The same law as on the host, but for samples of equal loss at a threshold: a budget takes all
    of them or none, a quantile tells them apart by another hash.

    Args:
        table: on the device that selects.
        tiers: by rising k, for which `has_device_rule` holds.
        savings: network inputs that the epoch is to save; None: what the thresholds give.
        seed: of the run.
        epoch: of the plan.
    """
    factors = [
        tier.rule.tau if isinstance(tier.rule, MeanRule) else tier.rule.q
        for tier in tiers
        if isinstance(tier.rule, (MeanRule, QuantileRule))
    ]
    for i in range(len(factors) - 1, 0, -1):  # a tier has those of the tiers above it too
        factors[i - 1] = max(factors[i - 1], factors[i])
    costs = np.array([1.0, *(1.0 / tier.k for tier in tiers)])
    ties = int(hashes(np.zeros(1, np.int64), seed=seed, epoch=epoch, draw=Draw.TIES)[0] >> 33)
    if savings is not None:
        selection = select_lowest(
            table.losses,
            table.epochs,
            "budget",
            factors,
            savings=(costs[:-1] - costs[1:]).tolist(),
            target=savings,
        )
    else:
        rule = "mean" if isinstance(tiers[0].rule, MeanRule) else "share"
        selection = select_lowest(table.losses, table.epochs, rule, factors, seed=ties)
    company = np.ones(len(table), np.uint8)
    for tier, mask in zip(tiers, selection.masks, strict=True):
        company[mask] = tier.k
    return company
