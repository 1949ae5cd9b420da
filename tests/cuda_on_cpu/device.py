"""The project's CUDA path on the emulator: mixpipe.kernels.cuda with CuPy's stand-in.

The functions have the arguments of mixpipe.kernels. Everything up to the launch, and the launch
itself, is the project's own code, working on host tensors.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emulator.cupy_stand_in import Options, RawModule
from emulator.module import Traffic
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixpipe import _C
from mixpipe.kernels import cuda
from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD, scale_and_bias
from mixpipe.kernels.cross_entropy import gradient_scale
from mixpipe.kernels.select import Selection

CSRC = Path(__file__).parents[2] / "csrc"


class Device:
    """A GPU that is none: kernels of one build, under one schedule.

    Args:
        build: plain or checked (emulator/build.py).
        seed: the schedule.
        csrc: where the sources are.
    """

    def __init__(self, build: str = "plain", seed: int = 0, csrc: Path = CSRC):
        self.options = Options(build=build, seed=seed, folder=csrc)
        self.launcher = _Launcher(self)
        self.capturing = False  # as while a CUDA graph is captured
        self.captured: list[tuple[_C.Launch, dict[str, tuple[int, int]]]] = []  # with memory
        self.memory: dict[str, tuple[int, int]] = {}  # what kernels may touch, in the checked build
        self.traced: str | None = None  # memory whose traffic is counted; "": all
        self.traffic: dict[str, tuple[Traffic, Traffic]] = {}  # kernel -> (read, written)

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
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """As mixpipe.kernels.compose."""
        if out is None:
            out = unwritten((len(source), 3, *size), dtype, channels_last)
        plan = (source, regions, origins, flips, blend, index_map)
        arithmetic = scale_and_bias(IMAGENET_MEAN, IMAGENET_STD)
        with self.watching(patches=patches, index_map=index_map, out=out):
            cuda.compose(self.launcher, out, list(patches), *plan, *arithmetic)
        return out

    def compose_resampled(
        self,
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
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """As mixpipe.kernels.compose_resampled."""
        if out is None:
            out = unwritten((len(source), 3, *size), dtype, channels_last)
        given = (list(rectangles), windows, sizes, source, regions, origins, flips, blend)
        arithmetic = scale_and_bias(IMAGENET_MEAN, IMAGENET_STD)
        with self.watching(rectangles=rectangles, index_map=index_map, out=out):
            cuda.compose_resampled(self.launcher, out, *given, index_map, *arithmetic)
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
        with self.watching(images=images):
            cuda.mix_(self.launcher, images, regions, weights, partners)
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
        with self.watching(classes=classes, weights=weights):
            return cuda.dense_targets(
                self.launcher, classes, weights, num_classes, smoothing, dtype
            )

    def cross_entropy(
        self,
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
        with_gradient: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As mixpipe.kernels.composite_cross_entropy; the third result is d loss / d logits."""
        given = {"logits": logits, "targets": targets, "weights": weights}
        table = {"ids": ids, "table_losses": table_losses, "table_epochs": table_epochs}
        with self.watching(**given, **table, epoch=epoch if isinstance(epoch, Tensor) else None):
            loss, per_constituent, gradient = cuda.composite_cross_entropy(
                self.launcher,
                *given.values(),
                *table.values(),
                0 if isinstance(epoch, Tensor) else epoch,
                epoch if isinstance(epoch, Tensor) else None,
                label_smoothing,
                ignore_index,
                with_gradient,
            )
        if with_gradient and len(logits):
            factor = 1.0 / (len(logits) * gradient_scale(logits))
            grad_loss = torch.ones(())
            with self.watching(gradient=gradient, grad_loss=grad_loss):
                gradient = cuda.scale_gradient(self.launcher, gradient, grad_loss, factor)
        return loss, per_constituent, gradient

    def select_lowest(
        self, losses: Tensor, epochs: Tensor, rule: str, factors: Sequence[float], **how: Any
    ) -> Selection:
        """As mixpipe.kernels.select_lowest."""
        with self.watching(losses=losses, epochs=epochs):
            return cuda.select_lowest(self.launcher, losses, epochs, rule, factors, **how)

    @contextmanager
    def watching(self, **given: Any) -> Iterator[None]:
        """Kernels may touch the tensors given, by name, and what is allocated meanwhile."""
        self.memory = _ranges(given)
        with _Allocations(self) if self.options.build == "checked" else nullcontext():
            yield


class _Launcher(cuda.Launcher):
    """The project's launcher with the emulator for CuPy."""

    def __init__(self, device: Device):
        super().__init__(self._load_source, lambda _: nullcontext(), lambda _: device.capturing)
        self._device = device

    def _load_source(self, source: str) -> RawModule:
        options = self._device.options
        code = (options.folder / source).read_text()
        return RawModule(code=code, options=("--std=c++17",), stand_in=options)

    def stage(self, array: np.ndarray, device: torch.device) -> Tensor:
        if self._device.capturing:
            return super().stage(array, device)
        tensor = torch.from_numpy(array.reshape(-1)).clone()  # aligned as device memory is
        self._device.memory |= _ranges({"staged": tensor})
        return tensor

    def __call__(self, launch: _C.Launch, device: torch.device) -> None:
        owner = self._device
        if owner.capturing:
            owner.captured.append((launch, dict(owner.memory)))
        if launch.grid:
            module = self._kernel(launch, device)._kernel.module
            module.watch(owner.memory)
            module.trace(owner.traced is not None, owner.traced or "")
        super().__call__(launch, device)
        if launch.grid and owner.traced is not None:
            owner.traffic[launch.kernel] = module.traffic()


class _Allocations(TorchDispatchMode):
    """Notes every tensor that is made, named by its dtype and shape."""

    def __init__(self, device: Device):
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            name = f"{result.dtype}{list(result.shape)}"
            if name in self._device.memory:
                name += f" #{len(self._device.memory)}"
            self._device.memory |= _ranges({name: result})
        return result


def unwritten(
    shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False, offset: int = 0
) -> Tensor:
    """A tensor of NaNs, so that what a kernel leaves out shows; `offset` elements off alignment."""
    count = int(np.prod(shape))
    storage = torch.full((count + 64,), torch.nan, dtype=dtype)
    start = -storage.data_ptr() % 64 // storage.element_size() + offset
    flat = storage[start : start + count]
    if channels_last:
        batch, channels, height, width = shape
        return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return flat.view(shape)


def _ranges(memory: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Address and bytes of tensors and of sequences of them. A view stands for its own elements."""
    ranges = {}
    for name, value in memory.items():
        if isinstance(value, Tensor):
            ranges[name] = _extent(value)
        elif value is not None:
            ranges |= {f"{name}[{i}]": _extent(tensor) for i, tensor in enumerate(value)}
    return ranges


def _extent(tensor: Tensor) -> tuple[int, int]:
    if not tensor.numel():
        return tensor.data_ptr(), 0
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), (last + 1) * tensor.element_size()
