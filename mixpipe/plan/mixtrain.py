"""MixTrain: several samples in one network input, chosen by their loss."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .arrays import Ids, Losses, Mask, id_dtype
from .epoch import BatchBy, EpochPlan, Weighting, assemble, plain_plan
from .layouts import MAX_CONSTITUENTS, WHOLE, Layout
from .on_device import company_on_device, has_device_rule
from .order import shuffled
from .pairing import BySimilarLoss, Pairing, RandomPairing
from .policy import Policy
from .random import Draw
from .rules import Budget, Drop, Hysteresis, MeanRule, QuantileRule, RandomRule, Rule, Tier
from .schedule import Schedule, check_speedup
from .select import (
    Ranking,
    loss_factors,
    loss_ranking,
    random_ranking,
    scaled_counts,
    thinned,
)
from .table import LossTable, Snapshot

__all__ = ["Adaptive", "MixTrain"]

_CHUNK = 1 << 15  # composites


@dataclass(frozen=True)
class Adaptive:
    """The share of the canvas follows the loss: the higher the loss, the larger the region.

    Shares are in proportion to loss ** exponent, then drawn towards the equal share 1 / k so far
    that none is below ``min_share`` of it.
    """

    exponent: float = 1.0
    min_share: float = 0.5

    def __post_init__(self) -> None:
        if not self.exponent > 0:
            raise ValueError(f"exponent: got {self.exponent}, expected a number above 0")
        if not 0.0 < self.min_share <= 1.0:
            raise ValueError(
                f"min_share: got {self.min_share}, expected a part of the equal share, above 0 and "
                "up to 1"
            )

    def shares(self, losses: Losses, usual: float) -> Losses:
        """Shares [M, k] for losses [M, k]; one that is not finite (unseen) counts as ``usual``."""
        part: Losses = np.where(np.isfinite(losses), losses, np.float32(usual))
        np.maximum(part, 0.0, out=part)
        top = part.max(axis=1, keepdims=True)
        # Only the ratios count; taken of the largest, powers neither overflow nor all vanish.
        part = np.divide(part, top, out=np.ones_like(part), where=top > 0)
        np.power(part, np.float32(self.exponent), out=part)
        part /= part.sum(axis=1, keepdims=True)
        part *= np.float32(1.0 - self.min_share)
        part += np.float32(self.min_share / losses.shape[1])
        return part


class MixTrain(Policy):
    """MixTrain (Krithivasan et al., 2024): kN samples in N network inputs, for the easy samples.

    Every epoch, the rule takes the samples that may be mixed from the loss table; these go k in a
    composite, and the others, unseen ones included, go plain. What does not fill a composite goes
    plain too. With ``tiers`` the lowest losses get the most company.

    Args:
        speedup: samples over network inputs that the run is to have (of an epoch, where ``epochs``
            is not given): short for ``rule=Budget(speedup, of=rule)``, and the way to ask it of
            tiers, whose thresholds are then scaled by one common factor.
        rule: which samples may be mixed: `MeanRule` (by default), `QuantileRule`, `RandomRule`,
            `Hysteresis` or `Budget`.
        k: samples in a composite, 2 to 4.
        layout: where they lie and which part of them shows; by default `default_layout` (k).
        tiers: several `Tier` (k, rule, layout) instead of ``rule``, ``k`` and ``layout``. A sample
            that several tiers take goes to the one with the largest k. With ``speedup`` alone: two
            for losses up to the mean, four up to 0.3 of it, by one factor more or less. These
            defaults, the same budget in every epoch after the warm-up, did best, or as well as any,
            on validation images (docs/method.md).
        adaptive: lets the share of the canvas follow the loss; None: equal shares.
        drop: additionally drops some of the easiest samples; None: nobody.
        pairing: who shares a composite with whom: `RandomPairing` (the default), `ByClass` or
            `BySimilarLoss`.
        warmup: epochs at the beginning without mixing or dropping.
        epochs: epochs of the run; needed for ``final``, and for a budget of the whole run.
        final: share of the epochs, at the end, without mixing or dropping.
        taper: share of the epochs before these over which mixing fades out; needs ``speedup``.
        weighting: "area": a constituent's part in the loss is its visible share of the canvas.
            "each": every constituent counts alike, so that the loss is a mean over samples.
        batch_by: what the batch size counts. "constituents" keeps the number of optimiser steps of
            plain training, with fewer inputs a step; "composites" has fewer steps.

    Raises:
        ValueError: settings that cannot work, named; a speed-up out of reach, with the largest that
            is in reach.

    Example:
        >>> MixTrain(speedup=1.8, epochs=90)
        >>> MixTrain(tiers=[Tier(2, MeanRule(1.0)), Tier(4, MeanRule(0.3))], adaptive=Adaptive())
    """

    def __init__(
        self,
        *,
        speedup: float | None = None,
        rule: MeanRule | QuantileRule | RandomRule | Hysteresis | Budget | None = None,
        k: int | None = None,
        layout: Layout | None = None,
        tiers: Sequence[Tier] | None = None,
        adaptive: Adaptive | None = None,
        drop: Drop | None = None,
        pairing: Pairing | None = None,
        warmup: int = 1,
        epochs: int | None = None,
        final: float = 0.0,
        taper: float = 0.0,
        weighting: Weighting = "area",
        batch_by: BatchBy = "constituents",
    ) -> None:
        if isinstance(rule, Budget):
            if speedup is not None:
                raise ValueError(
                    f"speedup: got {speedup} beside rule={rule!r}, expected one of them"
                )
            speedup, rule = rule.speedup, rule.of
        check_speedup(speedup)
        only_speedup = speedup is not None and (k, rule, layout) == (None, None, None)
        if tiers is None and only_speedup:
            tiers = [Tier(2, MeanRule(1.0)), Tier(4, MeanRule(0.3))]
        elif tiers is None:
            tiers = [Tier(2 if k is None else k, rule or MeanRule(), layout)]
        elif k is not None or rule is not None or layout is not None:
            raise ValueError("tiers: given beside k, rule or layout, which each tier has itself")
        for name, value, kind in (
            ("adaptive", adaptive, Adaptive),
            ("drop", drop, Drop),
            ("pairing", pairing, Pairing),
        ):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name}: got {value!r}, expected a mixpipe.{kind.__name__}")
        _check_tiers(tiers, speedup=speedup, adaptive=adaptive)
        if weighting not in ("area", "each"):
            raise ValueError(f"weighting: got {weighting!r}, expected 'area' or 'each'")
        if batch_by not in ("composites", "constituents"):
            raise ValueError(f"batch_by: got {batch_by!r}, expected 'composites' or 'constituents'")
        self.speedup = speedup
        self.tiers = tuple(sorted(tiers, key=lambda tier: tier.k))
        self.adaptive = adaptive
        self.drop = drop
        self.pairing = pairing or RandomPairing()
        self.schedule = Schedule(warmup, epochs, final, taper)
        self.weighting: Weighting = weighting
        self.batch_by = batch_by
        if taper and speedup is None:
            raise ValueError(f"taper: got {taper} without speedup, whose saving it spreads")
        self._cost(epoch=0)  # whether the speed-up can be reached
        self._memory = _Memory()

    def __repr__(self) -> str:
        names = (
            "speedup",
            "tiers",
            "adaptive",
            "drop",
            "pairing",
            "schedule",
            "weighting",
            "batch_by",
        )
        return f"MixTrain({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def _cost(self, epoch: int) -> float | None:
        """Network inputs a sample that ``epoch`` may cost; None: what the thresholds give."""
        if self.speedup is None:
            return None
        kept = 1.0 - (self.drop.share if self.drop else 0.0)
        by_loss = any(tier.rule.by_loss for tier in self.tiers)
        return self.schedule.cost(self.speedup, kept / self.tiers[-1].k, epoch, by_loss=by_loss)

    @property
    def max_constituents(self) -> int:
        """See `Policy.max_constituents`."""
        return self.tiers[-1].k

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """See `Policy.layouts`."""
        return {tier.k: tier.placed_by for tier in self.tiers}

    def plan(self, table: LossTable, epoch: int, seed: int) -> EpochPlan:
        """See `Policy.plan`."""
        n = len(table)
        if not self.schedule.acts(epoch):
            return plain_plan(n, epoch=epoch, seed=seed)
        shares = scales = None
        if table.device.type != "cpu" and self._needs_no_losses:  # only a GPU's table
            cost = self._cost(epoch)
            savings = None if cost is None else n - cost * n
            company = company_on_device(table, self.tiers, savings, seed=seed, epoch=epoch)
            groups = self._groups(company, np.empty(0, np.float32), epoch, seed)
            ids, offsets = assemble(groups, epoch=epoch, seed=seed)
        else:
            snapshot = table.snapshot()
            company, kept, usual = self._select(snapshot, epoch, seed)
            groups = self._groups(company, snapshot.losses, epoch, seed)
            del company
            ids, offsets = assemble(groups, epoch=epoch, seed=seed)
            del groups
            if self.drop is not None:
                scales = loss_factors(ids, kept, self.drop.rate)
            if self.adaptive is not None:
                shares = _shares(self.adaptive, ids, offsets, snapshot.losses, usual)
        return EpochPlan(
            epoch,
            seed,
            n,
            ids,
            offsets,
            {1: WHOLE, **self.layouts},
            shares=shares,
            scales=scales,
            weighting=self.weighting,
        )

    @property
    def _needs_no_losses(self) -> bool:
        """Whether threshold and subset are all that is asked of the loss table."""
        return (
            self.drop is None
            and self.adaptive is None
            and not isinstance(self.pairing, BySimilarLoss)
            and has_device_rule(self.tiers, budget=self.speedup is not None)
        )

    def state_dict(self) -> dict[str, Any]:
        """Who was mixed, where the rule is `Hysteresis`; else nothing."""
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._memory = _Memory.from_state_dict(state)

    def _select(
        self, snapshot: Snapshot, epoch: int, seed: int
    ) -> tuple[npt.NDArray[np.uint8], Mask, float]:
        """Who is mixed and who is dropped.

        Returns, for the N samples: how many share a composite with each (0: it is dropped); those
        whose loss counts for the dropped too, empty without ``drop``; and the mean loss.
        """
        ranking = loss_ranking(snapshot)
        company = np.ones(len(ranking.values), np.uint8)
        kept, usual = np.empty(0, np.bool_), ranking.mean
        if self.drop is not None:
            easy = round(self.drop.easiest * ranking.known)
            dropped, kept = thinned(ranking, easy, self.drop.rate, seed=seed, epoch=epoch)
            company[dropped] = 0
            ranking = ranking.without(dropped)
        if not self.tiers[0].rule.by_loss:
            ranking = random_ranking(company > 0, seed=seed, epoch=epoch)
        if isinstance(self.tiers[0].rule, Hysteresis):
            mixed = _hysteresis(
                self.tiers[0].rule, ranking, self._memory.before(epoch, len(company)), epoch, seed
            )
            self._memory.keep(epoch, mixed)
            company[mixed] = self.tiers[0].k
        else:
            for tier, count in zip(self.tiers, self._counts(ranking, company, epoch), strict=True):
                company[ranking.lowest(count, seed=seed, epoch=epoch)] = tier.k
        return company, kept, usual

    def _counts(self, ranking: Ranking, company: npt.NDArray[np.uint8], epoch: int) -> list[int]:
        """How many samples each tier takes, those of the tiers above it included."""
        rules = [tier.rule for tier in self.tiers if isinstance(tier.rule, Rule)]

        def counts(scale: float) -> list[int]:
            taken = [rule.count(ranking, scale) for rule in rules]
            for i in range(len(taken) - 1, 0, -1):
                taken[i - 1] = max(taken[i - 1], taken[i])
            return taken

        cost = self._cost(epoch)
        if cost is None:
            return counts(1.0)
        # A sample that moves up a tier saves the difference of what it costs in the two.
        costs = [1.0, *(1.0 / tier.k for tier in self.tiers)]
        savings = [here - above for here, above in itertools.pairwise(costs)]
        inputs = float(np.count_nonzero(company))
        return scaled_counts(counts, savings, inputs - cost * len(company))

    def _groups(
        self,
        company: npt.NDArray[np.uint8],
        losses: Losses,
        epoch: int,
        seed: int,
    ) -> list[Ids]:
        """The composites, by their number of constituents: arrays [M_k, k] of ids."""
        groups = []
        plain = [_ids_where(company, 1)]
        for tier in self.tiers:
            ids = _ids_where(company, tier.k)
            ids = shuffled(ids, seed=seed, epoch=epoch, draw=Draw.GROUP)
            full = len(ids) // tier.k * tier.k
            plain.append(ids[full:])
            groups.append(self.pairing.groups(ids[:full], tier.k, losses, seed=seed, epoch=epoch))
        return [np.concatenate(plain)[:, None], *groups]


def _check_tiers(
    tiers: Sequence[Tier], *, speedup: float | None, adaptive: Adaptive | None
) -> None:
    """Whether the tiers can work together."""
    for tier in tiers:
        if not isinstance(tier, Tier):
            raise TypeError(f"tiers: got {tier!r} among them, expected Tier(k, rule) each")
    sizes = [tier.k for tier in tiers]
    rules = [tier.rule for tier in tiers]
    if not tiers or len(set(sizes)) < len(sizes):
        raise ValueError(f"tiers: got k = {sizes}, expected at least one tier, each of another k")
    if len({rule.by_loss for rule in rules}) > 1:
        raise ValueError("tiers: got RandomRule beside rules that go by loss, expected one kind")
    if any(isinstance(rule, Hysteresis) for rule in rules):
        if len(tiers) > 1:
            raise ValueError("tiers: Hysteresis works with one k only: give it as rule=")
        if speedup is not None:
            raise ValueError(
                f"speedup: got {speedup} with Hysteresis, which decides by itself how many samples "
                "are mixed: use another rule, or no speedup"
            )
    if len({tier.placed_by.blends for tier in tiers}) > 1:
        raise ValueError("tiers: got Blend beside layouts with regions, expected one kind")
    drawn = [tier.placed_by for tier in tiers if tier.placed_by.draws_shares]
    if adaptive is not None and drawn:
        raise ValueError(
            f"adaptive: has no effect on {drawn[0]!r}, which draws its shares: give it alpha=None"
        )


def _ids_where(company: npt.NDArray[np.uint8], k: int) -> Ids:
    return np.flatnonzero(company == k).astype(id_dtype(len(company)))


def _shares(
    adaptive: Adaptive,
    ids: Ids,
    offsets: Ids,
    losses: Losses,
    usual: float,
) -> Losses:
    """Every constituent's share of its canvas, in pieces that stay in the cache."""
    shares = np.ones(len(ids), np.float32)
    for first in range(0, len(offsets) - 1, _CHUNK):
        edges = offsets[first : first + _CHUNK + 1]
        counts = np.diff(edges)
        for k in range(2, MAX_CONSTITUENTS + 1):
            members = edges[:-1][counts == k][:, None] + np.arange(k, dtype=edges.dtype)
            if len(members):
                shares[members] = adaptive.shares(losses.take(ids[members]), usual)
    return shares


def _hysteresis(
    rule: Hysteresis, ranking: Ranking, before: Mask | None, epoch: int, seed: int
) -> Mask:
    """Those whom the rule lets in, and those who were in and need not leave yet."""
    mixed = ranking.lowest(rule.enter.count(ranking), seed=seed, epoch=epoch)
    if before is None:
        return mixed
    # In pieces that stay in the cache: whole arrays in between made it the slowest policy at 1e8.
    pieces = [slice(i, i + _CHUNK) for i in range(0, len(before), _CHUNK)]
    total, count = 0.0, 0
    for piece in pieces:
        values = ranking.values[piece]
        plain = values[~before[piece] & np.isfinite(values)]
        total, count = total + float(plain.sum(dtype=np.float64)), count + len(plain)
    leave = np.float32(rule.leave * (total / count if count else ranking.mean))
    for piece in pieces:
        mixed[piece] |= before[piece] & (ranking.values[piece] <= leave)
    return mixed


def _unpacked(bits: torch.Tensor | None, count: int) -> Mask | None:
    return None if bits is None else np.unpackbits(bits.numpy(), count=count).view(np.bool_)


class _Memory:
    """Who was mixed in the last planned epoch, and in the one before it.

    Both, so that planning the same epoch again (after a restart, say) gives the same plan. Going
    back to an earlier epoch forgets both: it is another run.
    """

    def __init__(self) -> None:
        self.epoch = -1
        self.masks: tuple[Mask | None, Mask | None] = (None, None)  # before the epoch, in it

    def before(self, epoch: int, num_samples: int) -> Mask | None:
        """Who was mixed in the last planned epoch before this one; None: nobody knows."""
        if epoch < self.epoch:
            return None
        mask = self.masks[0] if epoch == self.epoch else self.masks[1]
        if mask is not None and len(mask) != num_samples:
            raise ValueError(
                f"table: got {num_samples} samples, expected {len(mask)}, as in the epochs before: "
                "Hysteresis remembers them, so take another policy for another data set"
            )
        return mask

    def keep(self, epoch: int, mixed: Mask) -> None:
        self.masks = (self.before(epoch, len(mixed)), mixed)
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        if self.epoch < 0:
            return {}
        packed = [None if m is None else torch.from_numpy(np.packbits(m)) for m in self.masks]
        count = 0 if self.masks[1] is None else len(self.masks[1])
        return {"epoch": self.epoch, "num_samples": count, "before": packed[0], "mixed": packed[1]}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _Memory:
        memory = cls()
        if state:
            memory.epoch = state["epoch"]
            count = state["num_samples"]
            memory.masks = (_unpacked(state["before"], count), _unpacked(state["mixed"], count))
        return memory
