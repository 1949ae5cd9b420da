"""benchmarks/kernels.cu on the emulator: every case of it, checked by its own host loops.

Its bytes are those of a checked build, so an access out of bounds or a race ends it.
"""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from emulator.build import program, sanitized_environment

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "benchmarks" / "kernels.cu"


def bench(*options, build="checked", seed=0):
    return subprocess.run(
        [program(SOURCE, build=build), *options],
        env=sanitized_environment(seed),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("seed", [0, 3])
def test_every_case_is_right(seed):
    """In bfloat16 too, which has to be asked for; widths of whole and of broken vectors."""
    lines = []
    for dtype, size in (("f32", 24), ("f16", 29), ("bf16", 24)):
        options = ["--dtype", dtype, "--size", str(size), "--classes", "77", "--samples", "2077"]
        done = bench(*options, "--batch", "2", "--runs", "2", "--check", seed=seed)
        assert done.returncode == 0, done.stderr
        lines += done.stdout.splitlines()[1:]
    # Types, k and cases; blends and index maps of one constituent are none; the rules of a table.
    assert len(lines) == 3 * (3 * 13 - 4 + 3)
    for line in lines:
        assert re.search(
            r"MB must move, .* us, .* GB/s, .* of a copy, \d+ compared, 0 differ$", line
        )


def test_one_kernel_and_form_can_be_picked():
    options = ["--kernel", "compose", "--k", "4", "--dtype", "f16", "--layout", "nhwc"]
    done = bench(*options, "--batch", "1", "--size", "24", "--runs", "1")
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()[1:]
    assert line.startswith("compose f16 nhwc k=4 b=1 size=24 ")
    assert "compared" not in line


def test_gpu_check_reads_the_timings():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts" / "gpu_check.py")
    gpu_check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_check)
    options = ["--k", "1", "--dtype", "f32", "--batch", "1", "--size", "24", "--samples", "2077"]
    done = bench(*options, "--runs", "1")
    lines = done.stdout.splitlines()
    figures = gpu_check.timings([{"name": "kernel timings", "output": lines}])
    assert [figure.name.split(":")[0] for figure in figures] == [
        re.sub(" +[0-9.]+ MB must move.*", "", line) for line in lines[1:]
    ]
    assert not any(figure.goal for figure in figures)  # that of compose is for float16


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--kernel", "sort"], "unknown value sort"),
        (["--k", "5"], "5 is not a number from 1 to 4"),
        (["--batch"], "--batch needs a value"),
        (["--fast"], "unknown option --fast|--fast needs a value"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    done = bench(*options)
    assert done.returncode == 2
    assert re.search(complaint, done.stderr)
