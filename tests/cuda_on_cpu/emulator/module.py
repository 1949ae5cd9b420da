"""Emulated kernels as Python objects: loading, launching, watching memory, counting traffic."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from emulator.build import library


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel, as the compiler sees it."""

    bytes: int
    alignment: int
    kind: str  # pointer, float, signed, unsigned or struct
    type: str


@dataclass(frozen=True)
class Traffic:
    """Memory traffic in one direction; a sector is 32 bytes (source/watch.h)."""

    accessed: int
    bytes: int
    sectors: int
    block_sectors: int
    request_sectors: int
    requests: int


class LaunchError(RuntimeError):
    """What the emulator found wrong with a launch."""


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_size_t),
        ("alignment", ctypes.c_size_t),
        ("kind", ctypes.c_char),
        ("type", ctypes.c_char_p),
    )


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("call", ctypes.c_void_p),
        ("parameter_count", ctypes.c_int),
        ("parameters", ctypes.POINTER(_Parameter)),
        ("most_threads", ctypes.c_int),
    )


class _Traffic(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in Traffic.__dataclass_fields__)


_KINDS = {b"p": "pointer", b"f": "float", b"i": "signed", b"u": "unsigned", b"s": "struct"}


class Kernel:
    """One kernel of a loaded module."""

    def __init__(self, module: "Module", handle: "ctypes._Pointer[_Kernel]"):
        self.module = module
        self._handle = handle
        row = handle.contents
        self.name = row.name.decode()
        self.most_threads: int = row.most_threads
        self.parameters = tuple(
            Parameter(
                p.bytes,
                p.alignment,
                _KINDS[p.kind],
                p.type.decode().split("T = ")[-1].rstrip("]"),
            )
            for p in row.parameters[: row.parameter_count]
        )

    def run(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[int],
        shared_bytes: int = 0,
    ) -> None:
        """Runs the kernel; `arguments` are the addresses of the values of its parameters."""
        shape = ctypes.c_uint * 3
        error = self.module.library.emulator_run(
            self._handle,
            shape(*grid),
            shape(*block),
            shared_bytes,
            (ctypes.c_void_p * max(1, len(arguments)))(*arguments),
        )
        if error:
            raise LaunchError(f"{self.name}: {error.decode()}")


class Module:
    """A loaded library of emulated kernels."""

    def __init__(self, path: Path):
        self.library = library = ctypes.CDLL(str(path))
        library.emulator_kernel.restype = ctypes.POINTER(_Kernel)
        library.emulator_run.restype = ctypes.c_char_p
        library.emulator_run.argtypes = (
            ctypes.POINTER(_Kernel),
            ctypes.POINTER(ctypes.c_uint),
            ctypes.POINTER(ctypes.c_uint),
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_void_p),
        )
        library.emulator_watch.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
        library.emulator_traffic.restype = _Traffic
        self.kernels: dict[str, Kernel] = {}
        for index in range(10_000):
            handle = library.emulator_kernel(index)
            if not handle.contents.name:
                break
            kernel = Kernel(self, handle)
            self.kernels[kernel.name] = kernel

    def set_seed(self, seed: int) -> None:
        """0: threads and blocks in order; 1: reversed; more: shuffled, blocks interleaved."""
        self.library.emulator_seed(seed)

    def watch(self, memory: Mapping[str, tuple[int, int]]) -> None:
        """Tells a checked build what memory kernels may touch: name to (address, bytes)."""
        self.library.emulator_unwatch_everything()
        for name, (address, size) in memory.items():
            self.library.emulator_watch(address, size, name.encode())

    def trace(self, on: bool, name: str = "") -> None:
        """Whether a checked build counts traffic, of one watched memory or of all."""
        self.library.emulator_trace(int(on), name.encode())

    def traffic(self) -> tuple[Traffic, Traffic]:
        """What the last launch read and wrote."""
        rows = [self.library.emulator_traffic(write) for write in (0, 1)]
        reads, writes = (
            Traffic(*(getattr(r, f) for f in Traffic.__dataclass_fields__)) for r in rows
        )
        return reads, writes


@cache
def _loaded(path: Path) -> Module:
    return Module(path)


def module(source: str, **how: Any) -> Module:
    """Compiles and loads a CUDA source; the arguments are those of `build.library`."""
    return _loaded(library(source, **how))
