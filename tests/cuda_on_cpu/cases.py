"""Inputs for the emulated kernels: what decides a path on a GPU is drawn on purpose.

Widths around a multiple of a vector, addresses off alignment, more than one block a row, classes
around the limits of a kernel's register budget.
"""

import torch
from device import unwritten
from hypothesis import strategies as st
from kernel_cases import compose_cases, random_regions, tables
from resample_inputs import resample_cases
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
__all__ = [
    "DTYPES",
    "compose_cases",
    "cross_entropy_cases",
    "mix_cases",
    "random_regions",
    "resample_cases",
    "tables",
]


def placed(values: Tensor, channels_last: bool, offset: int) -> Tensor:
    """A copy that starts `offset` elements after a multiple of 16 bytes."""
    copy = unwritten(tuple(values.shape), values.dtype, channels_last, offset)
    return copy.copy_(values)


@st.composite
def mix_cases(draw: st.DrawFn) -> tuple[Tensor, dict[str, Tensor]]:
    """Images of any dtype, layout, size and alignment, and how to mix them."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, k = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 12)), draw(st.sampled_from([1, 7, 8, 15, 16, 24, 40]))
    cycles, cut = draw(st.booleans()), draw(st.booleans())
    count = batch if cycles else batch * k
    images = torch.randn(count, draw(st.sampled_from([1, 3, 4])), height, width, generator=rng)
    images = images.to(draw(st.sampled_from(DTYPES)))
    images = placed(images, draw(st.booleans()), draw(st.sampled_from([0, 0, 1, 8])))
    rows = 1 if cycles else k
    if cut:
        regions = random_regions(batch, rows, height, width, rng)
        how = {"regions": regions[:, 0] if cycles else regions}
    else:
        weights = torch.rand(batch, rows, generator=rng)
        how = {"weights": weights[:, 0].contiguous() if cycles else weights}
    if cycles:
        how["partners"] = torch.randperm(count, generator=rng)
    return images, how


@st.composite
def cross_entropy_cases(
    draw: st.DrawFn, classes: tuple[int, ...] = (1, 2, 31, 32, 33, 257, 1000)
) -> tuple[Tensor, Tensor, Tensor, dict[str, object]]:
    """Logits of any dtype and alignment, targets of both kinds, absent constituents, a table."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    num_classes = draw(st.sampled_from(classes))
    shape = (batch, k, num_classes) if draw(st.booleans()) else (batch, num_classes)
    logits = torch.randn(shape, generator=rng) * draw(st.sampled_from([0.1, 3.0, 30.0]))
    logits = placed(
        logits.to(draw(st.sampled_from(DTYPES))), False, draw(st.sampled_from([0, 0, 1]))
    )
    weights = torch.rand(batch, k, generator=rng)
    weights[torch.rand(batch, k, generator=rng) < 0.2] = 0.0
    if draw(st.integers(0, 2)):
        targets = torch.randint(0, num_classes, (batch, k), generator=rng)
        targets[torch.rand(batch, k, generator=rng) < 0.1] = -100
    else:
        targets = torch.rand(batch, k, num_classes, generator=rng)
    how: dict[str, object] = {"label_smoothing": draw(st.sampled_from([0.0, 0.1]))}
    if draw(st.booleans()):  # few samples, so that ids repeat
        how |= {
            "ids": torch.randint(-1, 6, (batch, k), generator=rng),
            "table_losses": torch.full((6,), -1.0),
            "table_epochs": torch.full((6,), -1, dtype=torch.int32),
            "epoch": draw(st.sampled_from([7, torch.tensor(7, dtype=torch.int32)])),
        }
    return logits, targets, weights, how
