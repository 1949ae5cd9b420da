"""The project's kernels on the emulator: launch objects of mixpipe._C, through CuPy's stand-in.

The functions have the arguments of mixpipe.kernels; everything up to the launch is the project's
own code, working on host tensors.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from emulator.cupy_stand_in import Options, RawModule
from emulator.module import Traffic
from torch import Tensor

import mixpipe.kernels
from mixpipe import _C
from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD, pack_parts
from mixpipe.kernels.compose import launch as compose_launch
from mixpipe.kernels.cross_entropy import prepare, results, scale_launch
from mixpipe.kernels.mix import launch as mix_launch
from mixpipe.kernels.mix import pack_chains
from mixpipe.kernels.targets import launch as targets_launch

CSRC = Path(__file__).parents[2] / "csrc"
# Which source has the kernels whose names start so.
SOURCES = {
    "compose": "compose.cu",
    "mix": "mix.cu",
    "dense_targets": "targets.cu",
    "softmax": "cross_entropy.cu",
    "sigmoid": "cross_entropy.cu",
    "scale_gradient": "cross_entropy.cu",
}

Memory = Tensor | np.ndarray | None


class Device:
    """A GPU that is none: kernels of one build, under one schedule."""

    def __init__(self, build: str = "plain", seed: int = 0, csrc: Path = CSRC):
        self.csrc = csrc
        self.options = Options(build=build, seed=seed, folder=csrc)
        self.traced: str | None = None  # memory whose traffic is counted; "": all
        self.traffic: dict[str, tuple[Traffic, Traffic]] = {}  # kernel -> (read, written)

    def run(self, launch: _C.Launch, **memory: Memory | Sequence[Tensor]) -> None:
        """Runs a launch; `memory` is all that the kernel may touch, by name."""
        source = next(file for start, file in SOURCES.items() if launch.kernel.startswith(start))
        module = RawModule(code=(self.csrc / source).read_text(), stand_in=self.options)
        module.module.watch(_ranges(memory))
        module.module.trace(self.traced is not None, self.traced or "")
        kernel = module.get_function(launch.kernel)
        params = np.frombuffer(launch.params, dtype=f"V{len(launch.params)}")
        kernel((launch.grid,), (launch.block,), (params,), shared_mem=launch.shared_bytes)
        if self.traced is not None:
            self.traffic[launch.kernel] = module.module.traffic()

    def compose(
        self,
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
        """As mixpipe.kernels.compose."""
        if out is None:
            out = unwritten((len(source), 3, *size), dtype, channels_last)
        given = (list(patches), source, regions, origins, flips, blend, index_map)
        parts = pack_parts(out, *given)
        scale = [1.0 / (255.0 * s) for s in std]
        bias = [-m / s for m, s in zip(mean, std, strict=True)]
        launch = compose_launch(out, parts.ctypes.data, source, blend, index_map, scale, bias)
        self.run(launch, patches=patches, parts=parts, index_map=index_map, out=out)
        return out

    def mix_(
        self,
        images: Tensor,
        *,
        regions: Tensor | None = None,
        weights: Tensor | None = None,
        partners: Tensor | None = None,
    ) -> Tensor:
        """As mixpipe.kernels.mix_."""
        chains, links, mode = pack_chains(images, regions, weights, partners)
        if len(chains):
            launch = mix_launch(images, chains.ctypes.data, links.ctypes.data, len(chains), mode)
            self.run(launch, images=images, chains=chains, links=links)
        if partners is not None:
            return images
        return images[: len(images) // (weights if regions is None else regions).shape[1]]

    def dense_targets(
        self,
        classes: Tensor,
        weights: Tensor,
        num_classes: int,
        *,
        smoothing: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """As mixpipe.kernels.dense_targets."""
        out = unwritten((len(classes), num_classes), dtype)
        launch = targets_launch(classes, weights, out, smoothing)
        self.run(launch, classes=classes, weights=weights, out=out)
        return out

    def cross_entropy(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor,
        *,
        ids: Tensor | None = None,
        table_losses: Tensor | None = None,
        table_epochs: Tensor | None = None,
        epoch: int = 0,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        with_gradient: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As mixpipe.kernels.composite_cross_entropy; the third result is d loss / d logits."""
        table = (ids, table_losses, table_epochs)
        arguments = prepare(
            logits, targets, weights, *table, epoch, label_smoothing, ignore_index, with_gradient
        )
        smoothed = torch.full_like(arguments.weights, torch.nan)
        finished = torch.zeros(1, dtype=torch.int32)
        self.run(
            arguments.launch(smoothed, finished),
            **{name: value for name, value in vars(arguments).items() if isinstance(value, Tensor)},
            smoothed=smoothed,
            finished=finished,
        )
        assert int(finished) == 0
        loss, per_constituent, gradient = results(arguments)
        if with_gradient:
            factor = 1.0 / (len(logits) * mixpipe.kernels.cross_entropy.gradient_scale(logits))
            gradient = self.scale_gradient(gradient, torch.ones(()), factor)
        return loss, per_constituent, gradient

    def scale_gradient(self, gradient: Tensor, grad_loss: Tensor, factor: float) -> Tensor:
        """The backward pass of the loss."""
        result = unwritten(tuple(gradient.shape), gradient.dtype)
        launch = scale_launch(gradient, grad_loss, result, factor)
        self.run(launch, gradient=gradient, grad_loss=grad_loss, result=result)
        return result


def unwritten(
    shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False, offset: int = 0
) -> Tensor:
    """A tensor of NaNs, so that what a kernel leaves out shows; `offset` elements off alignment."""
    count = int(np.prod(shape))
    storage = torch.full((count + 16,), torch.nan, dtype=dtype)
    start = -storage.data_ptr() % 16 // storage.element_size() + offset
    flat = storage[start : start + count]
    if channels_last:
        batch, channels, height, width = shape
        return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return flat.view(shape)


def _ranges(memory: dict[str, Memory | Sequence[Tensor]]) -> dict[str, tuple[int, int]]:
    """Address and bytes of all that is given. A view stands for its own elements only."""
    ranges = {}
    for name, value in memory.items():
        if value is None:
            continue
        if isinstance(value, np.ndarray):
            ranges[name] = (value.ctypes.data, value.nbytes)
        elif isinstance(value, Tensor):
            ranges[name] = _extent(value)
        else:
            ranges |= {f"{name}[{i}]": _extent(tensor) for i, tensor in enumerate(value)}
    return ranges


def _extent(tensor: Tensor) -> tuple[int, int]:
    if not tensor.numel():
        return tensor.data_ptr(), 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), (last + 1) * tensor.element_size()
