"""The CUDA kernels: launched through CuPy, on torch's current stream and device.

_C.Launch (params, geometry) ──► Launcher ──► kernel(grid, block, (params,), shared_mem=...)
                                    ▲
             fatbin built by CMake, or NVRTC at first use (CuPy keeps its results on disk)

Every number of a launch comes from the extension. The functions here take the launcher as their
first argument, so that a stand-in can take the launches where there is no GPU.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import check_classes
from mixpipe.kernels.compose import prepare as prepare_composed
from mixpipe.kernels.cross_entropy import check_values, prepare, results, scale_launch
from mixpipe.kernels.debug import debugging
from mixpipe.kernels.mix import prepare as prepare_mix
from mixpipe.kernels.prepared import Prepared
from mixpipe.kernels.resample import prepare_resampled
from mixpipe.kernels.select import RULES, Selection, check_select, unpack_selection
from mixpipe.kernels.targets import check_pairs
from mixpipe.kernels.targets import launch as targets_launch

_log = logging.getLogger(__name__)

LEAST_CAPABILITY = (7, 5)
"""The oldest architecture that the kernels are compiled for (Turing)."""

_STAGE = "stage"  # the kernel of stage.cu

COMPILE_OPTIONS = ("--std=c++17",)
"""What NVRTC is given beside the architecture, which CuPy adds."""


@cache
def _struct(size: int) -> np.dtype[np.void]:
    """The type of so many bytes, of which CuPy passes one by value."""
    return np.dtype((np.void, size))


class Kernel(Protocol):
    """A kernel that is called as CuPy's are."""

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[object, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        """Launches the kernel on CuPy's current stream."""


class Module(Protocol):
    """Compiled kernels, as CuPy's RawModule."""

    def get_function(self, name: str) -> Kernel:
        """The kernel of a name."""


class Launcher:
    """Launches what the extension prepared.

    Args:
        load: makes the module of a source file, such as ``compose.cu``.
        on_device: the context in which kernels of a device are launched: its current stream.
        capturing: whether a CUDA graph is being captured on a device's current stream.
    """

    def __init__(
        self,
        load: Callable[[str], Module],
        on_device: Callable[[torch.device], AbstractContextManager[object]],
        capturing: Callable[[torch.device], bool],
    ) -> None:
        self._load = load
        self._on_device = on_device
        self._capturing = capturing
        self._modules: dict[str, Module] = {}
        self._kernels: dict[tuple[str, torch.device], Kernel] = {}

    def __call__(self, launch: _C.Launch, device: torch.device) -> None:
        """Launches on the current stream of the device; an empty grid launches nothing.

        Raises:
            RuntimeError: the launch was refused or, in debug mode, the kernel failed: with its name
                and parameters. Or it is the kernel's first launch on a device, while a CUDA graph
                is captured there.
        """
        if launch.grid == 0:
            return
        params = launch.params
        argument = np.frombuffer(params, dtype=_struct(len(params)))
        with self._on_device(device):
            kernel = self._kernel(launch, device)
            try:
                kernel((launch.grid,), (launch.block,), (argument,), shared_mem=launch.shared_bytes)
                if debugging() and device.type == "cuda":  # needs a GPU
                    torch.cuda.synchronize(device)
            except RuntimeError as error:
                raise RuntimeError(
                    f"CUDA kernel {launch.kernel} failed on {device} with grid {launch.grid}, "
                    f"block {launch.block}, {launch.shared_bytes} bytes of shared memory and "
                    f"{launch.description}: {error}"
                ) from error

    def with_table(self, prepared: Prepared, device: torch.device) -> None:
        """Brings the table of a prepared call to the device and launches it."""
        staged = self.stage(prepared.table, device)
        self(prepared.launch(staged.data_ptr()), device)

    def stage(self, array: NDArray[np.uint8], device: torch.device) -> Tensor:
        """The bytes on the device, for what its current stream does next; the host goes on.

        They are copied from pinned memory, but for two cases, in which kernels carry them as
        parameters: while a CUDA graph is captured, which keeps parameters and would read pinned
        memory anew at every replay; and the first time on a device, so that this kernel is loaded
        when a capture needs it.
        """
        if self._capturing(device) or (_STAGE, device) not in self._kernels:
            return self.store(array, device)
        tensor = torch.from_numpy(array.reshape(-1))
        if device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(device, non_blocking=True)  # needs a GPU

    def store(self, array: NDArray[np.uint8], device: torch.device) -> Tensor:
        """The bytes on the device, carried there as parameters of kernels."""
        staged = torch.empty(array.size, dtype=torch.uint8, device=device)
        for step in _C.stage(array, staged.data_ptr()):
            self(step, device)
        return staged

    def _kernel(self, launch: _C.Launch, device: torch.device) -> Kernel:
        key = (launch.kernel, device)
        if key not in self._kernels:
            if self._capturing(device):
                raise RuntimeError(
                    f"CUDA kernel {launch.kernel} is launched for the first time on {device} while "
                    "a CUDA graph is captured: run the same step once before, so that it is loaded"
                )
            if launch.source not in self._modules:
                self._modules[launch.source] = self._load(launch.source)
            self._kernels[key] = self._modules[launch.source].get_function(launch.kernel)
        return self._kernels[key]


@cache
def launcher() -> Launcher:
    """The launcher of this process's GPUs.

    Raises:
        ImportError, RuntimeError: CuPy is missing or does not fit the driver, saying what to do.
    """
    cupy = _import_cupy()

    @cache
    def check(device: torch.device) -> None:  # needs a GPU
        check_device(torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device))

    @cache
    def stream(_device: int, handle: int) -> AbstractContextManager[object]:  # needs a GPU
        return stream_of(cupy, handle)

    @contextmanager
    def on_device(device: torch.device) -> Iterator[None]:  # needs a GPU
        check(device)
        handle = torch.cuda.current_stream(device).cuda_stream
        with cupy.cuda.Device(device.index), stream(device.index, handle):
            yield

    def capturing(device: torch.device) -> bool:  # needs a GPU
        with torch.cuda.device(device):
            return bool(torch.cuda.is_current_stream_capturing())

    def load(source: str) -> Module:  # needs a GPU
        built = fatbin(source)
        if built is not None:
            try:
                cupy.cuda.function.Module().load_file(str(built))  # whether the device can run it
                module: Module = cupy.RawModule(path=str(built))
                return module
            except cupy.cuda.driver.CUDADriverError as error:
                _log.info("%s does not fit this device (%s): compiling", built.name, error)
        compiled: Module = cupy.RawModule(code=self_contained(source), options=COMPILE_OPTIONS)
        return compiled

    return Launcher(load, on_device, capturing)


class _Borrowed:
    """A stream that is torch's, in the words of the CUDA stream protocol.

    torch's own streams speak it only in newer releases.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def stream_of(cupy: Any, handle: int) -> AbstractContextManager[object]:
    """CuPy's stream of a handle, for the current device."""
    try:
        make = cupy.cuda.Stream.from_external
    except AttributeError:  # CuPy before 14
        stream: AbstractContextManager[object] = cupy.cuda.ExternalStream(handle)
    else:
        stream = make(_Borrowed(handle))
    return stream


def fatbin(source: str) -> Path | None:
    """What CMake made of a CUDA source, if nvcc was there and the source is still the same."""
    path = Path(__file__).parent / "fatbin" / source.replace(".cu", ".fatbin")
    hash_file = path.with_suffix(".fatbin.sha256")
    if path.exists() and hash_file.exists() and hash_file.read_text() == _C.DEVICE_SOURCES_HASH:
        return path
    return None


def self_contained(source: str) -> str:
    """The text of a CUDA source with its headers in place, each once: what NVRTC compiles."""
    files = _C.device_sources()
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = files[name].replace("#pragma once", "")
        return re.sub(r'^#include "([\w.]+)"$', lambda m: expand(m[1]), text, flags=re.MULTILINE)

    return expand(source)


def _import_cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            f"the CUDA kernels need CuPy, which cannot be imported ({error}): "
            f"pip install 'mixpipe[cuda{_torch_cuda()}]'"
        ) from error
    runtime = cupy.cuda.runtime
    check_driver(runtime.runtimeGetVersion(), runtime.driverGetVersion())
    return cupy


def _torch_cuda() -> int:
    """The major CUDA version that torch is built for; 12 where it is built for none."""
    return int((torch.version.cuda or "12").split(".")[0])


def check_driver(cupy_cuda: int, driver_cuda: int) -> None:
    """Raises RuntimeError where the driver is too old for CuPy; versions as in 12090 for 12.9."""
    if driver_cuda == 0:
        raise RuntimeError("no NVIDIA driver was found: install one, or use device='cpu'")
    if cupy_cuda // 1000 > driver_cuda // 1000:
        raise RuntimeError(
            f"CuPy is built for CUDA {cupy_cuda // 1000}, but the driver supports CUDA "
            f"{driver_cuda // 1000}.{driver_cuda % 1000 // 10}: update the driver, or "
            f"pip uninstall cupy-cuda{cupy_cuda // 1000}x and "
            f"pip install 'mixpipe[cuda{driver_cuda // 1000}]'"
        )


def check_device(capability: tuple[int, int], name: str) -> None:
    """Raises RuntimeError for a device older than the kernels are compiled for."""
    if capability < LEAST_CAPABILITY:
        raise RuntimeError(
            f"{name} has compute capability {capability[0]}.{capability[1]}, the CUDA kernels "
            f"need {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} or newer: use device='cpu'"
        )


def compose(launch: Launcher, out: Tensor, *given: Any) -> None:
    """The op of :func:`mixpipe.kernels.compose`."""
    launch.with_table(prepare_composed(out, *given), out.device)


def compose_resampled(launch: Launcher, out: Tensor, *given: Any) -> None:
    """The op of :func:`mixpipe.kernels.compose_resampled`."""
    launch.with_table(prepare_resampled(out, *given), out.device)


def mix_(launch: Launcher, images: Tensor, *how: Tensor | None) -> None:
    """The op of :func:`mixpipe.kernels.mix_`."""
    launch.with_table(prepare_mix(images, *how), images.device)


def dense_targets(
    launch: Launcher,
    classes: Tensor,
    weights: Tensor,
    num_classes: int,
    smoothing: float,
    dtype: torch.dtype,
) -> Tensor:
    """The op of :func:`mixpipe.kernels.dense_targets`."""
    classes, weights = check_pairs(classes, weights, num_classes, smoothing)
    if debugging():
        check_classes(classes, weights, num_classes, None)
    out = torch.empty(len(classes), num_classes, dtype=dtype, device=classes.device)
    launch(targets_launch(classes, weights, out, smoothing), classes.device)
    return out


def composite_cross_entropy(launch: Launcher, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The op of :func:`mixpipe.kernels.composite_cross_entropy`; one launch."""
    arguments = prepare(*given)
    logits = arguments.logits
    if arguments.classes is not None and logits.shape[-1] > _C.MAX_CUDA_CLASSES:
        raise ValueError(
            f"logits has {logits.shape[-1]} classes, the CUDA kernel is compiled for at most "
            f"{_C.MAX_CUDA_CLASSES}"
        )
    if debugging():
        check_values(arguments)
    smoothed = torch.empty_like(arguments.weights)
    finished_blocks = torch.zeros(1, dtype=torch.int32, device=logits.device)
    prepared = arguments.launch(smoothed, finished_blocks)
    if prepared.grid == 0:
        arguments.loss.zero_()
    launch(prepared, logits.device)
    return results(arguments)


def scale_gradient(launch: Launcher, gradient: Tensor, grad_loss: Tensor, factor: float) -> Tensor:
    """The backward pass of :func:`mixpipe.kernels.composite_cross_entropy`."""
    result = torch.empty_like(gradient)
    launch(scale_launch(gradient, grad_loss, result, factor), gradient.device)
    return result


def select_lowest(
    launch: Launcher,
    losses: Tensor,
    epochs: Tensor,
    rule: str,
    factors: Sequence[float],
    *,
    savings: Sequence[float] = (),
    target: float = 0.0,
    seed: int = 0,
) -> Selection:
    """:func:`mixpipe.kernels.select_lowest` on the table's device; one copy to the host."""
    check_select(losses, epochs, rule, factors, savings)
    size, tiers, device = len(losses), len(factors), losses.device
    count, _ = _C.selection_layout(size, tiers)
    result = torch.zeros(count, dtype=torch.uint8, device=device)
    sums = torch.empty(_C.MOST_SELECT_BLOCKS, dtype=torch.float64, device=device)
    for step in _C.select_lowest(
        losses=losses.data_ptr(),
        epochs=epochs.data_ptr(),
        result=result.data_ptr(),
        sums=sums.data_ptr(),
        size=size,
        rule=RULES.index(rule),
        seed=seed % 2**32,
        factors=list(factors),
        savings=list(savings),
        target=target,
    ):
        launch(step, device)
    return unpack_selection(result.cpu().numpy().tobytes(), size, tiers)


def _register(name: str, function: Callable[..., Any]) -> None:
    torch.library.impl(
        f"mixpipe::{name}", "cuda", lambda *arguments: function(launcher(), *arguments)
    )


_register("compose", compose)
_register("compose_resampled", compose_resampled)
_register("mix_", mix_)
_register("dense_targets", dense_targets)
_register("composite_cross_entropy", composite_cross_entropy)
_register("scale_gradient", scale_gradient)
