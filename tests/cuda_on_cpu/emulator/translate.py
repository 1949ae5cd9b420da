"""CUDA source to C++ source: the few rewrites that the emulator's headers cannot do as macros.

The input is preprocessed text, so that kernels and shared variables made by macros are seen:

    extern __shared__ T name[];      ->  T* name = (T*)emulator::dynamic_shared();
    __shared__ T a[4][8], b;         ->  auto& a = emulator::shared<T[4][8]>(...); auto& b = ...
    kernel<<<grid, block>>>(x)       ->  emulator::launch(kernel, grid, block)(x)

and a table of the kernels is appended, with signatures that the compiler itself works out.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_ALIGNMENT = r"(?:(?:__align__|alignas)\s*\((?P<alignment>[^()]*)\)\s*)?"
_DYNAMIC = re.compile(
    rf"extern\s+__shared__\s+{_ALIGNMENT}(?P<type>[\w:\s]+?)\s*\b(?P<name>\w+)\s*\[\s*\]\s*;"
)
_STATIC = re.compile(
    rf"__shared__\s+{_ALIGNMENT}(?P<type>[\w:\s]+?(?:<[^;{{}}]*?>)?)\s+"
    r"(?P<names>\w+\s*(?:[\[,][^;]*)?);"
)
_LAUNCH = re.compile(
    r"(?P<kernel>\b[A-Za-z_][\w:]*(?:<[^<>;(]*>)?)\s*<<<(?P<shape>.*?)>>>\s*\(", re.DOTALL
)
# What decides where a kernel is declared: literals are skipped, braces and namespaces counted.
_SCOPE = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)+\''
    r"|\bnamespace\s+(?P<namespace>[\w:]+)\s*\{|(?P<open>\{)|(?P<close>\})"
    r"|(?P<template>\btemplate\s*<)|(?P<end>;)|(?P<kernel>\b__global__\b)"
)


@dataclass(frozen=True)
class KernelDeclaration:
    """A kernel as its source declares it: what to call it, and its __launch_bounds__ text."""

    name: str
    qualified_name: str
    most_threads: str


def translate(preprocessed: str, expressions: Sequence[str] = ()) -> str:
    """C++ for a preprocessed CUDA source, with a table of its kernels.

    `expressions` are instances of kernel templates to add to the table, as C++ writes them
    (what NVRTC calls name expressions).
    """
    table = {kernel.name: kernel for kernel in kernels(preprocessed)}
    table |= {text: KernelDeclaration(text, text, "0") for text in expressions}
    text = _DYNAMIC.sub(
        r"\g<type>* \g<name> = (\g<type>*)emulator::dynamic_shared();", preprocessed
    )
    text = _STATIC.sub(_shared_variables, text)
    if "<<<" in text:
        text = _LAUNCH.sub(r"emulator::launch(\g<kernel>, \g<shape>)(", text)
    return text + _kernel_table(list(table.values()))


def _shared_variables(match: re.Match[str]) -> str:
    alignment = f", {match['alignment']}" if match["alignment"] else ""
    declarations = []
    for declarator in _split(match["names"]):
        name, dimensions = re.match(r"\s*(\w+)\s*(.*)", declarator, re.DOTALL).groups()
        type_ = match["type"].strip() + dimensions.strip()
        declarations.append(f"auto& {name} = emulator::shared<{type_}>([] {{}}{alignment});")
    return " ".join(declarations)


def _split(text: str) -> Iterator[str]:
    """The parts of a list at its commas outside brackets."""
    depth, start = 0, 0
    for i, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            yield text[start:i]
            start = i + 1
    yield text[start:]


def kernels(preprocessed: str) -> list[KernelDeclaration]:
    """The kernels that a source defines and that are no templates."""
    found = []
    scopes: list[str] = []  # a namespace's name, or "" for any other brace
    template = False
    for match in _SCOPE.finditer(preprocessed):
        if match["namespace"]:
            scopes.append(match["namespace"])
        elif match["open"]:
            scopes.append("")
            template = False
        elif match["close"]:
            scopes.pop()
        elif match["template"]:
            template = True
        elif match["end"]:
            template = False
        elif match["kernel"] and not template:
            name, bounds = _kernel_head(preprocessed, match.start(), match.end())
            if name:
                scope = [part for part in scopes if part]
                found.append(KernelDeclaration(name, "::".join(["", *scope, name]), bounds))
    return found


def _kernel_head(text: str, start: int, end: int) -> tuple[str, str]:
    """Name and __launch_bounds__ of the kernel whose __global__ is at text[start:end]."""
    head = text[end : text.index("{", end)]
    before = text[max(text.rfind(mark, 0, start) for mark in ";}{") + 1 : start]
    bounds = re.search(r"__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)", before + " " + head)
    plain = re.sub(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)", "", head)
    name = re.search(r"\bvoid\s+(\w+)\s*\(", plain)
    if ";" in head or not name:
        return "", ""  # a declaration whose definition follows
    return name[1], next(_split(bounds[1])) if bounds else "0"


def _kernel_table(table: Iterable[KernelDeclaration]) -> str:
    # Launch bounds are given in names of the kernel's own namespace.
    scopes = {kernel.qualified_name.rpartition("::")[0] for kernel in table} - {""}
    used = "".join(f"  using namespace {scope};\n" for scope in sorted(scopes))
    rows = "".join(
        f'    emulator::describe<&{kernel.qualified_name}>("{kernel.name}", '
        f"&{kernel.qualified_name}, (int)({kernel.most_threads})),\n"
        for kernel in table
    )
    return (
        '\n#line 1 "kernel table"\n'
        'extern "C" __attribute__((visibility("default")))\n'
        f"const emulator::Kernel* emulator_kernel(int index) {{\n{used}"
        f"  static const emulator::Kernel kernels[] = {{\n{rows}    {{}}}};\n"
        "  return &kernels[index];\n}\n"
    )
