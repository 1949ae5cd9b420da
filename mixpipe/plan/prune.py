"""Policies that leave samples out instead of mixing them: the rivals, and what may be combined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .arrays import Ids, id_dtype
from .epoch import EpochPlan, plain_plan
from .order import by_loss
from .policy import Policy
from .random import Draw, uniforms
from .rules import MeanRule, QuantileRule
from .schedule import Schedule, check_speedup
from .select import Ranking, loss_factors, loss_ranking, scaled_counts, thinned
from .table import LossTable

__all__ = ["InfoBatch", "SelectiveBackprop"]

_CHUNK = 1 << 16
# Below this share of the samples an epoch of Selective-Backprop is no training any more.
_LEAST_KEPT = 0.05


@dataclass(frozen=True, kw_only=True)
class InfoBatch(Policy):
    """InfoBatch (Qin et al., 2024): unbiased dynamic pruning of the easy samples.

    Of the samples whose loss is at most the mean, the share ``rate`` is dropped at random; those of
    them that are kept count 1 / (1 - rate) in the loss. The last epochs are full. A dropped sample
    keeps its old loss, an unseen one is never dropped.

    Attributes:
        epochs: of the run.
        rate: the paper's r.
        final: share of the epochs, at the end, that are full: 1 - delta in the paper.
        rule: which samples may be dropped.
        speedup: samples over network inputs that the whole run is to have: the rule's threshold is
            scaled until it does. None: what rate and rule give.
    """

    epochs: int
    rate: float = 0.5
    final: float = 0.125
    rule: MeanRule | QuantileRule = field(default_factory=MeanRule)
    speedup: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"rate: got {self.rate}, expected a share between 0 and 1")
        check_speedup(self.speedup)
        self._cost(epoch=0)

    def _schedule(self) -> Schedule:
        return Schedule(warmup=0, epochs=self.epochs, final=self.final)

    def _cost(self, epoch: int) -> float | None:
        """Network inputs a sample that ``epoch`` may cost."""
        if self.speedup is None:
            self._schedule()
            return None
        return self._schedule().cost(self.speedup, least=1.0 - self.rate, epoch=epoch)

    def plan(self, table: LossTable, epoch: int, seed: int) -> EpochPlan:
        """See `Policy.plan`."""
        n = len(table)
        if not self._schedule().acts(epoch):
            return plain_plan(n, epoch=epoch, seed=seed)
        ranking = loss_ranking(table.snapshot())
        easy = self._easy(ranking, n, epoch)
        dropped, kept = thinned(ranking, easy, self.rate, seed=seed, epoch=epoch)
        del ranking
        stays = np.ones(n, np.bool_)
        stays[dropped] = False
        del dropped
        ids = np.flatnonzero(stays).astype(id_dtype(n))
        plan = plain_plan(n, epoch=epoch, seed=seed, ids=ids)
        return replace(plan, scales=loss_factors(plan.ids, kept, self.rate))

    def _easy(self, ranking: Ranking, n: int, epoch: int) -> int:
        """How many samples may be dropped."""
        cost = self._cost(epoch)
        if cost is None:
            return self.rule.count(ranking)
        return scaled_counts(
            lambda scale: [self.rule.count(ranking, scale)], [self.rate], n - cost * n
        )[0]


@dataclass(frozen=True, kw_only=True)
class SelectiveBackprop(Policy):
    """Selective-Backprop's law (Jiang et al., 2019) on the losses of earlier epochs.

    A sample is kept with the probability p ** beta, where p is its loss's percentile among those
    seen: the hardest always, the easiest hardly ever. So 1 / (1 + beta) of the samples are kept.
    The paper finds the losses by an extra forward pass; here they are those in the table. Losses
    are not rescaled, as in the paper. A dropped sample keeps its old loss, an unseen one is never
    dropped.

    Attributes:
        beta: selectivity, above 0.
        speedup: samples over network inputs, of an epoch or, with ``epochs``, of the whole run;
            instead of ``beta``, which then follows from it.
        warmup: full epochs at the beginning.
        epochs: of the run; needed for ``final``.
        final: share of the epochs, at the end, that are full.
    """

    beta: float = 1.0
    speedup: float | None = None
    warmup: int = 1
    epochs: int | None = None
    final: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta: got {self.beta}, expected a number above 0")
        check_speedup(self.speedup)
        self._exponent(epoch=0)

    def _schedule(self) -> Schedule:
        return Schedule(self.warmup, self.epochs, self.final)

    def _exponent(self, epoch: int) -> float:
        schedule = self._schedule()
        if self.speedup is None:
            return self.beta
        return 1.0 / schedule.cost(self.speedup, least=_LEAST_KEPT, epoch=epoch) - 1.0

    def plan(self, table: LossTable, epoch: int, seed: int) -> EpochPlan:
        """See `Policy.plan`."""
        n = len(table)
        if not self._schedule().acts(epoch):
            return plain_plan(n, epoch=epoch, seed=seed)
        ranking = loss_ranking(table.snapshot())
        known = np.isfinite(ranking.values)
        unseen = np.flatnonzero(~known).astype(id_dtype(n))
        ids = np.flatnonzero(known).astype(id_dtype(n))
        kept = self._kept(by_loss(ids, ranking.values, seed=seed, epoch=epoch), epoch, seed)
        return plain_plan(n, epoch=epoch, seed=seed, ids=np.concatenate([kept, unseen]))

    def _kept(self, ids: Ids, epoch: int, seed: int) -> Ids:
        """Those of ``ids``, by rising loss, that are kept."""
        keep = np.empty(len(ids), np.bool_)
        exponent = self._exponent(epoch)
        for start in range(0, len(ids), _CHUNK):
            piece = ids[start : start + _CHUNK]
            percentile = np.arange(start + 1, start + len(piece) + 1) / len(ids)
            chance = uniforms(piece, 1, seed=seed, epoch=epoch, draw=Draw.DROP)[0]
            keep[start : start + len(piece)] = chance < percentile**exponent
        kept: Ids = ids[keep]
        return kept
