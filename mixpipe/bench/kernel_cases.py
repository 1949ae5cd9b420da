"""What `mixpipe bench kernels` times: each kernel's inputs, and the ways to compute the same.

A case has mixpipe's kernel first, then its rivals: torch eager (plain code, the best of which
counts), the reference, torch.compile when asked for, and timm, torchvision and kornia where they
are installed and have such a thing. Rivals may write into memory that is there already, as mixpipe
may, so that no time is spent on fresh pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module, util
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mixpipe import kernels
from mixpipe.kernels import reference
from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD, scale_and_bias
from mixpipe.plan import Draw, Whole, default_layout, uniforms

__all__ = [
    "KERNELS",
    "LIBRARIES",
    "Case",
    "Spec",
    "Way",
    "compose_bytes",
    "default_grid",
    "full_grid",
    "loss_bytes",
    "make_case",
    "mix_bytes",
    "targets_bytes",
]

LIBRARIES = ("torchvision", "timm", "kornia")
KERNELS = ("compose", "compose_resampled", "mix_", "dense_targets", "composite_cross_entropy")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SMOOTHING = 0.1
Regions = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Spec:
    """One case of the grid.

    Attributes:
        kernel: one of ``KERNELS``.
        dtype: of the results (of the logits): "fp32", "fp16" or "bf16".
        layout: "channels_last" or "contiguous"; "" where there are no images.
        k: constituents of a composite.
        batch: composites.
        what: of ``mix_``: "box" (half as high and wide), "whole" or "blend"; else "".
        size: height and width of the canvas.
        classes: number of classes.
    """

    kernel: str
    dtype: str = "fp16"
    layout: str = "channels_last"
    k: int = 2
    batch: int = 128
    what: str = ""
    size: int = 224
    classes: int = 1000

    def __str__(self) -> str:
        if self.kernel in ("compose", "compose_resampled", "mix_"):
            shape = f"[{self.batch}, 3, {self.size}, {self.size}]"
        else:
            shape = f"[{self.batch}, {self.classes}]"
        parts = (self.kernel, self.what, shape, self.dtype, self.layout, f"k = {self.k}")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Way:
    """One way to compute it.

    Attributes:
        name: whose it is, and how it is done.
        run: computes once and returns the result.
        same: whether the result is mixpipe's; some rivals draw their own boxes, of the same size.
    """

    name: str
    run: Callable[[], Tensor]
    same: bool = True


@dataclass(frozen=True)
class Case:
    """Inputs in memory, and the ways; mixpipe's first.

    Attributes:
        spec: what it is.
        bytes: that must move: every input byte that is needed once, every output byte once.
        ways: to compute it.
        tolerance: largest difference of two results, relative to the largest value.
    """

    spec: Spec
    bytes: int
    ways: tuple[Way, ...]
    tolerance: float


def default_grid() -> list[Spec]:
    """The cases that the figures need, and one step from them in each direction."""
    compose = Spec("compose")
    mix = Spec("mix_", "fp32", "contiguous", what="box")
    loss = Spec("composite_cross_entropy", "fp32", "", batch=256)
    return [
        compose,
        replace(compose, dtype="fp32", layout="contiguous"),
        replace(compose, dtype="bf16"),
        replace(compose, k=4),
        Spec("compose_resampled"),
        Spec("compose_resampled", "fp32", "contiguous"),
        mix,
        replace(mix, what="whole"),
        replace(mix, what="blend"),
        replace(mix, dtype="fp16", layout="channels_last"),
        Spec("dense_targets", "fp32", "", batch=256),
        loss,
        replace(loss, k=4),
        replace(loss, dtype="fp16"),
        replace(loss, batch=2048),
    ]


def full_grid() -> Iterator[Spec]:
    """Every dtype, layout, k and batch."""
    for batch in (32, 128, 256):
        for dtype in DTYPES:
            for layout in ("channels_last", "contiguous"):
                for k in (1, 2, 3, 4):
                    yield Spec("compose", dtype, layout, k, batch)
                    yield Spec("compose_resampled", dtype, layout, k, batch)
                for what in ("box", "whole", "blend"):
                    yield Spec("mix_", dtype, layout, 2, batch, what)
            for k in (1, 2, 3, 4):
                yield Spec("dense_targets", dtype, "", k, batch)
                yield Spec("composite_cross_entropy", dtype, "", k, batch)


def make_case(
    spec: Spec, *, device: str = "cpu", compiled: bool = False, libraries: tuple[str, ...] = ()
) -> Case:
    """Allocate a case's inputs and collect its ways.

    Args:
        spec: what to make.
        device: where pixels, logits and targets lie.
        compiled: also try torch.compile.
        libraries: which of ``LIBRARIES`` to try; they must be installed.
    """
    make = {
        "compose": _compose,
        "compose_resampled": _compose_resampled,
        "mix_": _mix,
        "dense_targets": _dense_targets,
        "composite_cross_entropy": _cross_entropy,
    }[spec.kernel]
    return make(spec, torch.device(device), compiled, libraries)


def installed(libraries: tuple[str, ...] = LIBRARIES) -> tuple[str, ...]:
    """Those of ``libraries`` that can be imported."""
    return tuple(name for name in libraries if util.find_spec(name) is not None)


def compose_bytes(regions: Regions, size: int, element: int) -> int:
    """Bytes that composing must move.

    3 a visible pixel of a patch, and the whole result. A pixel under a later region is not needed.

    Args:
        regions: [B, K, 4].
        size: height and width of the canvas.
        element: bytes of an element of the result.
    """
    visible = 0
    for composite in regions:
        shown = np.zeros((size, size), np.bool_)
        for y0, x0, y1, x1 in composite:
            shown[y0:y1, x0:x1] = True
        visible += int(shown.sum())
    return 3 * visible + 3 * element * len(regions) * size * size


def resampled_bytes(rectangles: list[Tensor], batch: int, size: int, element: int) -> int:
    """Bytes that resampling and composing must move: every decoded pixel, and the whole result."""
    return sum(r.nbytes for r in rectangles) + 3 * element * batch * size * size


def mix_bytes(regions: Regions, partners: Regions, channels: int, element: int) -> int:
    """Bytes that a cut must move: each box read and written, but where an image is its own."""
    height, width = (regions[:, 2:] - regions[:, :2]).T
    moved = (height * width)[partners != np.arange(len(partners))]
    return 2 * channels * element * int(moved.sum())


def targets_bytes(batch: int, k: int, classes: int, element: int) -> int:
    """Bytes that dense targets must move: int64 classes, float32 weights, the result."""
    return batch * (k * (8 + 4) + classes * element)


def loss_bytes(batch: int, k: int, classes: int, element: int) -> int:
    """Bytes that loss, gradient and table must move.

    Logits are read and their gradient written; for each constituent, class, weight and id are read,
    and its loss and the table's loss and epoch written.
    """
    return batch * (2 * classes * element + k * (8 + 4 + 8 + 4 + 4 + 4))


def box_bytes_launched(regions: Tensor, partners: Tensor, images: Tensor) -> int:
    """Bytes that `mix_` tells its kernel to move: of the links that it launches with."""
    from mixpipe.kernels.mix import pack_chains

    _, links, _ = pack_chains(images, regions, None, partners)
    fields = links.reshape(-1).view(np.int32).reshape(-1, 8)  # csrc/mix.h, MixLink
    boxes = fields[:, 4:].astype(np.int64)
    pixels = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    return int(2 * pixels * images.shape[1] * images.element_size())


def _regions(spec: Spec) -> Tensor:
    """int32 [B, K, 4] of the default layout for k, equal shares."""
    layout = Whole() if spec.k == 1 else default_layout(spec.k)
    shares = np.full((spec.batch, spec.k), 1.0 / spec.k)
    draws = uniforms(np.arange(spec.batch), layout.draws, seed=0, epoch=0, draw=Draw.LAYOUT)
    placed = layout.place(shares, draws, (spec.size, spec.size))
    return torch.from_numpy(placed.regions.astype(np.int32))


def _images(spec: Spec, device: torch.device) -> Tensor:
    images = torch.empty(
        (spec.batch, 3, spec.size, spec.size),
        dtype=DTYPES[spec.dtype],
        device=device,
        memory_format=_memory_format(spec),
    )
    generator = torch.Generator(device).manual_seed(0)
    return images.copy_(torch.rand(images.shape, generator=generator, device=device))


def _memory_format(spec: Spec) -> torch.memory_format:
    last = spec.layout == "channels_last"
    return torch.channels_last if last else torch.contiguous_format


def _pixels(height: int, width: int, device: torch.device) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device=device)


class _Composing:
    """What compose and compose_resampled have in common: places, results, and torch's way."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        torch.manual_seed(0)
        self.spec, self.device = spec, device
        self.regions = _regions(spec)
        self.source = torch.arange(spec.batch * spec.k, dtype=torch.int32).view(spec.batch, spec.k)
        self.flips = torch.rand(spec.batch, spec.k) < 0.5
        self.dtype = DTYPES[spec.dtype]
        sides = self.regions[..., 2:] - self.regions[..., :2]
        self.sizes = sides.reshape(-1, 2)
        self.canvas = torch.zeros(
            (spec.batch, spec.size, spec.size, 3), dtype=torch.uint8, device=device
        )
        scale, bias = scale_and_bias(IMAGENET_MEAN, IMAGENET_STD)
        self.scale = torch.tensor(scale, device=device)
        self.bias = torch.tensor(bias, device=device)
        # Each place on the canvases, with the number of its constituent.
        self.places = [
            (b, y0, y1, x0, x1, bool(self.flips[b, k]), b * spec.k + k)
            for b in range(spec.batch)
            for k, (y0, x0, y1, x1) in enumerate(self.regions[b].tolist())
        ]

    def result(self) -> Tensor:
        """A result to write into."""
        return torch.empty(
            (self.spec.batch, 3, self.spec.size, self.spec.size),
            dtype=self.dtype,
            device=self.device,
            memory_format=_memory_format(self.spec),
        )

    def settings(self) -> dict[str, Any]:
        """The arguments that mixpipe and the reference share."""
        return {
            "size": (self.spec.size, self.spec.size),
            "flips": self.flips,
            "dtype": self.dtype,
            "channels_last": self.spec.layout == "channels_last",
        }

    def paste(self, patches: list[Tensor]) -> Tensor:
        """Put uint8 patches [h, w, 3] on the canvases; the canvases [B, 3, H, W], as a view."""
        for b, y0, y1, x0, x1, flip, part in self.places:
            patch = patches[part]
            self.canvas[b, y0:y1, x0:x1] = patch.flip(1) if flip else patch
        return self.canvas.permute(0, 3, 1, 2)

    def ways(
        self, patches: Callable[[], list[Tensor]], compiled: bool, libraries: tuple[str, ...]
    ) -> list[Way]:
        """Torch's ways: paste, then normalise and cast."""
        scale, bias = self.scale.view(3, 1, 1), self.bias.view(3, 1, 1)

        def normalise(pixels: Tensor, out: Tensor) -> Tensor:
            return out.copy_(torch.addcmul(bias, pixels.float(), scale))

        def all_at_once(out: Tensor) -> Tensor:
            return normalise(self.paste(patches()), out)

        def one_by_one(out: Tensor) -> Tensor:
            # A canvas and its floats stay in the cache.
            for pixels, image in zip(self.paste(patches()), out, strict=True):
                normalise(pixels, image)
            return out

        def in_place(out: Tensor) -> Tensor:
            # Fewer bytes, but rounded three times where the result is not fp32.
            return out.copy_(self.paste(patches())).mul_(scale).add_(bias)

        ways = [
            Way("torch eager, batch", _into(all_at_once, self.result())),
            Way("torch eager, image by image", _into(one_by_one, self.result())),
            Way("torch eager, in the result's dtype", _into(in_place, self.result())),
        ]
        if compiled:
            fused = torch.compile(normalise)

            def compile_all(out: Tensor) -> Tensor:
                return fused(self.paste(patches()), out)

            ways.append(Way("torch.compile", _into(compile_all, self.result())))
        if "torchvision" in libraries:
            functional = import_module("torchvision.transforms.v2.functional")

            def torchvision(out: Tensor) -> Tensor:
                images = functional.to_dtype(self.paste(patches()), torch.float32, scale=True)
                images = functional.normalize_image(
                    images, list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True
                )
                return out.copy_(images)

            ways.append(Way("torchvision v2", _into(torchvision, self.result())))
        if "kornia" in libraries:
            enhance = import_module("kornia.enhance")
            mean, std = 255 * torch.tensor(IMAGENET_MEAN), 255 * torch.tensor(IMAGENET_STD)
            mean, std = mean.to(self.device), std.to(self.device)

            def kornia(out: Tensor) -> Tensor:
                return out.copy_(enhance.normalize(self.paste(patches()).float(), mean, std))

            ways.append(Way("kornia", _into(kornia, self.result())))
        return ways


def _into(write: Callable[[Tensor], Tensor], out: Tensor) -> Callable[[], Tensor]:
    return lambda: write(out)


def _compose(spec: Spec, device: torch.device, compiled: bool, libraries: tuple[str, ...]) -> Case:
    common = _Composing(spec, device)
    patches = [_pixels(height, width, device) for height, width in common.sizes.tolist()]
    settings = common.settings()

    def way(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        out = common.result()
        return lambda: function(patches, common.source, common.regions, out=out, **settings)

    ways = [
        Way("mixpipe", way(kernels.compose)),
        *common.ways(lambda: patches, compiled, libraries),
        Way("reference", way(reference.compose)),
    ]
    moved = compose_bytes(common.regions.numpy(), spec.size, common.dtype.itemsize)
    return Case(spec, moved, tuple(ways), _tolerance(spec))


def _compose_resampled(
    spec: Spec, device: torch.device, compiled: bool, libraries: tuple[str, ...]
) -> Case:
    """Decoded rectangles 1.4 times as high and wide as the region that they go to."""
    common = _Composing(spec, device)
    sizes = common.sizes
    decoded = (1.4 * sizes).round().int()
    rectangles = [_pixels(height, width, device) for height, width in decoded.tolist()]
    windows = torch.cat([torch.zeros(len(sizes), 2), decoded.float()], dim=1)
    settings = common.settings()

    def way(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        out = common.result()
        return lambda: function(
            rectangles, windows, sizes, common.source, common.regions, out=out, **settings
        )

    def resized() -> list[Tensor]:
        return [
            F.interpolate(
                (pixels if device.type == "cpu" else pixels.float()).permute(2, 0, 1)[None],
                (int(height), int(width)),
                mode="bilinear",
                antialias=True,
            )[0].permute(1, 2, 0)
            for pixels, (height, width) in zip(rectangles, sizes.tolist(), strict=True)
        ]

    ways = [
        Way("mixpipe", way(kernels.compose_resampled)),
        *common.ways(resized, compiled, libraries),
        Way("reference", way(reference.compose_resampled)),
    ]
    moved = resampled_bytes(rectangles, spec.batch, spec.size, common.dtype.itemsize)
    # Rivals round the resized pixels to whole levels of 255.
    return Case(spec, moved, tuple(ways), _tolerance(spec) + 0.01)


def _mix(spec: Spec, device: torch.device, compiled: bool, libraries: tuple[str, ...]) -> Case:
    """N -> N with the neighbour in the batch, as torchvision does it; one box for all images."""
    count, size = spec.batch, spec.size
    part = size if spec.what == "whole" else size // 2
    y0 = x0 = (size - part) // 2
    box = (y0, x0, y0 + part, x0 + part)
    inside = (..., slice(y0, y0 + part), slice(x0, x0 + part))
    share = 0.75  # of the own image, in a blend
    first = _images(spec, device)
    partners = torch.arange(count).roll(1)
    regions = torch.tensor([box] * count, dtype=torch.int32)
    blend = spec.what == "blend"
    given: dict[str, Any] = {"partners": partners}
    given |= {"weights": torch.full((count,), share)} if blend else {"regions": regions}

    def way(name: str, function: Callable[[Tensor], Tensor | None], same: bool = True) -> Way:
        images = first.clone(memory_format=torch.preserve_format)

        def run() -> Tensor:
            result = function(images)
            return images if result is None else result

        return Way(name, run, same)

    def cut(images: Tensor) -> None:
        images[inside] = images[inside].roll(1, 0)

    def mixed(images: Tensor) -> None:
        rolled = images.roll(1, 0)
        images.mul_(share).add_(rolled, alpha=1.0 - share)

    def interpolated(images: Tensor) -> None:
        torch.lerp(images.roll(1, 0), images, share, out=images)

    ways = [way("mixpipe", lambda images: kernels.mix_(images, **given))]
    if blend:
        ways += [way("torch eager, add", mixed), way("torch eager, lerp", interpolated)]
    else:
        ways += [way("torch eager, roll", cut)]
    if compiled:
        ways.append(way("torch.compile", torch.compile(mixed if blend else cut)))
    if "torchvision" in libraries:
        v2 = import_module("torchvision.transforms.v2")
        mixer = v2.MixUp() if blend else v2.CutMix()
        params = {
            "labels": None,
            "batch_size": count,
            "lam": share,
            "box": (box[1], box[0], box[3], box[2]),
        }
        ways.append(way("torchvision v2", lambda images: mixer.transform(images, params)))
    if "timm" in libraries and spec.what != "whole":
        mixup = import_module("timm.data.mixup").Mixup
        # Sizes are drawn from a range that holds one size only; partners are from the other end.
        minmax = None if blend else (part / size, (part + 1) / size)
        ours = mixup(mixup_alpha=1.0 if blend else 0.0, cutmix_minmax=minmax)
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        if count % 2 == 0:
            ways.append(way("timm", lambda images: ours(images, labels)[0], same=False))
    if "kornia" in libraries and spec.what != "whole":
        augment = import_module("kornia.augmentation")
        other = (
            augment.RandomMixUpV2(lambda_val=torch.tensor([share, share]), p=1.0)
            if blend
            else augment.RandomCutMixV2(
                cut_size=torch.tensor([0.5, 0.5]), p=1.0, use_correct_lambda=True
            )
        )
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        ways.append(
            way("kornia", lambda images: other(images, labels)[0].to(images.dtype), same=False)
        )
    ways.append(way("reference", lambda images: reference.mix_(images, **given)))
    element = first.element_size()
    if blend:
        moved = 2 * first.numel() * element
    else:
        moved = mix_bytes(regions.numpy(), partners.numpy(), 3, element)
    return Case(spec, moved, tuple(ways), _tolerance(spec))


def _dense_targets(
    spec: Spec, device: torch.device, compiled: bool, libraries: tuple[str, ...]
) -> Case:
    classes, weights = _pairs(spec, device)
    dtype, shape = DTYPES[spec.dtype], (spec.batch, spec.classes)

    def scattered() -> Tensor:
        out = torch.full(shape, SMOOTHING / spec.classes, device=device)
        return out.scatter_add_(1, classes, weights * (1.0 - SMOOTHING)).to(dtype)

    def hot() -> Tensor:
        rows = F.one_hot(classes, spec.classes) * weights[..., None]
        return (rows.sum(1) * (1.0 - SMOOTHING) + SMOOTHING / spec.classes).to(dtype)

    def way(function: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: function(classes, weights, spec.classes, smoothing=SMOOTHING, dtype=dtype)

    ways = [
        Way("mixpipe", way(kernels.dense_targets)),
        Way("torch eager, scatter", scattered),
        Way("torch eager, one_hot", hot),
    ]
    if compiled:
        ways.append(Way("torch.compile", torch.compile(scattered)))
    if "timm" in libraries and spec.k == 2:
        mixup_target = import_module("timm.data.mixup").mixup_target
        labels = classes[:, 0].contiguous()
        ways.append(
            Way("timm", lambda: mixup_target(labels, spec.classes, 0.5, SMOOTHING), same=False)
        )
    ways.append(Way("reference", way(reference.dense_targets)))
    moved = targets_bytes(spec.batch, spec.k, spec.classes, dtype.itemsize)
    return Case(spec, moved, tuple(ways), _tolerance(spec))


def _cross_entropy(
    spec: Spec, device: torch.device, compiled: bool, libraries: tuple[str, ...]
) -> Case:
    """Forward, backward and the table. Soft labels are there already where a way needs them."""
    classes, weights = _pairs(spec, device)
    samples = 100_000
    ids = torch.randperm(samples)[: spec.batch * spec.k].view(spec.batch, spec.k).to(device)
    first = torch.randn(spec.batch, spec.classes, device=device).to(DTYPES[spec.dtype])
    soft = reference.dense_targets(classes, weights, spec.classes, dtype=first.dtype)

    def way(name: str, function: Callable[..., Tensor]) -> Way:
        logits = first.clone().requires_grad_()
        table = torch.full((samples,), float("nan"), device=device)
        epochs = torch.full((samples,), -1, dtype=torch.int32, device=device)

        def run() -> Tensor:
            logits.grad = None
            torch.autograd.backward(function(logits, table, epochs))
            gradient = logits.grad
            return logits if gradient is None else gradient

        return Way(name, run)

    def enter(table: Tensor, epochs: Tensor, losses: Tensor) -> None:
        table[ids] = losses.float()
        epochs[ids] = 1

    def with_soft(logits: Tensor, table: Tensor, epochs: Tensor) -> Tensor:
        # The cheapest: the table gets the composite's loss for all its constituents.
        losses = F.cross_entropy(logits, soft, reduction="none")
        enter(table, epochs, losses.detach()[:, None].expand(ids.shape))
        return losses.mean()

    def with_soft_and_own(logits: Tensor, table: Tensor, epochs: Tensor) -> Tensor:
        with torch.no_grad():
            enter(table, epochs, -logits.log_softmax(1).gather(1, classes))
        return F.cross_entropy(logits, soft)

    def with_pairs(logits: Tensor, table: Tensor, epochs: Tensor) -> Tensor:
        losses = -logits.log_softmax(1).gather(1, classes)
        enter(table, epochs, losses.detach())
        return (losses * weights).sum() / len(losses)

    def own(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
        def run(logits: Tensor, table: Tensor, epochs: Tensor) -> Tensor:
            entries = {"ids": ids, "table_losses": table, "table_epochs": epochs, "epoch": 1}
            return function(logits, classes, weights, **entries)[0]

        return run

    ways = [
        way("mixpipe", own(kernels.composite_cross_entropy)),
        way("torch eager, soft labels", with_soft),
        way("torch eager, soft labels and own losses", with_soft_and_own),
        way("torch eager, pairs", with_pairs),
    ]
    if compiled:
        ways.append(way("torch.compile, soft labels", torch.compile(with_soft)))
        ways.append(way("torch.compile, pairs", torch.compile(with_pairs)))
    if "timm" in libraries:
        timm = import_module("timm.loss").SoftTargetCrossEntropy()

        def with_timm(logits: Tensor, table: Tensor, epochs: Tensor) -> Tensor:
            with torch.no_grad():
                enter(table, epochs, -logits.log_softmax(1).gather(1, classes))
            loss: Tensor = timm(logits, soft)
            return loss

        ways.append(way("timm", with_timm))
    ways.append(way("reference", own(reference.composite_cross_entropy)))
    moved = loss_bytes(spec.batch, spec.k, spec.classes, first.element_size())
    return Case(spec, moved, tuple(ways), _tolerance(spec))


def _pairs(spec: Spec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Classes int64 [B, K] and weights float32 [B, K]."""
    torch.manual_seed(0)
    classes = torch.randint(0, spec.classes, (spec.batch, spec.k), device=device)
    weights = torch.full((spec.batch, spec.k), 1.0 / spec.k, device=device)
    return classes, weights


def _tolerance(spec: Spec) -> float:
    """A few roundings of the dtype."""
    return 4 * float(torch.finfo(DTYPES[spec.dtype]).eps)
