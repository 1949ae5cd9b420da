"""Names for the parts of a run, for profilers: torch's, and Nsight through NVTX."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["part"]

# Nsight Systems and Nsight Compute load their NVTX library by this variable.
_INJECTION = "NVTX_INJECTION64_PATH"


@contextmanager
def part(name: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
    """Mark what runs inside as ``name``, one of the parts of docs/design.md's data flow.

    ``torch.profiler`` shows it; NVTX ranges are emitted only while an Nsight tool is attached.
    Costs 2 µs otherwise.

    Args:
        name: ``"plan"``, ``"decode"``, ``"compose"``, ``"forward"``, ``"loss"``, …
        seconds: adds the wall time to ``seconds[name]``.
    """
    attached = _INJECTION in os.environ and torch.cuda.is_available()
    nvtx: Any = torch.cuda.nvtx  # it has no types
    begin = time.perf_counter()
    if attached:
        nvtx.range_push(name)
    try:
        with torch.profiler.record_function(f"mixpipe.{name}"):
            yield
    finally:
        if attached:
            nvtx.range_pop()
        if seconds is not None:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin
