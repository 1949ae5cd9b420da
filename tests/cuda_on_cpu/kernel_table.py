"""docs/kernels.md: what the CUDA kernels compile to, for every architecture.

    python tests/cuda_on_cpu/kernel_table.py            # rewrites the table in docs/kernels.md
    python tests/cuda_on_cpu/kernel_table.py --print    # prints it

Needs NVRTC 13 and nvdisasm (wheels nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm), no GPU.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from compilers import ARCHITECTURES, compile_nvrtc, disassemble, nvrtc_release
from emulator.build import cache_folder
from machine_code import Accesses, KernelCode, inspect

from mixpipe import _C
from mixpipe.kernels.cuda import self_contained

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"
START, END = "<!-- generated: begin -->", "<!-- generated: end -->"
NVRTC = 13
SOURCES = sorted(name for name in _C.device_sources() if name.endswith(".cu"))

# Threads a block of each kind of kernel, for its occupancy: the most that its launch bounds allow.
THREADS = {
    "compose": 256,
    "mix": 256,
    "dense_targets": 128,
    "softmax": 1024,
    "sigmoid": 256,
    "scale_gradient": 256,
    "select": 256,
}


def threads_of(kernel: str) -> int:
    """Threads a block of a kernel."""
    return next(threads for start, threads in THREADS.items() if kernel.startswith(start))


def machine_code(source: str, architecture: int) -> dict[str, KernelCode]:
    """The kernels of one source, compiled for one architecture. Kept by a hash of the text."""
    text = self_contained(source)
    key = hashlib.sha256(f"{nvrtc_release(NVRTC)} {architecture} {text}".encode()).hexdigest()
    kept = cache_folder() / f"{key[:24]}-{source}-sm_{architecture}.json"
    if not kept.exists():
        options = ["--ptxas-options=-v"]
        cubin, log = compile_nvrtc(text, version=NVRTC, architecture=architecture, options=options)
        kernels = inspect(log, disassemble(cubin), architecture)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(kernels, default=vars))
        partial.replace(kept)
    rows = json.loads(kept.read_text())
    for row in rows.values():
        row |= {kind: Accesses(**row[kind]) for kind in ("loads", "stores")}
    return {name: KernelCode(**row) for name, row in rows.items()}


def table() -> str:
    """The generated part of the document."""
    lines = [
        START,
        f"Compiled by NVRTC {nvrtc_release(NVRTC)}. A cell is registers a thread and, in brackets, "
        "the share of a multiprocessor's threads that these registers let be resident. Loads and "
        "stores are instructions on global memory in the code for sm_80, the 128-bit ones first; "
        "no kernel has a stack, spills or touches local memory on any architecture.",
        "",
        "| kernel | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " | loads | stores |",
        "|---|" + "--:|" * (len(ARCHITECTURES) + 2),
    ]
    lines += _rows()
    return "\n".join([*lines, END])


def _rows() -> Iterator[str]:
    for source in SOURCES:
        by_architecture = {a: machine_code(source, a) for a in ARCHITECTURES}
        for name in sorted(by_architecture[80]):
            codes = {a: kernels[name] for a, kernels in by_architecture.items()}
            cells = [
                f"{code.registers} ({code.occupancy(threads_of(name)):.0%})"
                for code in codes.values()
            ]
            loads, stores = codes[80].loads, codes[80].stores
            counts = [f"{loads.wide} / {loads.all}", f"{stores.wide} / {stores.all}"]
            yield f"| `{name}` | " + " | ".join([*cells, *counts]) + " |"


def documented() -> str:
    """The generated part as the document has it now."""
    text = DOCUMENT.read_text()
    return text[text.index(START) : text.index(END) + len(END)]


def main() -> None:
    if "--print" in sys.argv:
        sys.stdout.write(table() + "\n")
        return
    text = DOCUMENT.read_text()
    partial = DOCUMENT.with_suffix(".partial")
    partial.write_text(text.replace(documented(), table()))
    partial.replace(DOCUMENT)


if __name__ == "__main__":
    main()
