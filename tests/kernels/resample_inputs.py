"""Random valid inputs of compose_resampled."""

import numpy as np
import torch
from hypothesis import strategies as st
from kernel_cases import ComposeCase, compose_cases

from mixpipe.kernels import Rectangles


def pixels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=rng, dtype=torch.uint8)


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> tuple[float, ...]:
    """A window within a rectangle, with edges at any 1024th of a pixel.

    Not at 1e-40: the reference's fused multiply-add would then round a tie the other way.
    """
    edges = []
    for extent in (height, width):
        low = draw(st.integers(0, 1024 * extent - 1))
        high = draw(st.integers(low + 1, 1024 * extent))
        edges.append((low / 1024, high / 1024))
    (y0, y1), (x0, x1) = edges
    return y0, x0, y1, x1


@st.composite
def resample_cases(draw: st.DrawFn) -> dict[str, object]:
    """A case of compose whose patches are windows of rectangles."""
    case: ComposeCase = draw(compose_cases())
    arguments = case.arguments()
    rectangles, rows = [], []
    sizes = torch.tensor([patch.shape[:2] for patch in arguments.pop("patches")], dtype=torch.int32)
    sizes = sizes.view(-1, 2)
    for seed in range(len(sizes)):
        height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
        rectangles.append(pixels(height, width + 2, seed)[:, :width])
        rows.append(draw(windows(height, width)))
    sizes = sizes.clamp(min=1)  # of an empty region
    return arguments | {
        "rectangles": rectangles,
        "windows": torch.tensor(rows, dtype=torch.float32).view(-1, 4),
        "sizes": sizes,
    }


def packed(rectangles: list[torch.Tensor], gap: int) -> Rectangles:
    """Copies of the rectangles in one tensor, rows ``gap`` bytes apart."""
    places, begin = [], gap
    for rectangle in rectangles:
        h, w, _ = rectangle.shape
        places.append((begin, h, w, 3 * w + gap))
        begin += h * (3 * w + gap)
    room = torch.zeros(begin + 5, dtype=torch.uint8)[5:]  # not at the beginning of its storage
    packs = Rectangles(room, np.array(places, np.int64).reshape(-1, 4))
    for place, rectangle in zip(packs, rectangles, strict=True):
        place.copy_(rectangle)
    return packs
