"""A layout's function compiled by numba, in the loop that fills index maps on the CPU.

`compiled_cuda` does the same for a GPU. numba is an optional dependency and is imported only when a
layout is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module, util
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "NOBODY",
    "PARAMETERS",
    "PixelFunction",
    "compile_function",
    "host_filler",
]

PixelFunction: TypeAlias = Callable[[int, int, int, int, float, float, float], int]
PARAMETERS = ("y", "x", "height", "width", "ratio", "u0", "u1")
NOBODY = 255  # in a map that a GPU filled: the function named no constituent there
_HINT = "use only numbers, arithmetic, comparisons, if, loops and Python's math module"


def compile_function(function: PixelFunction) -> Any:
    """The function compiled for the CPU, after checking that it can be a layout.

    Raises:
        ImportError: numba is not installed.
        TypeError: other parameters, not compilable, or a result that is no integer.
    """
    name = getattr(function, "__name__", repr(function))
    try:
        given = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        given = ()
    # An underscore in front marks a parameter that the function does not use.
    if tuple(parameter.lstrip("_") for parameter in given) != PARAMETERS:
        raise TypeError(
            f"layout {name}: its parameters are ({', '.join(given)}), expected "
            f"({', '.join(PARAMETERS)}), in this order"
        )
    if util.find_spec("numba") is None:
        raise ImportError(
            f"layout {name}: numba, which compiles it, is not installed: "
            "pip install 'mixpipe[layouts]'"
        )
    numba = import_module("numba")
    compiled = numba.njit(function)
    try:
        compiled.compile((numba.int64,) * 4 + (numba.float64,) * 3)
    except Exception as error:  # numba's own, and what the function's globals raise on the way
        raise TypeError(
            f"layout {name}: numba cannot compile its function: {_reason(str(error))}; {_HINT}"
        ) from error
    result = compiled.nopython_signatures[0].return_type
    if not isinstance(result, (numba.types.Integer, numba.types.Boolean)):
        raise TypeError(
            f"layout {name}: its function returns {result}, expected an integer, the index of the "
            "constituent, from every branch: return int(...)"
        )
    return compiled


def _reason(message: str) -> str:
    """What numba found wrong, without the trace of its passes."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Failed in", "During", "-", "File"))]
    return (told or lines or ["no reason given"])[0]


def host_filler(compiled: Any, k: int) -> Any:
    """``fill(index_map, ratios, u0, u1, areas, boxes)`` on the CPU, by one thread.

    Fills uint8 [n, H, W]; adds each constituent's pixels to int64 ``areas`` [n, k] and widens its
    int64 ``boxes`` [n, k, 4] (y0, x0, y1, x1), which begin as (H, W, 0, 0). Returns the first
    (composite, y, x, index) whose index is outside 0 to k - 1, and stops there; else n for the
    composite. One thread: numba's own threads must not be entered by two loaders at once.
    """

    def fill(
        index_map: Any, ratios: Any, u0: Any, u1: Any, areas: Any, boxes: Any
    ) -> tuple[int, int, int, int]:
        n, height, width = index_map.shape
        row = np.empty(width + 1, np.int64)
        for b in range(n):
            for y in range(height):
                for x in range(width):  # by itself, so that it becomes vector instructions
                    row[x] = compiled(y, x, height, width, ratios[b], u0[b], u1[b])
                row[width] = ~row[width - 1]  # ends the last run of equal pixels
                start, shown = 0, row[0]
                for x in range(1, width + 1):
                    if row[x] == shown:
                        continue
                    if shown < 0 or shown >= k:
                        return b, y, start, shown
                    index_map[b, y, start:x] = shown
                    areas[b, shown] += x - start
                    box = boxes[b, shown]
                    box[0], box[1] = min(box[0], y), min(box[1], start)
                    box[2], box[3] = y + 1, max(box[3], x)
                    start, shown = x, row[x]
        return n, 0, 0, 0

    return import_module("numba").njit(fill, nogil=True)
