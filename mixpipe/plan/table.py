"""LossTable: what is known of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor

__all__ = ["LossTable", "Snapshot"]

UNSEEN = -1
# all_reduce packs this many samples at a time, so that it needs 32 MiB, whatever the data set.
_CHUNK = 1 << 22


class Snapshot(NamedTuple):
    """The table on the host, for the policies to read."""

    losses: npt.NDArray[np.float32]  # [N]; NaN where unseen
    epochs: npt.NDArray[np.int32]  # [N]; -1 where unseen


class LossTable:
    """Per sample: its last loss and the epoch of it, in the training device's memory.

    losses: float32 [N], NaN until seen.
    epochs: int32 [N], -1 until seen. Unseen is not a loss of zero.

    The composite loss kernel writes both in the pass that computes the loss; policies read them
    once an epoch (`snapshot`).
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples: got {num_samples}, expected at least 1")
        self.losses: Tensor = torch.full(
            (num_samples,), float("nan"), dtype=torch.float32, device=device
        )
        self.epochs: Tensor = torch.full((num_samples,), UNSEEN, dtype=torch.int32, device=device)

    def __len__(self) -> int:
        return self.losses.numel()

    def __repr__(self) -> str:
        return f"LossTable({len(self)}, device={str(self.device)!r})"

    @property
    def device(self) -> torch.device:
        """Where the table is."""
        return self.losses.device

    def update(self, ids: Tensor, losses: Tensor, epoch: int) -> None:
        """Enter the losses of some samples.

        ids: integers, any shape; -1 (absent) is passed over. Of an id given twice the last counts.
        losses: floating, the same shape. epoch: 0 or more.
        """
        if ids.shape != losses.shape:
            raise ValueError(
                f"ids and losses: got shapes {tuple(ids.shape)} and {tuple(losses.shape)}, "
                "expected the same"
            )
        if ids.is_floating_point() or not losses.is_floating_point():
            raise TypeError(
                f"ids and losses: got {ids.dtype} and {losses.dtype}, "
                "expected integer ids and floating losses"
            )
        if epoch < 0:
            raise ValueError(f"epoch: got {epoch}, expected 0 or more")
        flat = ids.detach().reshape(-1).to(self.device, torch.int64)
        # A stable sort puts the occurrences of an id in the order given, so the last one is its
        # run's last: writing duplicates at once has no defined order on a GPU.
        flat, order = torch.sort(flat, stable=True)
        if flat.numel() and not (int(flat[0]) >= -1 and int(flat[-1]) < len(self)):
            raise IndexError(
                f"ids: got values from {int(flat[0])} to {int(flat[-1])}, "
                f"expected -1 (absent) or 0 to {len(self) - 1}"
            )
        last = torch.ones_like(flat, dtype=torch.bool)
        last[:-1] = flat[1:] != flat[:-1]
        last &= flat >= 0
        values = losses.detach().reshape(-1).to(self.device, torch.float32)
        self.losses[flat[last]] = values[order[last]]
        self.epochs[flat[last]] = epoch

    def snapshot(self) -> Snapshot:
        """The table as host arrays: a view where the table is on the CPU, else one copy."""
        return Snapshot(self.losses.cpu().numpy(), self.epochs.cpu().numpy())

    def all_reduce(self) -> None:
        """Make the table the same on every rank of torch.distributed: the newest epoch wins.

        Call it once an epoch, before the plan. Without an initialised process group nothing
        happens. Where two ranks saw a sample in the same epoch, the larger loss wins on all.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        for start in range(0, len(self), _CHUNK):
            losses = self.losses[start : start + _CHUNK]
            epochs = self.epochs[start : start + _CHUNK]
            # Epoch in the high half, the loss's bits in the low half: one maximum decides both.
            packed = (epochs.long() << 32) | (losses.view(torch.int32).long() & 0xFFFFFFFF)
            torch.distributed.all_reduce(packed, op=torch.distributed.ReduceOp.MAX)
            epochs.copy_(packed >> 32)
            low = packed & 0xFFFFFFFF
            losses.copy_(
                torch.where(low >= 1 << 31, low - (1 << 32), low).int().view(torch.float32)
            )

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the table, for a checkpoint."""
        return {"losses": self.losses.clone(), "epochs": self.epochs.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a table that `state_dict` gave, onto this table's device."""
        for name, own in (("losses", self.losses), ("epochs", self.epochs)):
            if name not in state:
                raise KeyError(f"state: no entry {name!r}, expected 'losses' and 'epochs'")
            if state[name].shape != own.shape:
                raise ValueError(
                    f"state[{name!r}]: got shape {tuple(state[name].shape)}, expected "
                    f"{tuple(own.shape)}: the checkpoint is of another data set"
                )
        self.losses.copy_(state["losses"])
        self.epochs.copy_(state["epochs"])
