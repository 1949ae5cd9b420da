"""A layout's function in a CUDA kernel. Imports numba's CUDA, so it is imported only when asked."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .compiled import NOBODY, PixelFunction

__all__ = ["cuda_filler"]

cuda: Any = import_module("numba.cuda")  # the simulator puts its own in place of this name

_THREADS = 256
_SIGNATURE = "int64(int64, int64, int64, int64, float64, float64, float64)"


def cuda_filler(function: PixelFunction, k: int) -> Callable[..., None]:
    """``fill(index_map, ratios, u0, u1, stream=0)`` on the current CUDA device.

    The arrays are in device memory: uint8 [n, H, W], float64 [n] three times. A pixel whose index
    is outside 0 to k - 1 becomes `NOBODY`. numba's CUDA simulator runs it on NumPy arrays.
    """
    index_at = cuda.jit(_SIGNATURE, device=True)(function)

    def fill(index_map: Any, ratios: Any, u0: Any, u1: Any) -> None:
        n, height, width = index_map.shape
        i = cuda.grid(1)
        if i < n * height * width:
            b = i // (height * width)
            y, x = i // width % height, i % width
            index = index_at(y, x, height, width, ratios[b], u0[b], u1[b])
            index_map[b, y, x] = index if 0 <= index < k else NOBODY

    kernel = cuda.jit(fill)

    def launch(index_map: Any, ratios: Any, u0: Any, u1: Any, stream: Any = 0) -> None:
        n, height, width = index_map.shape
        blocks = -(-n * height * width // _THREADS)
        if blocks:
            kernel[blocks, _THREADS, stream](index_map, ratios, u0, u1)

    return launch
