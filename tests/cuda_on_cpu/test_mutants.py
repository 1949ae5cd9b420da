"""Planted bugs: each must be found by what this folder checks kernels with; right kernels not.

A mutant is a small change of a shipped source. It is run through the launcher in the checked build,
under three schedules, on a few cases that touch every path; it counts as found when a check says
what was planted, not just anything.
"""

from dataclasses import dataclass

import pytest
from batteries import CASES, half_sources
from device import Device

SEEDS = (0, 1, 5)


@dataclass(frozen=True)
class Mutant:
    """What is planted, where, and what is said of it (a regular expression)."""

    op: str
    file: str
    right: str
    wrong: str
    found: str


WRONG_RESULT = "elements differ|not close"
MUTANTS = {
    # compose
    "threads past the last row go on": Mutant(
        "compose",
        "compose.cu",
        "const bool inside = y < p.height && x < p.width;",
        "const bool inside = x < p.width;",
        "out of bounds: (read|write)|race: write after write",
    ),
    "a piece that crosses a border shows its first run": Mutant(
        "compose",
        "compose.cu",
        "const i32 end = min_i32(run.x1, x1), before = x - x0;",
        "const i32 end = x1, before = x - x0;",
        WRONG_RESULT,
    ),
    "a run covers the one before": Mutant(
        "compose",
        "compose.cu",
        "if (before == 0) {",
        "if (before >= 0) {",
        WRONG_RESULT,
    ),
    "the last, shorter piece is stored whole": Mutant(
        "compose",
        "compose.cu",
        "if (i < count) store_element",
        "store_element",
        "out of bounds: (read|write)|race: write after write",
    ),
    "a tile is stored beyond the end of a row": Mutant(
        "compose",
        "compose.cu",
        "if (y + row >= p.height || element >= left) continue;",
        "if (y + row >= p.height) continue;",
        "out of bounds: (read|write)|race: |uninitialised",
    ),
    "a warp does not wait for its tile": Mutant(
        "compose",
        "compose.cu",
        "    __syncwarp();\n",
        "",
        "race: read after write of shared|uninitialised",
    ),
    "words are read from where the pixels start": Mutant(
        "compose",
        "device.h",
        "reinterpret_cast<const u32*>(from - lead)",
        "reinterpret_cast<const u32*>(from)",
        "misaligned: an access as|out of bounds: read",
    ),
    "words are read beyond the end of a patch": Mutant(
        "compose",
        "device.h",
        "offset - lead + 4 * (kWords + 1) <= size",
        "offset - lead <= size",
        "out of bounds: read",
    ),
    "a mirrored piece starts one pixel late": Mutant(
        "compose",
        "compose.cu",
        "flip ? r.x1 - x - kPixels : x - r.x0",
        "flip ? r.x1 - x - kPixels + 1 : x - r.x0",
        f"out of bounds: read|{WRONG_RESULT}",
    ),
    "an uncovered pixel gets the bias": Mutant(
        "compose",
        "compose.cu",
        "if ((covered & all) != all) {",
        "if (false) {",
        WRONG_RESULT,
    ),
    "halves are cut off instead of rounded": Mutant(
        "compose",
        "common.h",
        "magnitude - 0x38000000u + 0xfffu + odd",
        "magnitude - 0x38000000u",
        WRONG_RESULT,
    ),
    # compose_resampled
    "a tile is stored before it is whole": Mutant(
        "resample",
        "resample.cu",
        "  }\n  __syncthreads();\n\n",
        "  }\n\n",
        "race: (read after write|write after read) of shared|uninitialised",
    ),
    "columns are summed before rows are": Mutant(
        "resample",
        "resample.cu",
        "    __syncthreads();\n    if (any) {",
        "    if (any) {",
        "race: read after write of shared|uninitialised",
    ),
    "rows are summed before they are weighed": Mutant(
        "resample",
        "resample.cu",
        "      __syncthreads();\n      // Threads take",
        "      // Threads take",
        "race: read after write of shared|uninitialised",
    ),
    "rows are weighed anew before the columns are summed": Mutant(
        "resample",
        "resample.cu",
        "  __syncthreads();  // behind the part before\n",
        "",
        "race: write after read of shared",
    ),
    "the first tap lies outside": Mutant(
        "resample",
        "resample.cu",
        "row_offset + tap * row_stride",
        "row_offset + (tap - 1) * row_stride",
        f"out of bounds: read|{WRONG_RESULT}",
    ),
    # mix_
    "the last link of a cycle reads what was written": Mutant(
        "mix",
        "mix.cu",
        "if (shown[i] && k + i < chain.count - chain.cyclic)",
        "if (shown[i])",
        WRONG_RESULT,
    ),
    "links are read ahead beyond the end of their chain": Mutant(
        "mix",
        "mix.cu",
        "      if (k + i >= chain.count) continue;\n",
        "",
        f"out of bounds: |{WRONG_RESULT}",
    ),
    "each link of a cycle is left to another thread": Mutant(
        "mix",
        "mix.cu",
        "      shown[i] = shows(link, y, first, P::kSize, together);\n",
        "      shown[i] = shows(link, y, first, P::kSize, together) &&\n"
        "                 (u32)(k + i) % 2 == block % 2;\n",
        f"race: |{WRONG_RESULT}",
    ),
    "whole vectors are copied at a box's edge": Mutant(
        "mix", "mix.cu", "} else if (end - begin < P::kSize) {", "} else if (false) {", WRONG_RESULT
    ),
    "every block works on the first chain's pixels": Mutant(
        "mix",
        "mix.cu",
        "const u32 index = (block - c * (u32)p.blocks_per_chain) * kMixThreads + threadIdx.x;",
        "const u32 index = (block - c * (u32)p.blocks_per_chain) * kMixThreads + threadIdx.x / 2;",
        f"race: |{WRONG_RESULT}",
    ),
    # dense_targets
    "the end of a row is not looked at": Mutant(
        "targets",
        "targets.cu",
        "if (vector * kSize + i < p.num_classes) store_element",
        "store_element",
        "out of bounds: write|race: write after write",
    ),
    "threads past a row's vectors go on": Mutant(
        "targets",
        "targets.cu",
        "  if (vector >= p.vectors_per_row) return;\n",
        "",
        "out of bounds: write|race: write after write",
    ),
    # sums over a block
    "no barrier before the warps' values are read": Mutant(
        "cross_entropy",
        "device.h",
        "  if (lane == 0) scratch[warp] = value;\n  __syncthreads();\n",
        "  if (lane == 0) scratch[warp] = value;\n",
        "race: read after write of shared|uninitialised",
    ),
    "no barrier before the sum is read": Mutant(
        "cross_entropy",
        "device.h",
        "    if (lane == 0) scratch[32] = value;\n  }\n  __syncthreads();\n",
        "    if (lane == 0) scratch[32] = value;\n  }\n",
        "race: (read after write|write after read) of shared|uninitialised",
    ),
    "scratch is one value too short": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "  float combine[33];\n",
        "  float combine[32];\n",
        f"race: |{WRONG_RESULT}",
    ),
    "a shuffle names half of the warp": Mutant(
        "cross_entropy",
        "device.h",
        "value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));",
        "value = combine(value, __shfl_xor_sync(0x0000ffffu, value, distance));",
        "is not in its own mask",
    ),
    # cross-entropy
    "threads without a class leave before the barriers": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "  float total_weight = 0.0f;\n",
        "  if (thread * kItems >= p.num_classes) return;\n  float total_weight = 0.0f;\n",
        "deadlock",
    ),
    "weighted losses are handed over without a fence": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "    __threadfence();\n",
        "",
        "race: read after write of global",
    ),
    "every entry of a repeated id is written": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "if (later || threadIdx.x != 0) return;",
        "if (threadIdx.x != 0) return;",
        "race: write after write of global memory table_losses",
    ),
    "the last block but one adds up the loss": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "scratch.is_last = ticket == gridDim.x - 1;",
        "scratch.is_last = ticket == gridDim.x - 2;",
        "race: write after read of global",
    ),
    "a row starts one class early": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "const T* logits = (const T*)p.logits + (i64)blockIdx.x * p.num_classes;",
        "const T* logits = (const T*)p.logits + (i64)blockIdx.x * p.num_classes - 1;",
        f"out of bounds: read|{WRONG_RESULT}",
    ),
    # select_lowest
    "sums are handed over without a fence": Mutant(
        "select",
        "select.cu",
        "    __threadfence();  // after the barrier",
        "    // after the barrier",
        "race: read after write of global",
    ),
    "lanes beyond the end leave a vote": Mutant(
        "select",
        "select.cu",
        "i - lane < p.size; i += stride",
        "i < p.size; i += stride",
        "deadlock|others wait in",
    ),
    "the count is not atomic": Mutant(
        "select",
        "select.cu",
        "atomicAdd(&p.state->ranked, ranked);",
        "p.state->ranked += ranked;",
        "race: ",
    ),
    # stage
    "a word more than there is": Mutant(
        "stage",
        "stage.cu",
        "i < params.count;",
        "i <= params.count;",
        "out of bounds: (read|write)",
    ),
    "every second word is left out": Mutant(
        "stage",
        "stage.cu",
        "i += mixpipe::kStageThreads)",
        "i += 2 * mixpipe::kStageThreads)",
        WRONG_RESULT,
    ),
    "the last vector is scaled whole": Mutant(
        "cross_entropy",
        "cross_entropy.cu",
        "if (first + kSize <= p.count && ",
        "if (first < p.count && ",
        "out of bounds: (read|write)",
    ),
}


def run(op, folder):
    for seed in SEEDS:
        CASES[op](Device("checked", seed, folder))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name, tmp_path):
    mutant = MUTANTS[name]
    applied = []

    def plant(file, text):
        if file != mutant.file:
            return text
        applied.append(text.count(mutant.right))
        return text.replace(mutant.right, mutant.wrong)

    folder = half_sources(tmp_path, plant)
    assert applied[0] >= 1, f"{mutant.file} has no {mutant.right!r} any more: plant the bug anew"
    with pytest.raises((RuntimeError, AssertionError), match=mutant.found):
        run(mutant.op, folder)


@pytest.mark.parametrize("op", CASES)
def test_no_false_alarm(op, tmp_path):
    run(op, half_sources(tmp_path))


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 12
    assert {mutant.op for mutant in MUTANTS.values()} == set(CASES)
