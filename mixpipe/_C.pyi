"""Compiled parts of mixpipe (csrc/bindings.cpp): parameters, launch geometry and CPU kernels.

Addresses are integers. Shapes, dtypes and devices of tensors are checked by mixpipe.kernels; what
depends on values (regions, indices) is checked here and raises ValueError.
"""

import numpy as np
from numpy.typing import NDArray

MAX_CONSTITUENTS: int

def instruction_set() -> str:
    """What the CPU kernels run on here: "avx2" or "baseline"."""

def device_sources() -> dict[str, str]:
    """The CUDA kernels' sources, by file name."""

class Launch:
    """A kernel's parameters and the geometry it is launched with."""

    @property
    def kernel(self) -> str:
        """Name of the CUDA kernel."""
    @property
    def grid(self) -> int:
        """Blocks."""
    @property
    def block(self) -> int:
        """Threads a block."""
    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory a block."""
    @property
    def params(self) -> bytes:
        """The struct that the kernel takes by value."""
    def run_cpu(self, threads: int) -> None:
        """Runs the CPU kernel on host addresses, without the GIL."""

class Compose(Launch): ...

def compose_parts(
    patches: NDArray[np.int64],
    source: NDArray[np.int32],
    regions: NDArray[np.int32] | None,
    origins: NDArray[np.int32] | None,
    flips: NDArray[np.bool_] | None,
    blend: NDArray[np.float32] | None,
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Packs constituents as the kernel reads them: [B, K, bytes of a part].

    `patches` is [P, 4]: address, height, width, bytes a row.
    """

def compose(
    *,
    parts: int,
    index_map: int,
    out: int,
    batch: int,
    constituents: int,
    size: tuple[int, int],
    mode: int,
    dtype: int,
    layout: int,
    scale: tuple[float, ...],
    bias: tuple[float, ...],
) -> Compose: ...
