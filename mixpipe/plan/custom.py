"""Layouts of the caller's own: a function of a pixel says which constituent it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .arrays import Floats, Ids, Size
from .compiled import PixelFunction, compile_function, host_filler
from .layouts import MAX_CONSTITUENTS, Layout, Placement, Window, check_window, layout_from_state

__all__ = ["CustomLayout", "layout"]


@overload
def layout(function: PixelFunction, /) -> CustomLayout: ...
@overload
def layout(*, k: int = 2, window: Window = "cut") -> Callable[[PixelFunction], CustomLayout]: ...
def layout(
    function: PixelFunction | None = None, /, *, k: int = 2, window: Window = "cut"
) -> CustomLayout | Callable[[PixelFunction], CustomLayout]:
    """Make a layout of a function that says which constituent a pixel shows.

    The function is called for every pixel of every composite, with

    - ``y``, ``x``: the pixel's row and column, from 0, integers;
    - ``height``, ``width``: the canvas in pixels, integers;
    - ``ratio``: the share of the canvas that the first constituent is to have, float in (0, 1):
      1 / k, or what ``MixTrain(adaptive=...)`` gives it. A wish: labels go by what is shown;
    - ``u0``, ``u1``: random numbers, floats uniform in [0, 1), the same for all pixels of a
      composite: a hash of (seed, epoch, the id of the composite's first sample), so that an epoch
      is the same however it is batched, shared among ranks or resumed;

    and returns the constituent's index, 0 to k - 1. numba compiles it, so it takes numbers,
    arithmetic, comparisons, ``if``, loops and the ``math`` module, and no arrays or objects.
    Numbers of the module around it are compiled in as they are.

    A constituent's label weight is its share of the canvas, counted in pixels; its region is the
    bounding box of its pixels, and only that part of its image is decoded. One that shows nothing
    is absent. Regions overlap: pooling by region needs the target's index map as well.

    Args:
        function: the function of ``(y, x, height, width, ratio, u0, u1)``.
        k: constituents of a composite, 2 to 4.
        window: which part of a sample's crop its bounding box shows: ``"cut"``, that part of a
            whole-canvas crop that lies under it, or ``"fit"``, the whole crop scaled into it.

    Raises:
        ImportError: numba is not installed.
        TypeError: the function has other parameters, cannot be compiled or returns no integer.
        ValueError: ``k`` or ``window`` is none of the above.

    Example:
        >>> @layout
        ... def diagonal(y, x, height, width, ratio, u0, u1):
        ...     return y * width + x * height >= height * width
        >>> policy = MixTrain(k=2, layout=diagonal)
    """

    def make(function: PixelFunction) -> CustomLayout:
        return CustomLayout(function, k, window)

    return make if function is None else make(function)


@dataclass(frozen=True, repr=False)
class CustomLayout(Layout):
    """A layout by a compiled function; made by `layout`, which says what the function is given."""

    function: PixelFunction
    k: int = 2
    window: Window = "cut"
    draws: ClassVar[int] = 2  # u0 and u1
    maps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"layout: got {self.function!r}, expected a function; settings go by name, as in "
                "@layout(k=3)"
            )
        if not 2 <= self.k <= MAX_CONSTITUENTS:
            raise ValueError(f"k: got {self.k}, expected 2 to {MAX_CONSTITUENTS} constituents")
        check_window(self.window)
        _ = self._compiled  # what is wrong with the function is said where it is defined

    def __repr__(self) -> str:
        return f"layout({self.name}, k={self.k}, window={self.window!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The module holds the layout under the function's name, so the function has none.
        return layout_from_state, (self.state(),)

    def __deepcopy__(self, memo: Any) -> CustomLayout:
        return self

    @property
    def name(self) -> str:
        """Where the function stands: ``"package.module:name"``."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def counts(self) -> tuple[int, ...]:
        """See `Layout.counts`."""
        return (self.k,)

    @cached_property
    def _compiled(self) -> Any:
        return compile_function(self.function)

    @cached_property
    def _fill(self) -> Any:
        return host_filler(self._compiled, self.k)

    @cached_property
    def _fill_cuda(self) -> Callable[..., None]:
        from .compiled_cuda import cuda_filler

        return cuda_filler(self.function, self.k)

    def state(self) -> dict[str, Any]:
        """See `Layout.state`: the name stands for the function."""
        return {"layout": self.name, "k": self.k, "window": self.window}

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`.

        Raises:
            ValueError: the function returned an index outside 0 to k - 1.
        """
        index_map, areas, regions = self._evaluate(shares[:, 0], draws[0], draws[1], canvas)
        return Placement(regions, areas / float(canvas[0] * canvas[1]), index_map)

    def index_map(
        self,
        ratios: Floats | Tensor,
        u0: Floats | Tensor,
        u1: Floats | Tensor,
        *,
        size: Size,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The index maps of n composites, for those who call `mixpipe.compose` themselves.

        On a GPU they are filled there, on torch's current stream, by the same function compiled
        for CUDA. Its arithmetic may differ from the CPU's in the last bit (multiply-adds are
        fused), and so may a pixel right on an edge; an index outside 0 to k - 1 is no error there
        but 255, which shows nobody. `MixLoader` uses the CPU's maps, which the plan has made for
        the labels, on every device.

        Args:
            ratios: float64 [n], the first constituent's share.
            u0: float64 [n], in [0, 1).
            u1: float64 [n], in [0, 1).
            size: (H, W) of the canvas.
            device: where the map is made.

        Returns:
            uint8 [n, H, W].

        Raises:
            ValueError: ratios, u0 and u1 are not of one length, or on the CPU the function
                returned an index outside 0 to k - 1.
        """
        device = torch.device(device)
        given = [torch.as_tensor(v, dtype=torch.float64, device=device) for v in (ratios, u0, u1)]
        for name, numbers in zip(("ratios", "u0", "u1"), given, strict=True):
            if numbers.dim() != 1 or len(numbers) != given[0].numel():
                raise ValueError(
                    f"{name}: got shape {list(numbers.shape)}, expected [n], a number a composite, "
                    f"as ratios of shape {list(given[0].shape)}"
                )
        if device.type == "cpu":
            arrays = [numbers.contiguous().numpy() for numbers in given]
            return torch.from_numpy(self._evaluate(arrays[0], arrays[1], arrays[2], size)[0])
        # Only a GPU runs the lines below.
        cuda = import_module("numba.cuda")
        out = torch.empty((len(given[0]), *size), dtype=torch.uint8, device=device)
        with torch.cuda.device(device), cuda.gpus[out.device.index]:
            stream = cuda.external_stream(torch.cuda.current_stream(device).cuda_stream)
            arguments = [cuda.as_cuda_array(t, sync=False) for t in (out, *given)]
            self._fill_cuda(*arguments, stream=stream)
        return out

    def _evaluate(
        self, ratios: Floats, u0: Floats, u1: Floats, canvas: Size
    ) -> tuple[npt.NDArray[np.uint8], Ids, Ids]:
        """Index maps [n, H, W]; each constituent's pixels [n, k] and bounding box [n, k, 4]."""
        n = len(ratios)
        index_map = np.empty((n, *canvas), np.uint8)
        areas = np.zeros((n, self.k), np.int64)
        boxes = np.zeros((n, self.k, 4), np.int64)
        boxes[..., :2] = canvas
        try:
            b, y, x, index = self._fill(index_map, ratios, u0, u1, areas, boxes)
        except Exception as error:
            raise ValueError(
                f"layout {self.name}: its function raised {type(error).__name__} on a canvas of "
                f"{canvas[0]} x {canvas[1]}: {error}; it must return an index for every pixel"
            ) from error
        if b < n:
            raise ValueError(
                f"layout {self.name}: returned {index} for y={y}, x={x}, height={canvas[0]}, "
                f"width={canvas[1]}, ratio={ratios[b]}, u0={u0[b]}, u1={u1[b]}, expected the index "
                f"of one of {self.k} constituents, 0 to {self.k - 1}: correct the function, or "
                "give the number of constituents: @layout(k=...)"
            )
        boxes[areas == 0] = 0
        return index_map, areas, boxes
