"""Masks of composites: dense targets, composed by the same regions as the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixpipe.target import CompositeTarget

__all__ = ["compose_masks"]

Mask = Tensor | NDArray[Any]


def compose_masks(
    masks: Callable[[int], Mask],
    target: CompositeTarget,
    *,
    size: tuple[int, int],
    fill: int = 255,
) -> Tensor:
    """Masks of composites from the masks of their samples: every pixel's label moves with it.

    A region shows the same window of the mask as of the image, mirrored likewise, by the nearest
    label (labels have no values in between).

    Args:
        masks: gives a sample's mask by its id: integers ``[h, w]``, of its image's size.
        target: of the batch. Blends have no regions, and so no mask.
        size: the canvas, (height, width).
        fill: the label of pixels that show no sample; give it as ``ignore_index`` to the loss.

    Returns:
        int64 ``[B, H, W]``, on the CPU.

    Raises:
        ValueError: a mask that is not an integer ``[h, w]``, or smaller than its window; a blend.

    Example:
        >>> for images, target in loader:  # doctest: +SKIP
        ...     labels = mixpipe.compose_masks(read_mask, target, size=(224, 224))
        ...     loss = F.cross_entropy(model(images), labels, ignore_index=255)
    """
    if target.windows is None or target.flips is None:
        raise ValueError("target: windows and flips are None, expected a target from a MixLoader")
    reached = target.regions[..., 2:].amax((0, 1)).tolist() if target.regions.numel() else [0, 0]
    if reached[0] > size[0] or reached[1] > size[1]:
        raise ValueError(
            f"size: got {size[0]} x {size[1]}, but the target's regions reach to {reached[0]} x "
            f"{reached[1]}: expected the loader's canvas"
        )
    out = np.full((len(target.ids), *size), fill, np.int64)
    ids, regions = target.ids.cpu().numpy(), target.regions.cpu().numpy()
    windows, flips = target.windows.cpu().numpy(), target.flips.cpu().numpy()
    shown = None if target.index_map is None else target.index_map.cpu().numpy()
    for b, k in zip(*np.nonzero(ids >= 0), strict=True):
        y0, x0, y1, x1 = (int(edge) for edge in regions[b, k])
        if y1 == y0 or x1 == x0:
            raise ValueError(f"target: composite {b} is a blend, expected one with regions")
        mask = _checked(masks(int(ids[b, k])), int(ids[b, k]), windows[b, k])
        rows = _nearest(windows[b, k, 0], windows[b, k, 2], y1 - y0, mask.shape[0])
        columns = _nearest(windows[b, k, 1], windows[b, k, 3], x1 - x0, mask.shape[1])
        if flips[b, k]:
            columns = columns[::-1]
        part = mask[rows[:, None], columns]
        place = out[b, y0:y1, x0:x1]
        where = True if shown is None else shown[b, y0:y1, x0:x1] == k
        np.copyto(place, part, where=where)
    return torch.from_numpy(out)


def _nearest(low: float, high: float, count: int, extent: int) -> NDArray[np.int64]:
    """The source pixels under the centres of ``count`` pixels that show ``low`` to ``high``."""
    centres = low + (np.arange(count) + 0.5) * ((high - low) / count)
    pixels: NDArray[np.int64] = np.clip(np.floor(centres), 0, extent - 1).astype(np.int64)
    return pixels


def _checked(mask: Mask, sample: int, window: NDArray[np.float32]) -> NDArray[Any]:
    array = mask.numpy(force=True) if isinstance(mask, Tensor) else np.asarray(mask)
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise ValueError(
            f"masks({sample}): got {array.dtype} {list(array.shape)}, expected integers [h, w]"
        )
    if array.shape[0] < np.floor(window[2]) or array.shape[1] < np.floor(window[3]):
        raise ValueError(
            f"masks({sample}): got {array.shape[0]} x {array.shape[1]} pixels, but its image is "
            f"shown up to ({window[2]:g}, {window[3]:g}): expected a mask of the image's size"
        )
    return array
