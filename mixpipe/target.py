"""The composite label that comes with a batch of composites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixpipe import kernels

__all__ = ["CompositeTarget"]


class CompositeTarget(NamedTuple):
    """Labels of ``B`` composites of up to ``K`` constituents each.

    A named tuple, so that it is a pytree, is pinned by ``DataLoader`` and traced by
    ``torch.compile`` as it is. An absent constituent has id -1, class 0, weight 0 and the
    empty region (0, 0, 0, 0).

    Attributes:
        classes: int64 ``[B, K]``, each constituent's class; or float32 ``[B, K, C]``, its
            multi-label targets.
        weights: float32 ``[B, K]``, its part in the composite's loss: the share of the canvas
            that it shows, times what the policy asks for.
        ids: int64 ``[B, K]``, its sample id: the row of the loss table.
        regions: int32 ``[B, K, 4]``, ``(y0, x0, y1, x1)`` in canvas pixels, half open; later
            constituents lie over earlier ones. All zero in a blend, which has no regions.
            With an index map they are its bounding boxes.
        epoch: the epoch that the batch belongs to; the loss table notes it beside each loss. From
            the loader a number; an int32 scalar on the device serves a CUDA graph.
        index_map: uint8 ``[B, H, W]``, the constituent that each pixel shows, where the policy
            has a layout of ``@mixpipe.layout``; else None.
        windows: float32 ``[B, K, 4]``, the part of its image that a constituent's region shows,
            ``(y0, x0, y1, x1)`` in pixels of the image as it is stored; for dense targets
            (`compose_masks`), boxes and the like.
        flips: bool ``[B, K]``, whether that part is mirrored left to right.
    """

    classes: Tensor
    weights: Tensor
    ids: Tensor
    regions: Tensor
    epoch: int | Tensor = 0
    index_map: Tensor | None = None
    windows: Tensor | None = None
    flips: Tensor | None = None

    def to(
        self, device: torch.device | str | None = None, *, non_blocking: bool = False
    ) -> CompositeTarget:
        """This target with its tensors on ``device``, like ``Tensor.to``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> CompositeTarget:
        """This target in page-locked memory, like ``Tensor.pin_memory``."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> CompositeTarget:
        changed: dict[str, Any] = {
            name: change(part) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**changed)

    def dense(self, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Soft labels, float32 ``[B, num_classes]``, as ``torchvision.transforms.v2.CutMix`` gives.

        Args:
            num_classes: the number of classes.
            smoothing: label smoothing in [0, 1), as in ``torch.nn.CrossEntropyLoss``.

        Raises:
            TypeError: the targets are multi-label, and so dense already.
        """
        if self.classes.is_floating_point():
            raise TypeError(
                "dense: the targets are multi-label; (target.weights[..., None] * "
                "target.classes).sum(1) mixes them"
            )
        return kernels.dense_targets(self.classes, self.weights, num_classes, smoothing=smoothing)
