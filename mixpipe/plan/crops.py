"""Crops: which part of a sample's image stands for it on a whole canvas (the augmentation)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .arrays import Floats, Ids, Mask, Size
from .random import Draw, uniforms

__all__ = ["CenterCrop", "Crop", "Crops", "RandomResizedCrop"]

Sizes = npt.NDArray[np.integer[Any]]

_ATTEMPTS = 10  # as torchvision


class Crops(NamedTuple):
    """The crops of n samples, in source pixels."""

    windows: Floats  # [n, 4] (y0, x0, y1, x1): what a whole canvas would show; may be fractional
    bounds: Floats  # [n, 4] whole pixels: the resampling filter sees nothing outside
    flips: Mask  # [n] mirrored left to right


class Crop(Protocol):
    """A rule that crops. It is a value: frozen, compared by content."""

    def __call__(
        self,
        heights: Sizes,
        widths: Sizes,
        ids: Ids,
        *,
        canvas: Size,
        epoch: int,
        seed: int,
    ) -> Crops:
        """The crops of samples ``ids`` [n], of images of ``heights`` x ``widths`` [n] pixels."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """torchvision's RandomResizedCrop and RandomHorizontalFlip, by the same law.

    scale: range of the crop's share of the image's area. ratio: range of width / height, uniform in
    its logarithm. flip: probability of mirroring left to right. Crops are whole pixels; as in
    torchvision, an image that refuses ten tries is cropped in its middle.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ValueError(f"scale: got {self.scale}, expected (low, high), 0 < low <= high <= 1")
        if not 0.0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: got {self.ratio}, expected (low, high), 0 < low <= high")
        if not 0.0 <= self.flip <= 1.0:
            raise ValueError(f"flip: got {self.flip}, expected a probability from 0 to 1")

    def __call__(
        self,
        heights: Sizes,
        widths: Sizes,
        ids: Ids,
        *,
        canvas: Size,
        epoch: int,
        seed: int,
    ) -> Crops:
        """See `Crop`."""
        n = len(ids)
        full_h, full_w = heights.astype(np.float64), widths.astype(np.float64)
        draws = uniforms(ids, 2 + 2 * _ATTEMPTS, seed=seed, epoch=epoch, draw=Draw.CROP)

        low, high = self.scale
        area = full_h * full_w * (low + (high - low) * draws[2 : 2 + _ATTEMPTS])  # [attempts, n]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = np.exp(low + (high - low) * draws[2 + _ATTEMPTS :])
        crop_w, crop_h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (crop_w > 0) & (crop_w <= full_w) & (crop_h > 0) & (crop_h <= full_h)
        attempt, column = np.argmax(fits, axis=0), np.arange(n)  # the first that fits
        crop_w, crop_h = crop_w[attempt, column], crop_h[attempt, column]
        y0 = np.floor(draws[0] * (full_h - crop_h + 1))
        x0 = np.floor(draws[1] * (full_w - crop_w + 1))

        none = ~fits[attempt, column]
        if none.any():
            h, w = full_h[none], full_w[none]
            crop_w[none] = np.minimum(w, np.maximum(1, np.rint(h * self.ratio[1])))
            crop_h[none] = np.minimum(h, np.maximum(1, np.rint(w / self.ratio[0])))
            y0[none] = (h - crop_h[none]) // 2
            x0[none] = (w - crop_w[none]) // 2

        windows = np.stack([y0, x0, y0 + crop_h, x0 + crop_w], axis=1)
        flips = uniforms(ids, 1, seed=seed, epoch=epoch, draw=Draw.FLIP)[0] < self.flip
        return Crops(windows, windows, flips)


@dataclass(frozen=True)
class CenterCrop:
    """Evaluation: torchvision's Resize(resize) and CenterCrop(canvas); nothing is random.

    resize: length of the image's shorter side before the crop, at least the canvas's sides.
    None: the whole image is stretched to the canvas.
    """

    resize: int | None = 256

    def __call__(
        self,
        heights: Sizes,
        widths: Sizes,
        ids: Ids,
        *,
        canvas: Size,
        epoch: int,
        seed: int,
    ) -> Crops:
        """See `Crop`."""
        full_h, full_w = heights.astype(np.float64), widths.astype(np.float64)
        zero = np.zeros(len(ids))
        bounds = np.stack([zero, zero, full_h, full_w], axis=1)
        flips = np.zeros(len(ids), np.bool_)
        if self.resize is None:
            return Crops(bounds, bounds, flips)
        if self.resize < max(canvas):
            raise ValueError(
                f"resize: got {self.resize}, expected at least the canvas's longer side "
                f"{max(canvas)}, else the crop would reach outside the image"
            )
        # The longer side is rounded down, as torchvision does.
        short = np.minimum(full_h, full_w)
        resized_h = np.floor(self.resize * full_h / short)
        resized_w = np.floor(self.resize * full_w / short)
        y0 = np.rint((resized_h - canvas[0]) / 2) * full_h / resized_h
        x0 = np.rint((resized_w - canvas[1]) / 2) * full_w / resized_w
        y1 = y0 + canvas[0] * full_h / resized_h
        x1 = x0 + canvas[1] * full_w / resized_w
        windows = np.clip(np.stack([y0, x0, y1, x1], axis=1), 0.0, bounds[:, [2, 3, 2, 3]])
        return Crops(windows, bounds, flips)
