"""The kernels in plain torch: same signatures, same results, no speed. The oracle of the tests.

A fused multiply-add is computed in float64 and rounded once to float32. The product of two float32
is exact in float64; so is its sum with a third, except where their exponents lie more than 29 bits
apart, which the values here do not reach.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD
from mixpipe.kernels.select import Selection

__all__ = [
    "compose",
    "compose_resampled",
    "composite_cross_entropy",
    "dense_targets",
    "mix_",
    "select_lowest",
]


def _fused_multiply_add(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """The float32 value of a * b + c, rounded once."""

    def wide(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=a.device).double()

    return (a.double() * wide(b) + wide(c)).float()


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
    """See :func:`mixpipe.kernels.compose`."""
    batch, constituents = source.shape
    height, width = size
    device = patches[0].device if patches else source.device
    images = torch.zeros(batch, height, width, 3, device=device)
    covered = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    for b in range(batch):
        for k in range(constituents):
            index = int(source[b, k])
            if index < 0:
                continue
            if blend is not None or regions is None:
                y0, x0, y1, x1 = 0, 0, height, width
            else:
                y0, x0, y1, x1 = regions[b, k].tolist()
            top, left = (0, 0) if origins is None else origins[b, k].tolist()
            patch = patches[index][top : top + y1 - y0, left : left + x1 - x0].float()
            if flips is not None and bool(flips[b, k]):
                patch = patch.flip(1)
            image, cover = images[b, y0:y1, x0:x1], covered[b, y0:y1, x0:x1]
            if blend is not None:
                image.copy_(_fused_multiply_add(patch, blend[b, k], image))
                cover.fill_(True)
            elif index_map is not None:
                shown = index_map[b, y0:y1, x0:x1] == k
                image[shown] = patch[shown]
                cover |= shown
            else:
                image.copy_(patch)
                cover.fill_(True)
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], device=device)
    bias = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    images = _fused_multiply_add(images, scale, bias)
    images[~covered] = 0.0
    result = images.permute(0, 3, 1, 2).to(out.dtype if out is not None else dtype)
    if out is not None:
        return out.copy_(result)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return result.contiguous(memory_format=memory_format)


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
    """See :func:`mixpipe.kernels.compose_resampled`: compose, of patches that are not rounded."""
    patches = []
    for rectangle, window, (height, width) in zip(
        rectangles, windows.tolist(), sizes.tolist(), strict=True
    ):
        rows = _resample(rectangle.float(), window[0], window[2], height)
        patches.append(_resample(rows.swapaxes(0, 1), window[1], window[3], width).swapaxes(0, 1))
    return compose(
        patches,
        source,
        regions,
        size=size,
        origins=origins,
        flips=flips,
        blend=blend,
        index_map=index_map,
        mean=mean,
        std=std,
        dtype=dtype,
        channels_last=channels_last,
        out=out,
    )


def _resample(pixels: Tensor, low: float, high: float, size: int) -> Tensor:
    """[low, high) of the first axis resampled to `size` with the antialiased triangle filter."""
    extent, device = len(pixels), pixels.device
    scale = torch.tensor((high - low) / size, device=device)
    reach = scale.clamp(min=1)
    taps = min(extent, int((2 * reach).ceil()))
    position = torch.arange(size, device=device) + 0.5
    centre = _fused_multiply_add(position, scale, low)
    first = (centre - reach + 0.5).int().clamp(0, extent - taps)
    weights = []
    total = torch.zeros(size, device=device)
    for tap in range(taps):
        distance = (first + tap).float() + 0.5 - centre
        weights.append(_fused_multiply_add(-distance.abs(), 1 / reach, 1.0).clamp(min=0))
        total += weights[-1]
    result = torch.zeros(size, *pixels.shape[1:], device=device)
    for tap, weight in enumerate(weights):
        share = (weight * (1 / total)).view(-1, *[1] * (pixels.dim() - 1))
        result = _fused_multiply_add(pixels[first + tap], share, result)
    return result


def mix_(
    images: Tensor,
    *,
    regions: Tensor | None = None,
    weights: Tensor | None = None,
    partners: Tensor | None = None,
) -> Tensor:
    """See :func:`mixpipe.kernels.mix_`."""
    before = images.clone()
    if partners is not None:
        for i, partner in enumerate(partners.tolist()):
            if regions is not None:
                y0, x0, y1, x1 = regions[i].tolist()
                images[i, :, y0:y1, x0:x1] = before[partner, :, y0:y1, x0:x1]
            elif weights is not None and partner != i and float(weights[i]) != 1.0:
                own = before[i].float() * weights[i]
                images[i] = _fused_multiply_add(before[partner].float(), 1.0 - weights[i], own)
        return images
    given = weights if regions is None else regions
    if given is None:
        raise ValueError("expected exactly one of regions (a cut) and weights (a blend)")
    batch, constituents = given.shape[:2]
    for b in range(batch):
        total = torch.zeros_like(before[b], dtype=torch.float32)
        for k in range(constituents):
            source = before[k * batch + b]
            if regions is not None and k > 0:
                y0, x0, y1, x1 = regions[b, k].tolist()
                images[b, :, y0:y1, x0:x1] = source[:, y0:y1, x0:x1]
            elif weights is not None and float(weights[b, k]) != 0.0:
                total = _fused_multiply_add(source.float(), weights[b, k], total)
        if weights is not None and bool(weights[b].any()):
            images[b] = total
    return images[:batch]


def dense_targets(
    classes: Tensor,
    weights: Tensor,
    num_classes: int,
    *,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """See :func:`mixpipe.kernels.dense_targets`."""
    present = classes >= 0
    shares = torch.zeros(len(classes), num_classes, device=classes.device)
    total = torch.zeros(len(classes), 1, device=classes.device)
    for k in range(classes.shape[1]):
        weight = (weights[:, k] * present[:, k])[:, None]
        shares.scatter_add_(1, classes[:, k : k + 1].clamp(min=0), weight)
        total += weight
    smooth = torch.tensor(smoothing, dtype=torch.float32, device=classes.device)
    return _fused_multiply_add(shares, 1.0 - smooth, smooth / num_classes * total).to(dtype)


def composite_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    ids: Tensor | None = None,
    table_losses: Tensor | None = None,
    table_epochs: Tensor | None = None,
    epoch: int | Tensor = 0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """See :func:`mixpipe.kernels.composite_cross_entropy`; computed in float64."""
    batch, constituents = weights.shape
    wide = logits.double()
    if wide.dim() == 2:
        wide = wide[:, None].expand(-1, constituents, -1)
    present = weights != 0
    if targets.is_floating_point():
        labels = targets.double()
        plain = F.binary_cross_entropy_with_logits(wide, labels, reduction="none").mean(-1)
        smoothed_labels = labels * (1 - label_smoothing) + label_smoothing / 2
        smoothed = F.binary_cross_entropy_with_logits(wide, smoothed_labels, reduction="none").mean(
            -1
        )
    else:
        present &= targets != ignore_index
        losses = -wide.log_softmax(-1)
        classes = torch.where(present, targets, 0)
        plain = losses.gather(-1, classes[..., None])[..., 0]
        smoothed = (1 - label_smoothing) * plain + label_smoothing * losses.mean(-1)
    loss = torch.where(present, weights * smoothed, 0.0).sum() / max(batch, 1)
    per_constituent = torch.where(present, plain, 0.0).detach().float()
    if ids is not None and table_losses is not None and table_epochs is not None:
        for b in range(batch):
            for k in range(constituents):
                if bool(present[b, k]) and int(ids[b, k]) >= 0:
                    table_losses[ids[b, k]] = per_constituent[b, k]
                    table_epochs[ids[b, k]] = epoch
    return loss.float(), per_constituent


def select_lowest(
    losses: Tensor,
    epochs: Tensor,
    rule: str,
    factors: Sequence[float],
    *,
    savings: Sequence[float] = (),
    target: float = 0.0,
    seed: int = 0,
) -> Selection:
    """See :func:`mixpipe.kernels.select_lowest`."""
    is_ranked = (epochs >= 0) & losses.isfinite()
    values = torch.where(is_ranked, losses.clamp(min=0.0), torch.inf)
    ordered = values.sort().values[: int(is_ranked.sum())]
    ranked = len(ordered)
    mean = float(ordered.double().mean()) if ranked else 0.0

    def up_to(threshold: float) -> Tensor:
        most = torch.finfo(torch.float32).max
        return is_ranked & (values <= torch.tensor(min(threshold, most), dtype=torch.float32))

    if rule == "share":
        # By value, then by a hash of the id: a stable sort of what is sorted by the hash.
        ids = torch.arange(len(losses), dtype=torch.int64)
        by_hash = _scramble(ids ^ int(_scramble(torch.tensor(seed % 2**32)))).sort().indices
        order = by_hash[values[by_hash].sort(stable=True).indices]
        masks = torch.zeros(len(factors), len(losses), dtype=torch.bool)
        for mask, factor in zip(masks, factors, strict=True):
            mask[order[: min(round(factor * ranked), ranked)]] = True
    elif rule == "mean":
        masks = torch.stack([up_to(factor * mean) for factor in factors])
    else:
        masks = torch.zeros(len(factors), len(losses), dtype=torch.bool)
        found = 0
        for bit in reversed(range(31)):  # the largest float32, bit by bit
            scale = torch.tensor(found | 1 << bit, dtype=torch.int32).view(torch.float32)
            if not bool(scale.isfinite()):
                continue
            candidate = torch.stack([up_to(factor * float(scale) * mean) for factor in factors])
            counts = candidate.sum(1).tolist()
            if sum(n * s for n, s in zip(counts, savings, strict=True)) <= target:
                found, masks = found | 1 << bit, candidate
    return Selection(ranked, mean, masks.sum(1).tolist(), masks.numpy())


def _scramble(numbers: Tensor) -> Tensor:
    """A one-to-one map of 32-bit numbers in int64 (the finaliser of MurmurHash3)."""
    numbers = numbers ^ numbers >> 16
    numbers = numbers * 0x85EBCA6B & 0xFFFFFFFF
    numbers = numbers ^ numbers >> 13
    numbers = numbers * 0xC2B2AE35 & 0xFFFFFFFF
    return numbers ^ numbers >> 16
