"""What compiled kernels are made of: registers, spills, occupancy, width of memory accesses."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Per compute capability: threads that a multiprocessor can hold. Registers are 65,536 everywhere
# and are given to a warp in units of 256.
RESIDENT_THREADS = {75: 1024, 80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048, 120: 1536}
_REGISTERS, _UNIT, _WARP = 65536, 256, 32

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_USED = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_FUNCTION = re.compile(r"^\.text\.(\w+):", re.MULTILINE)
_MEMORY = re.compile(r"\b(LDG|STG|LDL|STL|LD|ST)\b((?:\.\w+)*)")


@dataclass(frozen=True)
class Accesses:
    """Memory instructions of one kind in a kernel's code (not how often they run)."""

    all: int
    wide: int  # 128-bit


@dataclass(frozen=True)
class KernelCode:
    """One kernel, compiled for one architecture."""

    name: str
    architecture: int
    registers: int
    stack_bytes: int
    spill_bytes: int
    loads: Accesses  # from global memory
    stores: Accesses
    local: int  # instructions on local memory

    def occupancy(self, threads: int) -> float:
        """Share of a multiprocessor's threads that can be resident, by registers alone."""
        warps = threads // _WARP
        per_warp = -(-self.registers * _WARP // _UNIT) * _UNIT
        resident = RESIDENT_THREADS[self.architecture]
        blocks = min(_REGISTERS // (per_warp * warps), resident // threads)
        return blocks * threads / resident


def inspect(log: str, assembly: str, architecture: int) -> dict[str, KernelCode]:
    """The kernels of a cubin, from ptxas's log (with -v) and nvdisasm's text."""
    resources = dict(_resources(log))
    code = {}
    sections = list(_FUNCTION.finditer(assembly))
    ends = [section.start() for section in sections[1:]] + [len(assembly)]
    for section, end in zip(sections, ends, strict=True):
        name = section[1]
        if name not in resources:
            continue  # a device function that was not inlined
        counts = {"LDG": [0, 0], "STG": [0, 0], "local": [0, 0]}
        for operation, modifiers in _MEMORY.findall(assembly[section.end() : end]):
            kind = "local" if operation.endswith("L") else operation[:2] + "G"
            counts[kind][0] += 1
            counts[kind][1] += ".128" in modifiers
        code[name] = KernelCode(
            name,
            architecture,
            *resources[name],
            Accesses(*counts["LDG"]),
            Accesses(*counts["STG"]),
            counts["local"][0],
        )
    return code


def _resources(log: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Name and (registers, stack bytes, spill bytes) of each kernel in ptxas's log."""
    heads = list(_ENTRY.finditer(log))
    ends = [head.start() for head in heads[1:]] + [len(log)]
    for head, end in zip(heads, ends, strict=True):
        text = log[head.end() : end]
        stack, stores, loads = map(int, _SPILLS.search(text).groups())
        yield head[1], (int(_USED.search(text)[1]), stack, stores + loads)
