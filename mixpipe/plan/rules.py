"""Rules: which samples may be mixed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from .layouts import MAX_CONSTITUENTS, Layout, default_layout
from .schedule import check_speedup
from .select import Ranking

__all__ = ["Budget", "Drop", "Hysteresis", "MeanRule", "QuantileRule", "RandomRule", "Rule", "Tier"]


class Rule(ABC):
    """Takes the lowest of a ranking, up to a threshold.

    Unseen samples are never taken by a rule that goes by loss.
    """

    by_loss: ClassVar[bool] = True  # else the ranking is random

    @abstractmethod
    def count(self, ranking: Ranking, scale: float = 1.0) -> int:
        """How many samples are taken when the threshold is multiplied by ``scale``."""


@dataclass(frozen=True)
class MeanRule(Rule):
    """Samples whose loss is at most ``tau`` times the mean loss."""

    tau: float = 1.0

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"tau: got {self.tau}, expected a factor of the mean loss above 0")

    def count(self, ranking: Ranking, scale: float = 1.0) -> int:
        """See `Rule.count`."""
        return ranking.at_most(self.tau * scale * ranking.mean)


@dataclass(frozen=True)
class QuantileRule(Rule):
    """The share ``q`` of the samples that have the lowest loss."""

    q: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.q <= 1.0:
            raise ValueError(f"q: got {self.q}, expected a share above 0 and up to 1")

    def count(self, ranking: Ranking, scale: float = 1.0) -> int:
        """See `Rule.count`."""
        return round(min(1.0, self.q * scale) * ranking.known)


@dataclass(frozen=True)
class RandomRule(Rule):
    """The share ``fraction`` of all samples, whatever their loss, seen or not: the control."""

    fraction: float = 0.5
    by_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction: got {self.fraction}, expected a share above 0 and up to 1")

    def count(self, ranking: Ranking, scale: float = 1.0) -> int:
        """See `Rule.count`."""
        return round(min(1.0, self.fraction * scale) * ranking.known)


@dataclass(frozen=True)
class Hysteresis:
    """A mixed sample stays mixed until its loss rises above ``leave`` times the plain mean.

    Then it goes plain until it falls to the threshold of ``enter`` again. The plain mean is that of
    the samples that went plain in the epoch before. For one k; a policy keeps who was mixed.
    """

    enter: MeanRule | QuantileRule = field(default_factory=MeanRule)
    leave: float = 1.0
    by_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.enter, (MeanRule, QuantileRule)):
            raise TypeError(f"enter: got {self.enter!r}, expected a MeanRule or a QuantileRule")
        if not self.leave > 0:
            raise ValueError(f"leave: got {self.leave}, expected a factor of the mean above 0")


@dataclass(frozen=True)
class Budget:
    """As many samples as give the named speed-up: ``of``'s threshold is scaled until they do.

    speedup: samples over network inputs, of an epoch; of the whole run where the policy knows the
    number of epochs, so that plain epochs are made up for.
    """

    speedup: float
    of: MeanRule | QuantileRule | RandomRule = field(default_factory=MeanRule)

    def __post_init__(self) -> None:
        check_speedup(self.speedup)
        if not isinstance(self.of, Rule):
            raise TypeError(f"of: got {self.of!r}, expected a MeanRule, QuantileRule or RandomRule")


@dataclass(frozen=True)
class Tier:
    """Samples that ``rule`` takes go ``k`` in a composite, placed by ``layout``.

    layout: by default that of `default_layout`: a split, strips, a grid for 2, 3, 4.
    """

    k: int = 2
    rule: MeanRule | QuantileRule | RandomRule | Hysteresis = field(default_factory=MeanRule)
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if self.k not in range(2, MAX_CONSTITUENTS + 1) or isinstance(self.k, float):
            raise ValueError(f"k: got {self.k}, expected 2 to {MAX_CONSTITUENTS} constituents")
        if not isinstance(self.rule, (Rule, Hysteresis)):
            raise TypeError(
                f"rule: got {self.rule!r}, expected a MeanRule, QuantileRule, RandomRule or "
                "Hysteresis; a speed-up is asked of the whole policy: MixTrain(speedup=...)"
            )
        if not isinstance(self.placed_by, Layout):
            raise TypeError(
                f"layout: got {self.layout!r}, expected a layout such as Split(), or a function "
                "under @mixpipe.layout"
            )
        if self.k not in self.placed_by.counts:
            raise ValueError(
                f"layout: {self.placed_by!r} cannot place {self.k} constituents, only "
                f"{' or '.join(map(str, self.placed_by.counts))}"
            )
        if self.placed_by.draws_shares and self.k != 2:
            raise ValueError(
                f"layout: {self.layout!r} draws the share of one of two constituents, but k is "
                f"{self.k}: give it alpha=None"
            )

    @property
    def placed_by(self) -> Layout:
        """The layout, or the default one."""
        return self.layout or default_layout(self.k)


@dataclass(frozen=True)
class Drop:
    """Mild pruning in InfoBatch's way: of the ``easiest`` share, ``rate`` are dropped at random.

    Those of them that are kept count 1 / (1 - rate) in the loss, so that its mean is unchanged.
    """

    rate: float = 0.3
    easiest: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"rate: got {self.rate}, expected a share between 0 and 1")
        if not 0.0 < self.easiest <= 1.0:
            raise ValueError(f"easiest: got {self.easiest}, expected a share above 0 and up to 1")

    @property
    def share(self) -> float:
        """The share of all samples that is dropped."""
        return self.rate * self.easiest
