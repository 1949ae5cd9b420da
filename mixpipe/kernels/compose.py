"""compose: ragged uint8 patches to a normalised batch of composites, in one pass.

patches uint8 [h, w, 3] x P ─┐
source, regions, origins,    ├─► flip + normalise + cast + place ─► images [B, 3, H, W]
flips (the batch's plan)    ─┘
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import FLOATING, check_tensor, dtype_number, memory_layout
from mixpipe.kernels.prepared import Prepared

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_REGIONS, _BLEND, _INDEX_MAP = range(3)


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
    """Places patches on canvases and normalises them, each pixel written once.

    Equivalent, for one constituent and no flip, to
    ``(patch.permute(2, 0, 1) / 255 - mean) / std`` pasted into its region: exactly
    ``fmaf(pixel, 1 / (255 * std), -mean / std)`` in float32, rounded once to ``dtype``.

    In a CUDA graph, source, regions, origins, flips and blend are those of the capture: a replay
    reads pixels and index map anew, at the same addresses. For a plan that changes, compose into
    the graph's input (``out``) before each replay.

    Args:
        patches: P tensors uint8 [h, w, 3] on the device of the result; rows may be padded
            (strides (pitch, 3, 1)).
        source: int32 [B, K] on the CPU, which patch each constituent shows; -1: absent.
        regions: int32 [B, K, 4] on the CPU, (y0, x0, y1, x1) in canvas pixels, half open. Where
            regions overlap, the later constituent shows. May be None with ``blend``.
        size: (H, W) of the canvas.
        origins: int32 [B, K, 2] on the CPU, (y, x) in the patch of the rectangle of the region's
            size that is shown; None: (0, 0).
        flips: bool [B, K] on the CPU, whether that rectangle is mirrored left to right.
        blend: float32 [B, K] on the CPU: every composite is the weighted sum of its constituents,
            whole canvases each, and regions are ignored.
        index_map: uint8 [B, H, W] on the device of the result: which constituent each pixel
            shows, inside that constituent's region.
        mean: per channel, of values in 0..1.
        std: per channel, of values in 0..1.
        dtype: element type of the result: float32, float16 or bfloat16.
        channels_last: memory format of the result.
        out: written and returned when given; its dtype and memory format count.

    Returns:
        [B, 3, H, W]. Pixels that no constituent covers are 0, the mean colour.

    Raises:
        TypeError, ValueError: an argument has a wrong type, dtype, shape, device or strides, or
            a region lies outside the canvas or shows more than its patch has.
    """
    pixels = list(patches)
    out = make_composites(pixels, source, index_map, size, dtype, channels_last, out)
    scale, bias = scale_and_bias(mean, std)
    torch.ops.mixpipe.compose(
        out, pixels, source, regions, origins, flips, blend, index_map, scale, bias
    )
    return out


def make_composites(
    pixels: list[Tensor],
    source: Tensor,
    index_map: Tensor | None,
    size: tuple[int, int],
    dtype: torch.dtype,
    channels_last: bool,
    out: Tensor | None,
) -> Tensor:
    """``out``, or a new result [B, 3, H, W], on the device of the pixels."""
    check_tensor(source, "source", dtypes=torch.int32, shape=(None, None))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {tuple(size)}, expected a height and a width of at least 1")
    batch, height, width = source.shape[0], *size
    if out is None:
        dtype_number(dtype)
        if index_map is not None:
            device = index_map.device
        else:
            device = pixels[0].device if pixels else torch.device("cpu")
        return torch.empty(
            (batch, 3, height, width),
            dtype=dtype,
            device=device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
    if tuple(out.shape) != (batch, 3, height, width):
        raise ValueError(
            f"out has shape {list(out.shape)}, expected [{batch}, 3, {height}, {width}]"
        )
    return out


def scale_and_bias(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Per channel, of values in 0..255: what the kernels multiply by and add."""
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} numbers, expected 3 each")
    if not all(s > 0 for s in std):
        raise ValueError(f"std is {tuple(std)}, expected numbers above 0")
    return [1.0 / (255.0 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]


torch.library.define(
    "mixpipe::compose",
    "(Tensor(a!) out, Tensor[] patches, Tensor source, Tensor? regions, Tensor? origins, "
    "Tensor? flips, Tensor? blend, Tensor? index_map, float[] scale, float[] bias) -> ()",
)


def _compose_cpu(out: Tensor, *given: Any) -> None:
    prepare(out, *given).run_cpu()


torch.library.impl("mixpipe::compose", "cpu", _compose_cpu)
# Writes into `out` and returns nothing, so a fake has nothing to do.
torch.library.register_fake("mixpipe::compose", lambda *_: None)


def prepare(
    out: Tensor,
    patches: list[Tensor],
    source: Tensor,
    regions: Tensor | None,
    origins: Tensor | None,
    flips: Tensor | None,
    blend: Tensor | None,
    index_map: Tensor | None,
    scale: list[float],
    bias: list[float],
) -> Prepared:
    """Checks the op's arguments and packs the constituents as the kernels read them.

    The table is [B, K] of addresses, strides and regions with crop and mirror worked in. Everything
    wrong with a batch is found here, before a launch.
    """
    places = check_places(out, source, regions, origins, flips, blend, index_map)
    parts = _C.compose_parts(pixel_table(patches, "patches", out.device), *places)
    return prepare_composites(_C.compose, parts, out, blend, index_map, scale, bias)


def check_places(
    out: Tensor,
    source: Tensor,
    regions: Tensor | None,
    origins: Tensor | None,
    flips: Tensor | None,
    blend: Tensor | None,
    index_map: Tensor | None,
) -> tuple[Any, ...]:
    """Checks what says which patch shows where; returns it as the extension takes it."""
    cpu = torch.device("cpu")
    check_tensor(out, "out", dtypes=FLOATING, shape=(None, 3, None, None))
    check_tensor(source, "source", dtypes=torch.int32, device=cpu)
    batch, constituents = source.shape
    if not 1 <= constituents <= _C.MAX_CONSTITUENTS:
        raise ValueError(
            f"source has {constituents} constituents a composite, expected 1 to "
            f"{_C.MAX_CONSTITUENTS}"
        )
    height, width = out.shape[2:]
    if 3 * height * width >= 2**31:
        raise ValueError(f"size is {height} x {width}, expected fewer than 2**31 elements")
    if regions is not None:
        shape = (batch, constituents, 4)
        check_tensor(regions, "regions", dtypes=torch.int32, shape=shape, device=cpu)
    elif blend is None:
        raise ValueError("regions is None, expected int32 [B, K, 4] (or a blend)")
    if origins is not None:
        shape = (batch, constituents, 2)
        check_tensor(origins, "origins", dtypes=torch.int32, shape=shape, device=cpu)
    if flips is not None:
        check_tensor(flips, "flips", dtypes=torch.bool, shape=(batch, constituents), device=cpu)
    if blend is not None:
        check_tensor(blend, "blend", dtypes=torch.float32, shape=(batch, constituents), device=cpu)
    if index_map is not None:
        if blend is not None:
            raise ValueError("index_map and blend are both given, expected at most one of them")
        check_tensor(
            index_map,
            "index_map",
            dtypes=torch.uint8,
            shape=(batch, height, width),
            device=out.device,
            contiguous=True,
        )
        if index_map.numel() >= 2**31:
            raise ValueError(
                f"index_map has shape {list(index_map.shape)}, expected fewer than 2**31 pixels"
            )
    return (
        source.contiguous().numpy(),
        None if blend is not None or regions is None else regions.contiguous().numpy(),
        None if origins is None else origins.contiguous().numpy(),
        None if flips is None else flips.contiguous().numpy(),
        None if blend is None else blend.contiguous().numpy(),
        (height, width),
    )


def pixel_table(tensors: list[Tensor], argument: str, device: torch.device) -> NDArray[np.int64]:
    """int64 [P, 4]: address, height, width and bytes a row of uint8 tensors [h, w, 3]."""
    # All at once, since there may be hundreds; one by one only for the message.
    table = np.empty((len(tensors), 4), dtype=np.int64)
    shapes = [t.shape for t in tensors]
    if (
        {len(shape) for shape in shapes} == {3}
        and {t.dtype for t in tensors} == {torch.uint8}
        and {t.device for t in tensors} == {device}
    ):
        height, width, channels = _columns(shapes)
        pitch, *steps = _columns([t.stride() for t in tensors])
        dense = (channels == 3) & (steps[1] == 1) & ((steps[0] == 3) | (width <= 1))
        if (dense & (pitch * height < 2**31)).all():
            table[:, 0] = [t.data_ptr() for t in tensors]
            table[:, 1], table[:, 2], table[:, 3] = height, width, pitch
            return table
    for i, pixels in enumerate(tensors):
        check_pixels(pixels, f"{argument}[{i}]", device)
    return table


def _columns(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """[3, P] of P rows of three."""
    flat = np.fromiter(chain.from_iterable(rows), np.int64, 3 * len(rows))
    columns: NDArray[np.int64] = flat.reshape(-1, 3).T
    return columns


def check_pixels(pixels: Tensor, name: str, device: torch.device) -> None:
    """Raises TypeError or ValueError where a tensor is not uint8 [h, w, 3] in rows."""
    check_tensor(pixels, name, dtypes=torch.uint8, shape=(None, None, 3), device=device)
    shape, stride = pixels.shape, pixels.stride()
    if stride[2] != 1 or (stride[1] != 3 and shape[1] > 1) or stride[0] * shape[0] >= 2**31:
        raise ValueError(
            f"{name} has strides {list(stride)}, expected (pitch, 3, 1) and fewer than 2**31 "
            f"bytes: pass {name}.contiguous()"
        )


def prepare_composites(
    kernel: Callable[..., _C.Launch],
    parts: NDArray[np.uint8],
    out: Tensor,
    blend: Tensor | None,
    index_map: Tensor | None,
    scale: list[float],
    bias: list[float],
) -> Prepared:
    """A call of a kernel that makes composites of packed parts [B, K, bytes of a part]."""
    arguments = {
        "index_map": 0 if index_map is None else index_map.data_ptr(),
        "out": out.data_ptr(),
        "batch": parts.shape[0],
        "constituents": parts.shape[1],
        "size": tuple(out.shape[2:]),
        "mode": _BLEND if blend is not None else _REGIONS if index_map is None else _INDEX_MAP,
        "dtype": dtype_number(out.dtype),
        "layout": memory_layout(out, "out"),
        "scale": tuple(scale),
        "bias": tuple(bias),
    }
    return Prepared(parts, lambda address: kernel(parts=address, **arguments))
