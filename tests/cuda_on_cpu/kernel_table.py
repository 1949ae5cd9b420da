"""docs/kernels.md: what the CUDA kernels compile to, and the bytes that they move.

    python tests/cuda_on_cpu/kernel_table.py            # rewrites the tables in docs/kernels.md
    python tests/cuda_on_cpu/kernel_table.py --print    # prints them

Needs NVRTC 13 and nvdisasm (wheels nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm), no GPU.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from compilers import ARCHITECTURES, compile_nvrtc, disassemble, nvrtc_release
from emulator.build import cache_folder, locked
from machine_code import Accesses, KernelCode, inspect
from traffic import compose_traffic, resample_traffic

from mixpipe import _C
from mixpipe.kernels.cuda import self_contained

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"
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
    "stage": 256,
}


def threads_of(kernel: str) -> int:
    """Threads a block of a kernel."""
    return next(threads for start, threads in THREADS.items() if kernel.startswith(start))


def machine_code(source: str, architecture: int) -> dict[str, KernelCode]:
    """The kernels of one source, compiled for one architecture. Kept by a hash of the text."""
    text = self_contained(source)
    key = hashlib.sha256(f"{nvrtc_release(NVRTC)} {architecture} {text}".encode()).hexdigest()
    kept = cache_folder() / f"{key[:24]}-{source}-sm_{architecture}.json"
    with locked(kept):
        if not kept.exists():
            kernels = _inspect(text, architecture)
            partial = kept.with_suffix(".partial")
            partial.write_text(json.dumps(kernels, default=vars))
            partial.replace(kept)
    rows = json.loads(kept.read_text())
    for row in rows.values():
        row |= {kind: Accesses(**row[kind]) for kind in ("loads", "stores")}
    return {name: KernelCode(**row) for name, row in rows.items()}


def _inspect(text: str, architecture: int) -> dict[str, KernelCode]:
    options = ["--ptxas-options=-v"]
    cubin, log = compile_nvrtc(text, version=NVRTC, architecture=architecture, options=options)
    return inspect(log, disassemble(cubin), architecture)


def compiled() -> list[str]:
    """The table of registers and memory instructions."""
    lines = [
        f"Compiled by NVRTC {nvrtc_release(NVRTC)}. A cell is registers a thread and, in brackets, "
        "the share of a multiprocessor's threads that these registers let be resident. Loads and "
        "stores are instructions on global memory in the code for sm_80, the 128-bit ones first; "
        "no kernel has a stack, spills or touches local memory on any architecture.",
        "",
        "| kernel | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " | loads | stores |",
        "|---|" + "--:|" * (len(ARCHITECTURES) + 2),
    ]
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
            lines.append(f"| `{name}` | " + " | ".join([*cells, *counts]) + " |")
    return lines


FORMS = [
    (dtype, channels_last)
    for dtype in (torch.float16, torch.float32)
    for channels_last in (False, True)
]


def form_name(dtype: torch.dtype, channels_last: bool) -> str:
    """Such as "float16, channels_last"."""
    layout = "channels_last" if channels_last else "contiguous"
    return f"{str(dtype).removeprefix('torch.')}, {layout}"


def counted() -> list[str]:
    """The tables of bytes moved."""
    lines = [
        "`compose`, 224 x 224, cuts at pixel 97, every second constituent mirrored:",
        "",
        "| | k = 1 | k = 2 | k = 4 |",
        "|---|--:|--:|--:|",
    ]
    for form in FORMS:
        ratios = [f"{compose_traffic(*form, k).ratio:.3f}" for k in (1, 2, 4)]
        lines.append(f"| {form_name(*form)} | " + " | ".join(ratios) + " |")
    lines += [
        "",
        "`compose_resampled`, 128 x 128, k = 2, each patch made of a rectangle so many times as "
        "high and wide. First what is moved of what must be; then the same with what blocks share "
        "counted once; then of what must be moved where a kernel of its own resamples the patches, "
        "which `compose` then reads:",
        "",
        "| | 1.0 | 1.7 | 3.0 |",
        "|---|--:|--:|--:|",
    ]
    for form in FORMS:
        cells = []
        for scale in (1.0, 1.7, 3.0):
            count, in_two_steps = resample_traffic(*form, scale)
            once = count.distinct / count.must
            two = count.moved / in_two_steps
            cells.append(f"{count.ratio:.3f}; {once:.3f}; {two:.3f}")
        lines.append(f"| {form_name(*form)} | " + " | ".join(cells) + " |")
    return lines


TABLES = {"compiled": compiled, "counted": counted}


def marks(name: str) -> tuple[str, str]:
    """The comments that a generated table stands between."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def generated(name: str) -> str:
    """A table with its marks."""
    start, end = marks(name)
    return "\n".join([start, "", *TABLES[name](), "", end])


def documented(name: str) -> str:
    """A table with its marks, as the document has it now."""
    text = DOCUMENT.read_text(encoding="utf-8")
    start, end = marks(name)
    return text[text.index(start) : text.index(end) + len(end)]


def main() -> None:
    if "--print" in sys.argv:
        sys.stdout.write("\n\n".join(generated(name) for name in TABLES) + "\n")
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in TABLES:
        text = text.replace(documented(name), generated(name))
    partial = DOCUMENT.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(DOCUMENT)


if __name__ == "__main__":
    main()
