# ruff: noqa: N999
"""Compiled parts of mixpipe (csrc/bindings.cpp): parameters, launch geometry and CPU kernels.

Addresses are integers. Shapes, dtypes and devices of tensors are checked by mixpipe.kernels; what
depends on values (regions, indices) is checked here and raises ValueError.
"""

import numpy as np
from numpy.typing import NDArray

MAX_CONSTITUENTS: int
MAX_CUDA_CLASSES: int
MAX_TIERS: int
MOST_SELECT_BLOCKS: int
DEVICE_SOURCES_HASH: str

def instruction_set() -> str:
    """What the CPU kernels run on here: "avx512", "avx2" or "baseline"."""

def device_sources() -> dict[str, str]:
    """The CUDA kernels' sources, by file name."""

class Launch:
    """A kernel's parameters and the geometry it is launched with."""

    @property
    def source(self) -> str:
        """Name of the CUDA source."""
    @property
    def description(self) -> str:
        """Sizes, for an error message."""
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

def resample_parts(
    rectangles: NDArray[np.int64],
    windows: NDArray[np.float32],
    sizes: NDArray[np.int32],
    source: NDArray[np.int32],
    regions: NDArray[np.int32] | None,
    origins: NDArray[np.int32] | None,
    flips: NDArray[np.bool_] | None,
    blend: NDArray[np.float32] | None,
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Packs constituents as the kernel reads them: [B, K, bytes of a part].

    `rectangles` is [P, 4]: address, height, width, bytes a row; `windows` [P, 4] of them become
    patches of `sizes` [P, 2].
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
) -> Launch: ...
def compose_resampled(
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
) -> Launch: ...
def mix_groups(
    regions: NDArray[np.generic] | None,
    weights: NDArray[np.generic] | None,
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Chains and links (csrc/mix.h) of [kB, ...] -> first B, one row of bytes each."""

def mix_cycles(
    partners: NDArray[np.int64],
    regions: NDArray[np.generic] | None,
    weights: NDArray[np.generic] | None,
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Chains and links (csrc/mix.h) of N -> N by a permutation, one row of bytes each."""

def mix(
    *,
    images: int,
    chains: int,
    links: int,
    num_chains: int,
    channels: int,
    size: tuple[int, int],
    mode: int,
    dtype: int,
    layout: int,
) -> Launch: ...
def check_targets(
    classes: int,
    weights: int,
    count: int,
    constituents: int,
    num_classes: int,
    ignore_index: int | None,
) -> None:
    """Raises ValueError where a class that takes part is out of range.

    `ignore_index` None: every class below 0 takes no part.
    """

def check_ids(ids: int, count: int, constituents: int, table_size: int) -> None:
    """Raises ValueError where an id is neither -1 nor a row of the table."""

def dense_targets(
    *,
    classes: int,
    weights: int,
    out: int,
    batch: int,
    constituents: int,
    num_classes: int,
    dtype: int,
    smoothing: float,
) -> Launch: ...
def cross_entropy(
    *,
    logits: int,
    classes: int,
    labels: int,
    weights: int,
    ids: int,
    gradient: int,
    per_constituent: int,
    loss: int,
    table_losses: int,
    table_epochs: int,
    epoch_now: int,
    smoothed: int,
    finished_blocks: int,
    table_size: int,
    ignore_index: int,
    batch: int,
    constituents: int,
    num_classes: int,
    rows_per_composite: int,
    epoch: int,
    dtype: int,
    smoothing: float,
    gradient_scale: float,
) -> Launch: ...
def scale_gradient(
    *, gradient: int, grad_loss: int, result: int, count: int, factor: float, dtype: int
) -> Launch: ...
def stage(table: NDArray[np.uint8], to: int) -> list[Launch]:
    """The launches that write bytes, a multiple of 4, to an address. They have no CPU kernel."""

def point_slots(heights: NDArray[np.int32], widths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where the slots of images of these sizes begin in a points' file, in bytes; [N + 1]."""

class ExcerptMaker:
    """Cuts excerpts (csrc/excerpts.h) out of a batch's JPEGs.

    `points_file` is an open file that keeps entry points; the caller closes it, last of all.
    """

    def __init__(self, points_file: int) -> None: ...
    def make(
        self,
        images: NDArray[np.uint8] | list[NDArray[np.uint8]],
        sizes: NDArray[np.int32],
        reads: NDArray[np.int32],
        slots: NDArray[np.int64],
        threads: int,
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
        """Encoded excerpts, and where they begin in their images: [P, 2], (y, x).

        `images` are file names [P, L], padded with zeros, or the encoded images; `sizes` are theirs
        in pixels [P, 2], `reads` what is to be read [P, 4], within them. An excerpt is the whole
        image where none can be cut, and without bytes where the file cannot be read. Runs without
        the GIL.
        """

def select_lowest(
    *,
    losses: int,
    epochs: int,
    result: int,
    sums: int,
    size: int,
    rule: int,
    seed: int,
    factors: list[float],
    savings: list[float],
    target: float,
) -> list[Launch]:
    """The launches (csrc/select.h) that make a result of zeros the selection, in their order.

    They have no CPU kernel. `sums` is scratch: float64 [MOST_SELECT_BLOCKS].
    """

def selection_layout(size: int, tiers: int) -> tuple[int, int]:
    """Bytes of a result, and the byte at which its masks begin: uint32 [tiers, ceil(size / 32)]."""

def read_selection(result: bytes, tiers: int) -> tuple[int, float, list[int]]:
    """Ranked samples, their mean, and the samples in each mask."""
