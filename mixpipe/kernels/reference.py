"""The kernels in plain torch: same signatures, same results, no speed. The oracle of the tests.

A fused multiply-add is computed in float64 and rounded once to float32. The product of two float32
is exact in float64; so is its sum with a third, except where their exponents lie more than 29 bits
apart, which the values here do not reach.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["compose"]


def _fused_multiply_add(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """The float32 value of a * b + c, rounded once."""

    def wide(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=a.device).double()

    return (a.double() * wide(b) + wide(c)).float()


def compose(
    patches: Sequence[Tensor],
    source: Tensor,
    regions: Tensor | None,
    *,
    size: tuple[int, int],
    origins: Tensor | None = None,
    flips: Tensor | None = None,
    blend: Tensor | None = None,
    index_map: Tensor | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """See :func:`mixpipe.kernels.compose`."""
    batch, constituents = source.shape
    height, width = size
    device = patches[0].device if patches else source.device
    images = torch.zeros(batch, height, width, 3, device=device)
    covered = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    for b in range(batch):
        for k in range(constituents):
            index = int(source[b, k])
            if index < 0:
                continue
            if blend is not None or regions is None:
                y0, x0, y1, x1 = 0, 0, height, width
            else:
                y0, x0, y1, x1 = regions[b, k].tolist()
            top, left = (0, 0) if origins is None else origins[b, k].tolist()
            patch = patches[index][top : top + y1 - y0, left : left + x1 - x0].float()
            if flips is not None and bool(flips[b, k]):
                patch = patch.flip(1)
            image, cover = images[b, y0:y1, x0:x1], covered[b, y0:y1, x0:x1]
            if blend is not None:
                image.copy_(_fused_multiply_add(patch, blend[b, k], image))
                cover.fill_(True)
            elif index_map is not None:
                shown = index_map[b, y0:y1, x0:x1] == k
                image[shown] = patch[shown]
                cover |= shown
            else:
                image.copy_(patch)
                cover.fill_(True)
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device)
    bias = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    images = _fused_multiply_add(images, scale, bias)
    images[~covered] = 0.0
    result = images.permute(0, 3, 1, 2).to(out.dtype if out is not None else dtype)
    if out is not None:
        return out.copy_(result)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return result.contiguous(memory_format=memory_format)
