"""Selection: which samples a policy takes, out of one snapshot of the loss table.

Two steps, and nothing else: a *threshold* in a ranking of the samples (a count of the lowest), and
the *subset* of exactly that many (ties at the threshold are broken at random). They are kept apart
from the policies so that they can be done where the table lives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .arrays import Ids, Losses, Mask, gathered, id_dtype
from .order import earliest, shuffled
from .random import Draw, hashes
from .table import Snapshot

__all__ = [
    "Ranking",
    "loss_factors",
    "loss_ranking",
    "random_ranking",
    "scaled_counts",
    "thinned",
]


class Ranking:
    """Samples ranked by a value: low ones first.

    values: float32 [N], 0 or more; +inf where a sample has no rank (unseen, dropped).
    mean: of the ranked values; given where it is to be that of more samples than are ranked.
    """

    def __init__(self, values: Losses, mean: float | None = None) -> None:
        self.values = values
        self.ordered = np.sort(values)
        self.known = int(np.searchsorted(self.ordered, np.float32(np.inf)))
        if mean is None:
            mean = float(self.ordered[: self.known].mean(dtype=np.float64)) if self.known else 0.0
        self.mean = mean

    def without(self, ids: Ids) -> Ranking:
        """The ranking of the others; its mean stays that of all."""
        values = self.values.copy()
        values[ids] = np.inf
        return Ranking(values, self.mean)

    def at_most(self, value: float) -> int:
        """How many ranked samples have at most this value."""
        # A float32 needle: a float64 one would make numpy copy the array.
        needle = np.float32(min(value, float(np.finfo(np.float32).max)))
        return int(np.searchsorted(self.ordered, needle, side="right"))

    def lowest(self, count: int, *, seed: int, epoch: int) -> Mask:
        """The mask [N] of exactly ``count`` lowest samples, at most all that are ranked."""
        count = min(count, self.known)
        if count <= 0:
            return np.zeros(len(self.values), np.bool_)
        threshold = self.ordered[count - 1]
        if count == self.known or self.ordered[count] > threshold:
            taken: Mask = self.values <= threshold
            return taken
        taken = self.values < threshold
        ties = np.flatnonzero(self.values == threshold).astype(id_dtype(len(self.values)))
        below = int(np.searchsorted(self.ordered, threshold))
        taken[shuffled(ties, seed=seed, epoch=epoch, draw=Draw.TIES)[: count - below]] = True
        return taken


def loss_ranking(table: Snapshot) -> Ranking:
    """Rank by loss. Unseen samples and those whose loss is not finite have no rank."""
    values = table.losses.copy()
    # Rounding can leave a loss a hair below zero.
    np.maximum(values, 0.0, out=values)
    values[(table.epochs < 0) | ~np.isfinite(values)] = np.inf
    return Ranking(values)


def random_ranking(among: Mask, *, seed: int, epoch: int) -> Ranking:
    """Rank the samples of a mask [N] at random, seen or not."""
    ids = np.arange(len(among), dtype=id_dtype(len(among)))
    keys = hashes(ids, seed=seed, epoch=epoch, draw=Draw.SUBSET)
    keys >>= np.uint64(40)  # 24 bits: exact in float32
    values = keys.astype(np.float32)
    values[~among] = np.inf
    return Ranking(values)


def thinned(
    ranking: Ranking, count: int, rate: float, *, seed: int, epoch: int
) -> tuple[Ids, Mask]:
    """Of the ``count`` lowest samples, drop the share ``rate`` (rounded down) at random.

    Returns the ids of the dropped, rising, and the mask [N] of the kept among these lowest.
    """
    kept = ranking.lowest(count, seed=seed, epoch=epoch)
    easy = np.flatnonzero(kept).astype(id_dtype(len(kept)))
    gone = earliest(easy, int(rate * len(easy)), seed=seed, epoch=epoch, draw=Draw.DROP)
    dropped = easy[gone]
    kept[dropped] = False
    return dropped, kept


def loss_factors(ids: Ids, kept: Mask, rate: float) -> Losses:
    """Factors [n] of the losses of ``ids`` that make up for those `thinned` out at ``rate``.

    kept: the mask [N] of those that count for the dropped too. (A mask, as it is read at random: of
    100 million factors that takes twice as long.)
    """
    factors = np.ones(len(ids), np.float32)
    factors[gathered(kept, ids)] = 1.0 / (1.0 - rate)
    return factors


def scaled_counts(
    counts: Callable[[float], Sequence[int]], savings: Sequence[float], target: float
) -> list[int]:
    """Scale thresholds by one common factor until they save ``target`` network inputs.

    counts: samples below each threshold, for a scale of 0 or more; rising with it.
    savings: network inputs that one sample below that threshold saves.
    target: network inputs to save. The nearest that can be reached, to about one input: where
    samples of equal value make the count jump, the counts in between are interpolated.
    """

    def saved(taken: Sequence[float]) -> float:
        return sum(n * s for n, s in zip(taken, savings, strict=True))

    none = [0] * len(savings)
    if target <= 0:
        return none
    low, high = 0.0, 1.0
    below: list[int] = none
    above = list(counts(high))
    while saved(above) < target and high < 1e30:
        low, below, high = high, above, high * 4.0
        above = list(counts(high))
    if saved(above) <= target:
        return above
    for _ in range(64):
        middle = (low + high) / 2
        between = list(counts(middle))
        if saved(between) < target:
            low, below = middle, between
        else:
            high, above = middle, between
    step = saved(above) - saved(below)
    part = (target - saved(below)) / step if step > 0 else 0.0
    return [round(a + (b - a) * part) for a, b in zip(below, above, strict=True)]
