"""NVIDIA's compilers without a driver: NVRTC 11.8, 12 and 13 through ctypes, nvcc and nvdisasm.

Nothing here needs a GPU. Each is found at run time; what is missing is named, so that a test can
skip with that reason.
"""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# Where the wheels nvidia-cuda-nvrtc-cu11, nvidia-cuda-nvrtc-cu12, nvidia-cuda-nvrtc and
# nvidia-cuda-nvdisasm put files.
_NVRTC = {
    11: "cuda_nvrtc/lib/libnvrtc.so.11.2",  # of all releases from 11.2
    12: "cuda_nvrtc/lib/libnvrtc.so.12",
    13: "cu13/lib/libnvrtc.so.13",
}
# CUDA 11.8 lies by itself (see Makefile): torch and CuPy would find it beside their own.
_CUDA_11 = Path(sys.prefix) / "cuda-11.8" / "nvidia"
_PROGRAM_FOLDERS = ("cu13/bin", "cuda_nvcc/bin")


class CompileError(RuntimeError):
    """A compiler refused a source; the message is its log."""


def _wheel_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


@cache
def program(name: str) -> str | None:
    """Path of nvcc or nvdisasm: on the PATH or in a wheel."""
    for base in _wheel_folders():
        for folder in _PROGRAM_FOLDERS:
            if (base / folder / name).exists():
                return str(base / folder / name)
    return shutil.which(name)


@cache
def nvrtc(version: int) -> ctypes.CDLL | None:
    """The NVRTC library of a CUDA major version, or None where its wheel is not installed."""
    for base in [*_wheel_folders(), _CUDA_11]:
        library = base / _NVRTC[version]
        if not library.exists():
            continue
        # NVRTC loads its builtins by name, which only finds them when they are loaded already.
        for builtins in library.parent.glob(f"libnvrtc-builtins.so.{version}.*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(library))
    return None


def nvrtc_release(version: int) -> str:
    """Such as "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc(version).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _text(library: ctypes.CDLL, handle: ctypes.c_void_p, what: str) -> bytes:
    """The program's log or cubin or PTX."""
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(handle, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(handle, buffer)
    return buffer.raw


def compile_nvrtc(
    source: str,
    *,
    version: int,
    architecture: int,
    headers: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    machine_code: bool = True,
) -> tuple[bytes, str]:
    """Compiles for one architecture. Returns the cubin (or PTX) and the log.

    `headers` are the texts of what the source includes, by the name it includes them by.
    """
    library = nvrtc(version)
    headers = headers or {}
    handle = ctypes.c_void_p()
    strings = ctypes.c_char_p * max(1, len(headers))
    library.nvrtcCreateProgram(
        ctypes.byref(handle),
        source.encode(),
        b"kernels.cu",
        len(headers),
        strings(*(text.encode() for text in headers.values())),
        strings(*(name.encode() for name in headers)),
    )
    target = f"{'sm' if machine_code else 'compute'}_{architecture}"
    flags = [f"--gpu-architecture={target}", "--std=c++17", "-default-device", *options]
    status = library.nvrtcCompileProgram(
        handle, len(flags), (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    )
    log = _text(library, handle, "ProgramLog").rstrip(b"\0").decode(errors="replace")
    try:
        if status:
            raise CompileError(f"NVRTC {version} for sm_{architecture}:\n{log}")
        return _text(library, handle, "CUBIN" if machine_code else "PTX"), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(handle))


def compile_nvcc(source: Path, *, target: Path, options: Sequence[str] = ()) -> str:
    """Compiles a source file with nvcc; returns what it printed."""
    command = [program("nvcc"), "-std=c++17", "-O3", *options, source, "-o", target]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"nvcc {source.name}:\n{done.stderr[-8000:]}")
    return done.stderr


def disassemble(cubin: bytes) -> str:
    """The machine code of a cubin as text."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        return subprocess.run(
            [str(program("nvdisasm")), "-c", str(path)], capture_output=True, text=True, check=True
        ).stdout
