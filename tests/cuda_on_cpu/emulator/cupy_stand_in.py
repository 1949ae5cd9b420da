"""A stand-in for CuPy's RawModule and RawKernel that runs kernels on the CPU.

It takes what the Python launcher gives CuPy, `kernel(grid, block, args, shared_mem=...)`, and is
stricter: CuPy passes whatever bytes it gets, this compares count, order, size and type of the
arguments with the kernel's signature, and the launch with the kernel's and the device's limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emulator.module import Kernel, Module, Parameter, module

# Of compute capability 7.5, the least that is supported.
STATIC_SHARED_LIMIT = 48 << 10
DYNAMIC_SHARED_LIMIT = 64 << 10

_NUMPY_KINDS = {"float": "f", "signed": "i", "unsigned": "u", "struct": "V"}


class ArgumentError(TypeError):
    """An argument that is not what the kernel's signature says."""


@dataclass(frozen=True)
class Launch:
    """One launch as it was asked for."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int


@dataclass
class Options:
    """How kernels are run; a test changes this, the launcher under test never sees it."""

    build: str = "plain"
    seed: int = 0
    folder: Path | None = None  # where the sources' own includes lie
    launches: list[Launch] = field(default_factory=list)


def argument_bytes(value: object, parameter: Parameter, where: str) -> np.ndarray:
    """The bytes CuPy would pass for a value, checked against the parameter that receives them."""
    if value is None:
        value = np.uint64(0)
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise ArgumentError(f"{where}: an array of {value.size} elements, expected one value")
        array = value.reshape(1)
    elif isinstance(value, (np.generic, bool, int, float)):
        array = np.array([value])  # CuPy too makes int64 and float64 of Python's numbers
    else:
        raise ArgumentError(f"{where}: CuPy does not take a {type(value).__name__}")
    kind = array.dtype.kind
    if parameter.kind == "pointer":
        fits = kind in "iu" and array.itemsize == 8
    else:
        fits = kind == _NUMPY_KINDS[parameter.kind] or (kind == "b" and parameter.type == "bool")
        fits = fits and array.itemsize == parameter.bytes
    if not fits:
        raise ArgumentError(
            f"{where}: {array.dtype} of {array.itemsize} bytes given, the kernel takes "
            f"{parameter.type}{' *' if parameter.kind == 'pointer' else ''} of "
            f"{parameter.bytes} bytes"
        )
    return np.frombuffer(array.tobytes(), dtype=np.uint8)


def _three(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    if not 1 <= len(shape) <= 3 or any(n < 1 for n in shape):
        raise ValueError(f"{name} is {tuple(shape)}, expected one to three positive numbers")
    x, y, z = (*map(int, shape), 1, 1)[:3]
    return x, y, z


class RawKernel:
    """A kernel that is called as CuPy's is."""

    def __init__(self, kernel: Kernel, options: Options):
        self.name = kernel.name
        self.max_dynamic_shared_size_bytes = STATIC_SHARED_LIMIT
        self._kernel = kernel
        self._options = options

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[object],
        *,
        shared_mem: int = 0,
        stream: object = None,
    ) -> None:
        """Checks the launch and runs it to its end."""
        kernel = self._kernel
        launch = Launch(self.name, _three(grid, "grid"), _three(block, "block"), shared_mem)
        threads = int(np.prod(launch.block))
        if kernel.most_threads and threads > kernel.most_threads:
            raise ValueError(
                f"{self.name}: {threads} threads a block, __launch_bounds__ allows "
                f"{kernel.most_threads}"
            )
        if shared_mem > min(self.max_dynamic_shared_size_bytes, DYNAMIC_SHARED_LIMIT):
            raise ValueError(f"{self.name}: {shared_mem} bytes of dynamic shared memory")
        if len(args) != len(kernel.parameters):
            raise ArgumentError(
                f"{self.name}: {len(args)} arguments given, the kernel takes "
                f"{len(kernel.parameters)}"
            )
        # Kept until the launch is over, each aligned as the widest type needs.
        storage = [np.zeros(p.bytes + 32, dtype=np.uint8) for p in kernel.parameters]
        addresses = []
        for i, (value, parameter) in enumerate(zip(args, kernel.parameters, strict=True)):
            data = argument_bytes(value, parameter, f"{self.name}, argument {i}")
            offset = -storage[i].ctypes.data % 32
            storage[i][offset : offset + data.size] = data
            addresses.append(storage[i].ctypes.data + offset)
        kernel.module.set_seed(self._options.seed)
        self._options.launches.append(launch)
        kernel.run(launch.grid, launch.block, addresses, shared_mem)


class RawModule:
    """A compiled source. `for_options` binds what CuPy's constructor has no argument for."""

    def __init__(
        self,
        *,
        code: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
        stand_in: Options | None = None,
    ):
        self.stand_in = stand_in or Options()
        # Options of NVRTC itself (--std=..., -lineinfo) mean nothing to g++.
        kept = [option for option in options if option.startswith(("-D", "-I"))]
        self.module: Module = module(
            code,
            build=self.stand_in.build,
            options=kept,
            expressions=tuple(name_expressions or ()),
            folder=self.stand_in.folder,
        )

    def get_function(self, name: str) -> RawKernel:
        """The kernel of this name."""
        if name not in self.module.kernels:
            raise KeyError(f"no kernel {name!r}; there are {', '.join(self.module.kernels)}")
        return RawKernel(self.module.kernels[name], self.stand_in)
