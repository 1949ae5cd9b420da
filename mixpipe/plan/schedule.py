"""Schedule: the epochs in which a policy acts, and what they must cost to keep a budget."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Plain epochs at the beginning (``warmup``) and at the end (share ``final`` of ``epochs``)."""

    warmup: int
    epochs: int | None
    final: float

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup: got {self.warmup}, expected 0 or more epochs")
        if not 0.0 <= self.final < 1.0:
            raise ValueError(f"final: got {self.final}, expected a share of the epochs, 0 to < 1")
        if self.epochs is None:
            if self.final:
                raise ValueError(
                    "epochs: got None, expected the run's number of epochs, since "
                    f"final={self.final} is a share of them"
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

    def cost(self, speedup: float, least: float) -> float:
        """Network inputs a sample that an epoch may cost, for the run to have the speed-up.

        least: what an epoch costs at the least. Without a number of epochs every epoch by itself
        has the speed-up; with it the plain epochs are made up for.
        """
        if self.epochs is None or self.plain_from is None:
            plain, acting = 0, 1
        else:
            # The first epoch is plain in any case: no loss is known yet.
            acting = max(0, self.plain_from - max(1, self.warmup))
            plain = self.epochs - acting
        largest = (plain + acting) / (plain + acting * least)
        if speedup > largest * (1 + 1e-9):
            where = f" with {plain} of {self.epochs} epochs plain" if self.epochs else ""
            raise ValueError(
                f"speedup: got {speedup:g}, but the largest attainable is {largest:.3f}{where}: "
                "ask for less, mix more constituents (k), drop more, or have fewer plain epochs"
            )
        return max(least, ((plain + acting) / speedup - plain) / acting)
