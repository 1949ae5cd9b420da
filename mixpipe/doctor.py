"""What is installed, what is in use, and why the rest is not."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import torch

from mixpipe.kernels import cuda

__all__ = ["Finding", "diagnose"]


class Finding(NamedTuple):
    """One part of the installation.

    Attributes:
        part: its name.
        state: ``"ok"``; ``"absent"``: optional and not there; ``"broken"``: needed, or there and
            not working.
        detail: version and what it is used for, or why it is not in use and what to do.
    """

    part: str
    state: str
    detail: str


def diagnose() -> list[Finding]:
    """Look at every part that mixpipe builds on; imports the optional ones."""
    checks: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("mixpipe", lambda: _package("mixpipe", "this package")),
        ("python", _python),
        ("torch", _torch),
        ("gpu", _gpu),
        ("cpu kernels", _cpu_kernels),
        ("gpu kernels", _gpu_kernels),
        ("dali", _dali),
        ("gpu decoder", _gpu_decoder),
        ("torchvision", lambda: _package("torchvision", "models; install mixpipe[train]")),
        ("nvcc", _nvcc),
    ]
    findings = []
    for part, check in checks:
        try:
            state, detail = check()
        except Exception as error:  # a broken part is a finding, not a failure
            state, detail = "broken", f"{type(error).__name__}: {error}"
        findings.append(Finding(part, state, detail))
    return findings


def _python() -> tuple[str, str]:
    cores = len(os.sched_getaffinity(0))
    return "ok", f"{platform.python_version()}, {cores} cores for this process"


def _torch() -> tuple[str, str]:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return "ok", f"{torch.__version__}, built with {cuda}, {torch.get_num_threads()} threads"


def _gpu() -> tuple[str, str]:
    if not torch.cuda.is_available():
        return "absent", "torch finds no CUDA device; everything runs on the CPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "ok", ", ".join(names)


def _cpu_kernels() -> tuple[str, str]:
    native: Any = importlib.import_module("mixpipe._C")
    return "ok", f"compiled extension, instruction set in use: {native.instruction_set()}"


def _gpu_kernels() -> tuple[str, str]:
    compiled = cuda.fatbin("compose.cu") is not None
    source = "compiled at build" if compiled else "compiled by NVRTC at first use"
    if torch.cuda.is_available():
        cuda.launcher()  # says what does not fit
        return "ok", f"{source}, launched through CuPy"
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        return "absent", f"{error}; install mixpipe[cuda12] or mixpipe[cuda13]"
    return "absent", f"need a CUDA device; {source}, CuPy {cupy.__version__} would launch them"


def _dali() -> tuple[str, str]:
    try:
        dali = importlib.import_module("nvidia.dali")
    except ImportError as error:
        return (
            "broken",
            f"{error}; install mixpipe[cuda12] or mixpipe[cuda13]: it decodes on CPUs too",
        )
    return "ok", f"{dali.__version__}, decodes on the CPU"


def _gpu_decoder() -> tuple[str, str]:
    if not torch.cuda.is_available():
        return "absent", "needs a CUDA device"
    return "ok", "DALI's mixed decoder (nvJPEG) is used with device='cuda'"


def _package(name: str, purpose: str) -> tuple[str, str]:
    try:
        return "ok", metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent", f"for {purpose}"


def _nvcc() -> tuple[str, str]:
    found = shutil.which("nvcc")
    if found is None:
        return "absent", "kernels are compiled by NVRTC at first use instead of at build"
    return "ok", f"{found}; a build with it brings compiled GPU kernels along"
