"""The loss of composites, which keeps the loss table as it goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixpipe import kernels
from mixpipe.plan import LossTable
from mixpipe.target import CompositeTarget

__all__ = ["CompositeLoss"]


class CompositeLoss(nn.Module):
    """Cross-entropy of composites; writes each constituent's loss into the loss table.

    The loss of a batch of ``B`` composites is ``Σ weights · cross-entropy / B`` over all
    constituents: with one constituent of weight 1 a row it is ``torch.nn.CrossEntropyLoss``.
    While the module is training and gradients are enabled, the same pass over the logits writes the
    table: each constituent's cross-entropy without smoothing, and the epoch.

    Args:
        table: the loss table to keep, on the logits' device; None keeps none.
        label_smoothing: in [0, 1), as in ``torch.nn.CrossEntropyLoss``.
        ignore_index: a class that takes no part, as in ``torch.nn.CrossEntropyLoss``.

    Shape:
        - logits: floating ``[B, C]`` (one row for all constituents) or ``[B, K, C]``
        - output: float32 scalar
    """

    def __init__(
        self,
        table: LossTable | None = None,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing: expected 0 <= value < 1, got {label_smoothing}")
        self.table = table
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: CompositeTarget) -> Tensor:
        """The batch's loss; see the class."""
        # Validating needs no gradients, and often sets the model alone to eval().
        table = self.table if self.training and torch.is_grad_enabled() else None
        loss, _ = kernels.composite_cross_entropy(
            logits,
            target.classes,
            target.weights,
            ids=None if table is None else target.ids,
            table_losses=None if table is None else table.losses,
            table_epochs=None if table is None else table.epochs,
            epoch=target.epoch,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )
        return loss
