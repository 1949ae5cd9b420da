"""The emulator itself: right kernels give right results, wrong ones are found out."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulator.build import program, sanitized_environment
from emulator.cupy_stand_in import ArgumentError, Options, RawModule
from emulator.module import LaunchError

EXAMPLES = Path(__file__).parent / "examples"
SEEDS = (0, 1, 2, 3)


def kernel(name, *, build="plain", seed=0, source=None, options=()):
    code = source or (EXAMPLES / f"{name}.cu").read_text()
    raw = RawModule(code=code, options=options, stand_in=Options(build=build, seed=seed))
    return raw.get_function(name if name in raw.module.kernels else next(iter(raw.module.kernels)))


def watch(function, **arrays):
    function._kernel.module.watch({n: (a.ctypes.data, a.nbytes) for n, a in arrays.items()})


def address(array):
    return np.uint64(array.ctypes.data)


SUM = np.dtype(
    [("values", "u8"), ("partial", "u8"), ("total", "u8"), ("finished", "u8"), ("count", "i4")],
    align=True,
)


def total_sum(count, blocks, **how):
    values = (np.arange(count) % 17).astype(np.float32)
    partial = np.full(blocks, np.nan, np.float32)
    total = np.full(1, np.nan, np.float32)
    finished = np.zeros(1, np.uint32)
    function = kernel("block_sums", **how)
    watch(function, values=values, partial=partial, total=total, finished=finished)
    arrays = (values, partial, total, finished)
    params = np.array([(*(a.ctypes.data for a in arrays), count)], dtype=SUM)
    function((blocks,), (128,), (params,))
    assert finished[0] == 0
    return total[0], values.sum()


@pytest.mark.parametrize("build", ["plain", "checked"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reduction_over_blocks(build, seed):
    for count, blocks in [(1, 1), (1000, 3), (4099, 7)]:
        got, want = total_sum(count, blocks, build=build, seed=seed)
        assert got == want


@pytest.mark.parametrize("build", ["plain", "checked"])
def test_vectors_and_halves(build):
    rng = np.random.default_rng(0)
    bytes_ = np.zeros(16 * 77 + 16, np.uint8)
    start = -bytes_.ctypes.data % 16
    bytes_ = bytes_[start : start + 16 * 77]
    bytes_[:] = rng.integers(0, 256, bytes_.size)
    halves = np.zeros(bytes_.size + 16, np.float16)
    start = -halves.ctypes.data % 16 // 2
    halves = halves[start : start + bytes_.size]
    scale, bias = np.float32(1 / (255 * 0.229)), np.float32(-0.485 / 0.229)
    function = kernel("scale_bytes", build=build)
    watch(function, bytes=bytes_, halves=halves)
    args = (address(bytes_), address(halves), scale, bias, np.int32(77))
    function((2,), (64,), args)
    exact = bytes_.astype(np.float64) * scale + bias  # one rounding to float, as fmaf does
    np.testing.assert_array_equal(halves, exact.astype(np.float32).astype(np.float16))


@pytest.mark.parametrize("seed", SEEDS)
def test_ballot_compaction(seed):
    values = np.random.default_rng(1).integers(-5, 6, 1000).astype(np.int32)
    kept, count = np.zeros_like(values), np.zeros(1, np.int32)
    function = kernel("compact", build="checked", seed=seed)
    watch(function, values=values, kept=kept, count=count)
    function((8,), (128,), (address(values), address(kept), address(count), np.int32(1000)))
    want = values[values > 0]
    assert count[0] == want.size
    np.testing.assert_array_equal(np.sort(kept[: want.size]), np.sort(want))


def test_dynamic_shared_memory():
    rows = np.random.default_rng(2).random((3, 301), dtype=np.float32)
    want = rows[:, ::-1].copy()
    function = kernel("reverse", build="checked", seed=5)
    watch(function, rows=rows)
    function((3,), (96,), (address(rows), np.int32(301)), shared_mem=4 * 301)
    np.testing.assert_array_equal(rows, want)


@pytest.mark.parametrize("value", [0.0, 1e-8, 3.0e-8, 6.1e-5, 65504.0, 65519.9, 65520.0, np.inf])
def test_half_conversions_round_as_ieee(value):
    source = """
    #include <cuda_fp16.h>
    #include <cuda_bf16.h>
    extern "C" __global__ void convert(const float* in, __half* half, float* back, int n) {
      const int i = threadIdx.x;
      if (i < n) { half[i] = __float2half_rn(in[i]); back[i] = __half2float(half[i]); }
    }"""
    rng = np.random.default_rng(3)
    floats = (value * (1 + rng.normal(0, 1e-3, 256)) * rng.choice([-1, 1], 256)).astype(np.float32)
    floats[0] = value
    halves, back = np.zeros(256, np.float16), np.zeros(256, np.float32)
    function = kernel("convert", source=source)
    function((1,), (256,), (address(floats), address(halves), address(back), np.int32(256)))
    with np.errstate(over="ignore"):
        want = floats.astype(np.float16)
    np.testing.assert_array_equal(halves.view(np.uint16), want.view(np.uint16))
    np.testing.assert_array_equal(back, want.astype(np.float32))


# Kernels with one mistake each, on `float* x` of 64 elements, 64 threads in 2 blocks of 32 or as
# told by the launch, and what the checked build says of it under some schedule.
MISTAKES = {
    "read past the end": (
        "float v = x[threadIdx.x + 1]; if (v > 5.0f) x[0] = v;",
        "out of bounds: read",
    ),
    "write before the start": ("x[(int)threadIdx.x - 1] = 1.0f;", "out of bounds: write"),
    "misaligned vector": (
        "float4 v = *(const float4*)(x + 1); if (threadIdx.x == 0) x[0] = v.x;",
        "misaligned: an access as .*float4",
    ),
    "uninitialised shared memory": (
        "__shared__ float s[64]; if (threadIdx.x > 0) s[threadIdx.x] = 1.0f; __syncthreads();"
        "x[threadIdx.x] = s[threadIdx.x];",
        "uninitialised",
    ),
    "missing barrier": (
        "__shared__ float s[64]; s[threadIdx.x] = 1.0f; x[threadIdx.x] = s[63 - threadIdx.x];",
        "race|uninitialised",
    ),
    "shared array too small": (
        "__shared__ float s[60]; s[threadIdx.x] = 1.0f;",
        "out of bounds: write",
    ),
    "return before a barrier": ("if (threadIdx.x == 9) return; __syncthreads();", "deadlock"),
    "lane outside its mask": (
        "x[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 0);",
        "not in its own mask",
    ),
    "shuffle from outside the mask": (
        "if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 20);",
        "not in the mask",
    ),
    "lanes disagree on the mask": (
        "__syncwarp(threadIdx.x % 32 < 16 ? 0xffffffffu : 0xffff0000u);",
        "names the mask|deadlock",
    ),
    "shuffle in a branch": (
        "if (threadIdx.x % 2) x[threadIdx.x] = __shfl_xor_sync(~0u, x[threadIdx.x], 1);",
        "deadlock",
    ),
    "non-atomic counter": ("x[0] = x[0] + 1.0f;", "race"),
    "atomic and plain": (
        "if (threadIdx.x == 0) x[0] = 0.0f; atomicAdd(x, 1.0f);",
        "race",
    ),
}


WRONG_KERNELS = "".join(
    f'extern "C" __global__ void wrong_{number}(float* x) {{ {body} }}\n'
    for number, (body, _) in enumerate(MISTAKES.values())
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checked_build_finds(mistake):
    name = f"wrong_{list(MISTAKES).index(mistake)}"
    x = np.zeros(68, np.float32)
    start = -x.ctypes.data % 16 // 4
    x = x[start : start + 64]
    for seed in SEEDS:
        function = kernel(name, source=WRONG_KERNELS, build="checked", seed=seed)
        watch(function, x=x)
        with pytest.raises(LaunchError, match=MISTAKES[mistake][1]):
            function((1,), (64,), (address(x),))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_race_between_blocks_is_found_in_every_schedule(seed):
    images = np.zeros((4, 64), np.float32)
    partners = np.array([1, 0, 3, 2], np.int32)
    function = kernel("swap_with_race", build="checked", seed=seed)
    watch(function, images=images, partners=partners)
    with pytest.raises(LaunchError, match=r"race: .* global memory images"):
        function((1, 4), (32,), (address(images), address(partners), np.int32(64)))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("    __threadfence();\n    last =", "    last ="),
        ("== gridDim.x - 1;\n    __threadfence();", "== gridDim.x - 1;"),
    ],
)
def test_a_missing_fence_is_found(right, wrong):
    source = (EXAMPLES / "block_sums.cu").read_text()
    assert right in source
    with pytest.raises(LaunchError, match="race: read after write of global memory partial"):
        total_sum(4099, 7, build="checked", source=source.replace(right, wrong))


def test_an_error_leaves_the_emulator_usable():
    with pytest.raises(LaunchError):
        x = np.zeros(64, np.float32)
        name = f"wrong_{list(MISTAKES).index('return before a barrier')}"
        kernel(name, source=WRONG_KERNELS, build="checked")((1,), (64,), (address(x),))
    got, want = total_sum(1000, 3, build="checked")
    assert got == want


MOVES = """
#define KERNEL extern "C" __global__ void
#define INDEX const int i = blockIdx.x * blockDim.x + threadIdx.x
KERNEL dense(const float* x, float* y) { INDEX; y[i] = x[i]; }
KERNEL strided(const float* x, float* y) { INDEX; y[i % 64 * 8 + i / 64] = x[i % 64 * 8 + i / 64]; }
KERNEL vectors(const float4* x, float4* y) { INDEX; if (i < 128) y[i] = x[i]; }
"""


def traffic(name):
    """What 4 blocks of 128 threads move of 512 elements."""
    x, y = np.zeros(520, np.float32), np.zeros(520, np.float32)
    x, y = (a[-a.ctypes.data % 32 // 4 :][:512] for a in (x, y))
    function = kernel(name, source=MOVES, build="checked")
    watch(function, x=x, y=y)
    emulated = function._kernel.module
    emulated.trace(True)
    function((4,), (128,), (address(x), address(y)))
    emulated.trace(False)
    return emulated.traffic()


def test_bytes_are_counted_by_sector_and_request():
    for count in traffic("dense"):
        assert (count.bytes, count.sectors, count.requests) == (2048, 64, 16)
        assert count.block_sectors == count.request_sectors == 64
    # Every eighth element: each request touches a sector a lane; other blocks touch them again.
    for count in traffic("strided"):
        assert (count.bytes, count.sectors, count.requests) == (2048, 64, 16)
        assert count.block_sectors == 4 * 64
        assert count.request_sectors == 16 * 32


def test_a_vector_access_is_one_request():
    for count in traffic("vectors"):
        assert (count.requests, count.request_sectors, count.bytes) == (4, 64, 2048)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:-1], "4 arguments given, the kernel takes 5"),
        (lambda a: (a[0], a[1], a[3], a[2], 77), "int64 of 8 bytes given, the kernel takes int"),
        (lambda a: (*a[:2], 0.5, *a[3:]), "float64 of 8 bytes given, the kernel takes float"),
        (lambda a: (*a[:4], np.uint32(77)), "uint32 .* the kernel takes int"),
        (lambda a: (np.uint32(5), *a[1:]), r"the kernel takes const uint4 \* of 8 bytes"),
        (lambda a: (np.zeros(3), *a[1:]), "an array of 3 elements"),
        (lambda a: ("x", *a[1:]), "CuPy does not take a str"),
    ],
)
def test_the_stand_in_refuses_wrong_arguments(change, message):
    right = (np.uint64(64), np.uint64(64), np.float32(1), np.float32(0), np.int32(77))
    with pytest.raises(ArgumentError, match=message):
        kernel("scale_bytes")((1,), (32,), change(right))


def test_the_stand_in_refuses_impossible_launches():
    params = np.zeros(1, SUM)
    with pytest.raises(ValueError, match="256 threads a block, __launch_bounds__ allows 128"):
        kernel("block_sums")((1,), (256,), (params,))
    with pytest.raises(ArgumentError, match="of 36 bytes given, the kernel takes SumParams"):
        kernel("block_sums")((1,), (128,), (np.zeros(1, "V36"),))
    with pytest.raises(ValueError, match="60000 bytes of dynamic shared memory"):
        kernel("reverse")((1,), (32,), (np.uint64(0), np.int32(1)), shared_mem=60000)
    with pytest.raises(LaunchError, match="invalid launch"):
        kernel("reverse")((1, 70000), (32,), (np.uint64(0), np.int32(1)))


PROGRAM = """
#include <cuda_runtime.h>
#include <cstdio>
template <class T>
__global__ void add(T* x, int n) {
  __shared__ T s[SHARED];
  const int i = blockIdx.x * 32 + threadIdx.x;
  s[threadIdx.x] = i < n ? x[i] : T(0);
  __syncthreads();
  if (i < n) x[i] = s[threadIdx.x] + T(1);
}
int main() {
  float host[70] = {}, *device;
  cudaMalloc(&device, sizeof host);
  cudaMemcpy(device, host, sizeof host, cudaMemcpyHostToDevice);
  add<float><<<3, 32>>>(device, COUNT);
  cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost);
  cudaFree(device);
  for (float h : host) if (h != 1.0f) return 1;
  std::printf("ok\\n");
  return cudaDeviceSynchronize();
}
"""


@pytest.mark.parametrize("build", ["plain", "checked", "sanitized"])
def test_a_whole_program(tmp_path, build):
    source = tmp_path / "add.cu"
    source.write_text(PROGRAM)
    right = program(source, build=build, options=["-DSHARED=32", "-DCOUNT=70"])
    environment = sanitized_environment(seed=3)
    done = subprocess.run([right], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
    if build == "plain":
        return
    for wrong, checked_says in (
        (["-DSHARED=31", "-DCOUNT=70"], "out of bounds: write"),
        (["-DSHARED=32", "-DCOUNT=71"], "out of bounds: read"),
    ):
        program_ = program(source, build=build, options=wrong)
        done = subprocess.run(
            [program_], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode != 0
        says = checked_says if build == "checked" else "AddressSanitizer|runtime error"
        assert re.search(says, done.stderr)
