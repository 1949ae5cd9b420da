"""Names for the parts of a run, for profilers: torch's, and Nsight through NVTX."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Any

import torch

__all__ = ["part"]

# Nsight Systems and Nsight Compute load their NVTX library by this variable.
_INJECTION = "NVTX_INJECTION64_PATH"


class part:  # noqa: N801 - it is used as a function
    """Mark what runs inside as ``name``, one of the parts of docs/design.md's data flow.

    ``torch.profiler`` and ``torch.autograd.profiler`` show it if they were started, in Python,
    before it begins. A profiler that attaches on demand (Kineto's daemon) does not: it is torch's
    C++ that starts it, and the flag that is read here stays off. NVTX ranges are emitted only
    where an Nsight tool launched the process. Costs 2 µs otherwise.

    Args:
        name: ``"plan"``, ``"decode"``, ``"compose"``, ``"forward"``, ``"loss"``, …
        seconds: adds the host's wall time to ``seconds[name]``; work that it only issues to a GPU
            is not waited for.
    """

    __slots__ = ("_attached", "_begin", "_name", "_record", "_seconds")

    def __init__(self, name: str, seconds: dict[str, float] | None = None) -> None:
        self._name = name
        self._seconds = seconds

    def __enter__(self) -> None:
        self._attached = _INJECTION in os.environ and torch.cuda.is_available()
        self._record: Any = None
        self._begin = time.perf_counter()
        if self._attached:
            torch.cuda.nvtx.range_push(self._name)  # type: ignore[no-untyped-call]
        # Of all that a part costs, 10 µs would be for this where no profiler looks.
        if torch.autograd.profiler._is_profiler_enabled:
            self._record = torch.profiler.record_function(f"mixpipe.{self._name}")
            self._record.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._record is not None:
            self._record.__exit__(kind, error, where)
        if self._attached:
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]
        if self._seconds is not None:
            elapsed = time.perf_counter() - self._begin
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + elapsed
