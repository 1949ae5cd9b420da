"""Policy: reads the loss table and decides an epoch's plan; and the plainest one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .epoch import BatchBy, EpochPlan, plain_plan
from .layouts import Layout
from .table import LossTable

__all__ = ["Plain", "Policy"]


class Policy(ABC):
    """Decides who is mixed, with whom, at what ratio, and who is dropped.

    A plan is a function of (table, epoch, seed) and the policy's state, so that every rank derives
    the same one from the same table. Every sample that the policy does not drop is in it exactly
    once (in N -> N mixing: leads exactly one composite).
    """

    batch_by: BatchBy = "composites"  # what the loader's batch size counts

    @property
    def max_constituents(self) -> int:
        """The most constituents that a composite of its plans may have."""
        return 1

    @property
    def layouts(self) -> Mapping[int, Layout]:
        """The layouts of its plans that a checkpoint cannot hold, by number of constituents."""
        return {}

    @abstractmethod
    def plan(self, table: LossTable, epoch: int, seed: int) -> EpochPlan:
        """The plan of ``epoch`` (0 or more)."""

    def state_dict(self) -> dict[str, Any]:
        """What must outlive a restart beside the table, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if state:
            raise ValueError(
                f"state: got entries {sorted(state)}, expected none: {type(self).__name__} keeps "
                "no state; resume with the policy that was saved"
            )


@dataclass(frozen=True)
class Plain(Policy):
    """Every sample by itself: ordinary training, and evaluation with ``shuffle=False``."""

    shuffle: bool = True

    def plan(self, table: LossTable, epoch: int, seed: int) -> EpochPlan:
        """See `Policy.plan`."""
        return plain_plan(len(table), epoch=epoch, seed=seed, shuffle=self.shuffle)
