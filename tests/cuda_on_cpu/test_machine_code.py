"""The kernels through NVIDIA's compilers, for every architecture, and what they compile to."""

import re
import shutil
import struct
from pathlib import Path

import kernel_table
import pytest
from compilers import (
    ARCHITECTURES,
    compile_nvcc,
    compile_nvrtc,
    nvrtc,
    nvrtc_release,
    program,
)

import mixpipe.kernels
from mixpipe import _C
from mixpipe.kernels.cuda import self_contained

ROOT = Path(__file__).parents[2]
SOURCES = kernel_table.SOURCES

needs_machine_code = pytest.mark.skipif(
    nvrtc(13) is None or program("nvdisasm") is None,
    reason="the wheels nvidia-cuda-nvrtc 13 and nvidia-cuda-nvdisasm are not installed",
)
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
every_source = pytest.mark.parametrize("source", SOURCES)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def test_the_extension_holds_the_sources_as_they_are():
    for name, text in _C.device_sources().items():
        assert text == (ROOT / "csrc" / name).read_text(), f"{name}: build the extension anew"


@pytest.mark.parametrize(
    ("version", "architecture"),
    [(11, a) for a in ARCHITECTURES if a <= 90] + [(12, a) for a in ARCHITECTURES],
)
@every_source
def test_older_nvrtc_compiles(source, version, architecture):
    """To PTX and without optimising; machine code is looked at below, from NVRTC 13."""
    if nvrtc(version) is None:
        pytest.skip(f"the wheel nvidia-cuda-nvrtc-cu{version} is not there")
    ptx, _ = compile_nvrtc(
        self_contained(source),
        version=version,
        architecture=architecture,
        machine_code=False,
        options=["-G"],
    )
    assert b".entry" in ptx


@needs_machine_code
@every_architecture
@every_source
def test_registers_spills_and_width_of_accesses(source, architecture):
    kernels = kernel_table.machine_code(source, architecture)
    assert kernels
    for name, code in kernels.items():
        assert (code.stack_bytes, code.spill_bytes, code.local) == (0, 0, 0), name
        assert code.occupancy(kernel_table.threads_of(name)) >= 0.5, name
        if name.endswith("_wide"):
            assert code.stores.wide == code.stores.all, f"{name} has stores of less than 16 bytes"


@needs_machine_code
def test_the_documented_registers_are_these():
    """`python tests/cuda_on_cpu/kernel_table.py` writes them; compilers differ by release."""
    if f"NVRTC {nvrtc_release(13)}." not in kernel_table.documented("compiled"):
        pytest.skip("the document's table is of another release of NVRTC")
    assert kernel_table.documented("compiled") == kernel_table.generated("compiled")


def test_the_documented_bytes_are_these():
    assert kernel_table.documented("counted") == kernel_table.generated("counted")


@needs_nvcc
def test_nvcc_builds_the_benchmark(tmp_path):
    """And its code for sm_75 keeps to what a simulator knows: no half2 arithmetic, no bfloat16, no
    matching of lanes, no conversion of 64-bit integers to floats."""
    target = tmp_path / "kernel_bench"
    options = ["-arch=sm_75", "--keep", f"--keep-dir={tmp_path}"]
    compile_nvcc(ROOT / "benchmarks" / "kernels.cu", target=target, options=options)
    assert target.exists()
    (ptx,) = tmp_path.glob("*.ptx")
    words = set(re.findall(r"\b[a-z][a-z0-9]*(?:\.[a-z0-9]+)+", ptx.read_text()))
    assert "cvt.rn.f16.f32" in words
    unknown = r"f16x2|bf16|^match|^fns|^cvt.*\.(f16|f32|f64)\.[su]64$"
    assert not [word for word in words if re.search(unknown, word)]


@needs_nvcc
@every_source
def test_nvcc_compiles_for_every_architecture(source, tmp_path):
    """Without optimising, which takes half of the time; the code is looked at above."""
    target = tmp_path / "kernels.fatbin"
    options = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    options += ["--fatbin", "-Xcicc", "-O0", "-Xptxas", "-O0"]
    compile_nvcc(ROOT / "csrc" / source, target=target, options=options)
    assert machine_code_in(target.read_bytes()) == set(ARCHITECTURES)


@every_source
def test_the_fatbins_hold_machine_code(source):
    """Where the extension was built with nvcc, for the architectures it was told."""
    fatbin = Path(mixpipe.kernels.__file__).parent / "fatbin" / source.replace(".cu", ".fatbin")
    if not fatbin.exists():
        pytest.skip("the extension was built without CUDA")
    assert machine_code_in(fatbin.read_bytes())


def machine_code_in(fatbin: bytes) -> set[int]:
    """Architectures that a fatbin has machine code for."""
    magic, _, at = struct.unpack_from("<IHH", fatbin)
    assert magic == 0xBA55ED50
    found = set()
    while at < len(fatbin):
        kind, _, header, size = struct.unpack_from("<HHIQ", fatbin, at)
        (architecture,) = struct.unpack_from("<I", fatbin, at + 28)
        if kind == 2:  # an ELF file; 1 is PTX
            found.add(architecture)
        at += header + size
    return found
