"""N -> N mixing: every sample leads one composite and is company in another (MixUp, CutMix)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from .epoch import EpochPlan, paired_plan, plain_plan
from .layouts import Blend, CutMixBox, Layout
from .policy import Policy
from .table import LossTable

__all__ = ["CutMix", "MixUp"]


@dataclass(frozen=True)
class _Paired(Policy):
    """What MixUp and CutMix share: their plans are the same, their layouts differ.

    Attributes:
        alpha: the first constituent's share is drawn from Beta(alpha, alpha), for each composite.
        plain_from: the epoch from which on nothing is mixed; None: never.
    """

    alpha: float = 1.0
    plain_from: int | None = None

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha: got {self.alpha}, expected a number above 0")
        if self.plain_from is not None and self.plain_from < 0:
            raise ValueError(f"plain_from: got {self.plain_from}, expected an epoch, 0 or more")

    @property
    def max_constituents(self) -> int:
        """See `Policy.max_constituents`."""
        return 2

    @abstractmethod
    def _layout(self) -> Layout:
        """Where the two of a composite lie."""

    def plan(self, table: LossTable, epoch: int, seed: int) -> EpochPlan:
        """See `Policy.plan`."""
        if self.plain_from is not None and epoch >= self.plain_from:
            return plain_plan(len(table), epoch=epoch, seed=seed)
        return paired_plan(len(table), self._layout(), epoch=epoch, seed=seed)


class MixUp(_Paired):
    """MixUp (Zhang et al., 2018), as augmentation: N samples, N blends of two."""

    def _layout(self) -> Layout:
        return Blend(alpha=self.alpha)


class CutMix(_Paired):
    """CutMix (Yun et al., 2019), as augmentation: N samples, each with a box of another.

    torchvision's law, but drawn for each composite instead of once for a batch.
    """

    def _layout(self) -> Layout:
        return CutMixBox(alpha=self.alpha)
