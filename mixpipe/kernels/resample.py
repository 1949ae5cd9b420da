"""compose_resampled: decoded rectangles to a normalised batch of composites, in one pass.

rectangles uint8 [h, w, 3] x P, windows, sizes ─┐
source, regions, origins, flips (the plan)     ─┴─► resample + flip + normalise + cast + place
                                                     ─► images [B, 3, H, W]
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import check_tensor
from mixpipe.kernels.compose import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_places,
    make_composites,
    pixel_table,
    prepare_composites,
    scale_and_bias,
)
from mixpipe.kernels.prepared import Prepared
from mixpipe.kernels.rectangles import Rectangles, place_table


def compose_resampled(
    rectangles: Sequence[Tensor],
    windows: Tensor,
    sizes: Tensor,
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
    """Composes patches that are resampled on the way, and only where they show.

    As :func:`compose` of P patches, where patch p is ``windows[p]`` of ``rectangles[p]`` resampled
    to ``sizes[p]`` with the antialiased triangle filter: that of ``PIL.Image.resize(BILINEAR)`` and
    of ``torch.nn.functional.interpolate(mode="bilinear", antialias=True)``, which may look at all
    of the rectangle. All is computed in float32 and rounded once, to ``dtype``; a patch of uint8
    would lie within half a level of 255. In a CUDA graph the plan is that of the capture, as there.

    Args:
        rectangles: P tensors uint8 [h, w, 3] on the device of the result; rows may be padded
            (strides (pitch, 3, 1)). Or `Rectangles` of one tensor.
        windows: float32 [P, 4] on the CPU, (y0, x0, y1, x1) in pixels of the rectangle, inside it;
            edges may lie within a pixel.
        sizes: int32 [P, 2] on the CPU, height and width of the patch.
        source: int32 [B, K] on the CPU, which patch each constituent shows; -1: absent.
        regions: int32 [B, K, 4], see :func:`compose`.
        size: (H, W) of the canvas.
        origins: int32 [B, K, 2], (y, x) in the patch; see :func:`compose`.
        flips: bool [B, K], see :func:`compose`.
        blend: float32 [B, K], see :func:`compose`.
        index_map: uint8 [B, H, W], see :func:`compose`.
        mean: per channel, of values in 0..1.
        std: per channel, of values in 0..1.
        dtype: element type of the result: float32, float16 or bfloat16.
        channels_last: memory format of the result.
        out: written and returned when given; its dtype and memory format count.

    Returns:
        [B, 3, H, W]. Pixels that no constituent covers are 0, the mean colour.

    Raises:
        TypeError, ValueError: an argument has a wrong type, dtype, shape, device or strides, a
            window reaches out of its rectangle, or a region lies outside the canvas or shows more
            than its patch has.
    """
    places = None
    if isinstance(rectangles, Rectangles):
        pixels, places = [rectangles.pixels], torch.from_numpy(rectangles.places)
    else:
        pixels = list(rectangles)
    out = make_composites(pixels, source, index_map, size, dtype, channels_last, out)
    scale, bias = scale_and_bias(mean, std)
    torch.ops.mixpipe.compose_resampled(
        out,
        pixels,
        windows,
        sizes,
        source,
        regions,
        origins,
        flips,
        blend,
        index_map,
        scale,
        bias,
        places,
    )
    return out


torch.library.define(
    "mixpipe::compose_resampled",
    "(Tensor(a!) out, Tensor[] rectangles, Tensor windows, Tensor sizes, Tensor source, "
    "Tensor? regions, Tensor? origins, Tensor? flips, Tensor? blend, Tensor? index_map, "
    "float[] scale, float[] bias, Tensor? places=None) -> ()",
)


def _compose_resampled_cpu(out: Tensor, *given: Any) -> None:
    prepare_resampled(out, *given).run_cpu()


torch.library.impl("mixpipe::compose_resampled", "cpu", _compose_resampled_cpu)
# Writes into `out` and returns nothing, so a fake has nothing to do.
torch.library.register_fake("mixpipe::compose_resampled", lambda *_: None)


def prepare_resampled(
    out: Tensor,
    rectangles: list[Tensor],
    windows: Tensor,
    sizes: Tensor,
    source: Tensor,
    regions: Tensor | None,
    origins: Tensor | None,
    flips: Tensor | None,
    blend: Tensor | None,
    index_map: Tensor | None,
    scale: list[float],
    bias: list[float],
    rectangle_places: Tensor | None = None,
) -> Prepared:
    """As :func:`mixpipe.kernels.compose.prepare`, for patches that are resampled on the way.

    rectangle_places: those of `Rectangles`, of which ``rectangles`` is the one tensor.
    """
    if rectangle_places is None:
        table = pixel_table(rectangles, "rectangles", out.device)
    else:
        table = place_table(rectangles[0], rectangle_places.numpy(), out.device)
    cpu, count = torch.device("cpu"), len(table)
    check_tensor(windows, "windows", dtypes=torch.float32, shape=(count, 4), device=cpu)
    check_tensor(sizes, "sizes", dtypes=torch.int32, shape=(count, 2), device=cpu)
    places = check_places(out, source, regions, origins, flips, blend, index_map)
    parts = _C.resample_parts(
        table,
        windows.contiguous().numpy(),
        sizes.contiguous().numpy(),
        *places,
    )
    return prepare_composites(_C.compose_resampled, parts, out, blend, index_map, scale, bias)
