"""Schedule: the epochs in which a policy acts, and what they must cost to keep a budget."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Schedule", "check_speedup"]


def check_speedup(speedup: float | None) -> None:
    """Raise ``ValueError`` for a speed-up that is none; None: none is asked for."""
    if speedup is not None and not speedup > 1.0:
        raise ValueError(f"speedup: got {speedup}, expected more than 1")


@dataclass(frozen=True)
class Schedule:
    """Plain epochs at the beginning (``warmup``) and at the end (share ``final`` of ``epochs``).

    Over the share ``taper`` of the epochs before those at the end, what an epoch saves falls
    linearly to nothing.
    """

    warmup: int
    epochs: int | None
    final: float
    taper: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup: got {self.warmup}, expected 0 or more epochs")
        if not 0.0 <= self.final < 1.0:
            raise ValueError(f"final: got {self.final}, expected a share of the epochs, 0 to < 1")
        if not 0.0 <= self.taper <= 1.0 - self.final:
            raise ValueError(
                f"taper: got {self.taper}, expected a share of the epochs, 0 to "
                f"{1.0 - self.final:g} beside final={self.final}"
            )
        if self.epochs is None:
            if self.final or self.taper:
                raise ValueError(
                    "epochs: got None, expected the run's number of epochs, since "
                    f"final={self.final} and taper={self.taper} are shares of them"
                )
        elif self.epochs < 1:
            raise ValueError(f"epochs: got {self.epochs}, expected at least 1")

    @property
    def plain_from(self) -> int | None:
        """The first of the final plain epochs; None without an end."""
        return None if self.epochs is None else self.epochs - round(self.final * self.epochs)

    def acts(self, epoch: int) -> bool:
        """Whether the policy acts in ``epoch``."""
        end = self.plain_from
        return epoch >= self.warmup and (end is None or epoch < end)

    def strength(self, epoch: int) -> float:
        """How much of its usual saving ``epoch`` is to have: 1, falling to 0 over the taper."""
        if not self.acts(epoch):
            return 0.0
        if self.epochs is None or self.plain_from is None:
            return 1.0
        length = round(self.taper * self.epochs)
        return min(1.0, (self.plain_from - epoch) / (length + 1))

    def cost(self, speedup: float, least: float, epoch: int, *, by_loss: bool = True) -> float:
        """Network inputs a sample that ``epoch`` may cost, for the run to have the speed-up.

        least: what an epoch costs at the least. by_loss: who is mixed goes by loss, so that the
        first epoch is plain in any case, as none is known yet. Without a number of epochs every
        epoch by itself has the speed-up; with it the plain epochs are made up for, and those that
        the taper would have cost less than ``least`` by the others.
        """
        if self.epochs is None:
            strengths, count, here = [1.0], 1, 1.0
        else:
            acting = range(1 if by_loss else 0, self.epochs)
            strengths = [self.strength(e) for e in acting if self.acts(e)]
            count, here = self.epochs, self.strength(epoch)
        wanted, most = count * (1.0 - 1.0 / speedup), 1.0 - least
        largest = count / (count - most * len(strengths))
        if speedup > largest * (1 + 1e-9):
            plain = count - len(strengths)
            where = f" with {plain} of {self.epochs} epochs plain" if self.epochs else ""
            raise ValueError(
                f"speedup: got {speedup:g}, but the largest attainable is {largest:.3f}{where}: "
                "ask for less, mix more constituents (k), drop more, or have fewer plain epochs"
            )
        return 1.0 - min(most, here * _filled(strengths, most, wanted))


def _filled(strengths: list[float], most: float, wanted: float) -> float:
    """The factor with which the strengths, each cut at ``most``, add up to ``wanted``."""
    strongest = sorted(strengths, reverse=True)
    for cut in range(len(strongest)):  # so many of them reach `most`
        factor = (wanted - cut * most) / sum(strongest[cut:])
        if factor * strongest[cut] <= most:
            return factor
    return most / strongest[-1]
