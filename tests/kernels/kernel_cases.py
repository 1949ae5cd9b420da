"""Random valid inputs for the kernels, and hypothesis strategies over them."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in every bit."""
    bits = {4: torch.int32, 2: torch.int16}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))


@dataclass
class ComposeCase:
    """Arguments of `compose`."""

    patches: list[Tensor]
    source: Tensor
    regions: Tensor
    size: tuple[int, int]
    origins: Tensor
    flips: Tensor
    blend: Tensor | None
    index_map: Tensor | None

    def arguments(self) -> dict[str, object]:
        return dict(self.__dict__)


def random_regions(batch: int, k: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """int32 [B, K, 4]: any rectangles in the canvas, empty and overlapping ones included."""
    ys = torch.randint(0, height + 1, (batch, k, 2), generator=rng).sort(-1).values
    xs = torch.randint(0, width + 1, (batch, k, 2), generator=rng).sort(-1).values
    return torch.stack([ys[..., 0], xs[..., 0], ys[..., 1], xs[..., 1]], -1).int()


@st.composite
def compose_cases(draw: st.DrawFn, modes: tuple[str, ...] = ("regions", "blend", "index_map")):
    """Ragged patches with padded rows, absent constituents, overlaps, odd sizes."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 40)), draw(st.one_of(st.integers(1, 80), st.just(64)))
    mode = draw(st.sampled_from(modes))
    absent = torch.rand(batch, k, generator=rng) < draw(st.sampled_from([0.0, 0.3]))
    regions = random_regions(batch, k, height, width, rng)
    if draw(st.booleans()):  # the whole canvas beneath, as most layouts have
        regions[:, 0] = torch.tensor([0, 0, height, width])
    regions[absent] = 0
    patches, origins = [], torch.zeros(batch, k, 2, dtype=torch.int32)
    source = torch.full((batch, k), -1, dtype=torch.int32)
    for b in range(batch):
        for j in range(k):
            if absent[b, j]:
                continue
            y0, x0, y1, x1 = (0, 0, height, width) if mode == "blend" else regions[b, j].tolist()
            slack = torch.randint(0, 3, (5,), generator=rng).tolist()
            h, w = y1 - y0 + slack[0] + slack[1], x1 - x0 + slack[2] + slack[3]
            patch = torch.randint(0, 256, (h, w + slack[4], 3), generator=rng, dtype=torch.uint8)
            origins[b, j] = torch.tensor([slack[0], slack[2]])
            source[b, j] = len(patches)
            patches.append(patch[:, :w])
    weights = torch.rand(batch, k, generator=rng)
    return ComposeCase(
        patches,
        source,
        regions,
        (height, width),
        origins,
        torch.rand(batch, k, generator=rng) < 0.5,
        weights / weights.sum(1, keepdim=True) if mode == "blend" else None,
        torch.randint(0, k + 1, (batch, height, width), generator=rng, dtype=torch.uint8)
        if mode == "index_map"
        else None,
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor, str, list[float], dict[str, object]]:
    """Loss tables with ties, unseen samples and losses that are not finite, and a rule."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = draw(st.one_of(st.integers(1, 70), st.sampled_from([1024, 5000])))
    losses = torch.rand(size, generator=rng) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    if draw(st.booleans()):  # many equal ones
        losses = losses.mul(4).ceil()
    losses[torch.rand(size, generator=rng) < 0.02] = torch.inf
    losses[torch.rand(size, generator=rng) < 0.02] = torch.nan
    epochs = torch.randint(-1, 3, (size,), generator=rng, dtype=torch.int32)
    rule = draw(st.sampled_from(["mean", "share", "budget"]))
    tiers = draw(st.integers(1, 4))
    factors = torch.rand(tiers, generator=rng).mul(1.5).tolist()
    how: dict[str, object] = {"seed": draw(st.integers(0, 99))}
    if rule == "budget":
        how["savings"] = torch.rand(tiers, generator=rng).tolist()
        how["target"] = draw(st.floats(0.0, 1.5)) * size * 0.3
    return losses, epochs, rule, factors, how
