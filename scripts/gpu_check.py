"""Run everything that needs a GPU, and write what came out into one file.

    make gpu-check

The GPU tests, the kernels' stand-alone program with its checks, the same under compute-sanitizer,
its timings beside a plain copy, and the training example on the device. The exit status is 0 only
if all of it went well.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mixpipe.report import Figure, write_report

BENCH = "build/kernel_bench"
# Small: a sanitizer makes a kernel some hundred times slower.
SMALL_BENCH = [BENCH, "--check", "--batch", "4", "--size", "36", "--classes", "37",
               "--samples", "5000", "--runs", "1"]  # fmt: skip


def main() -> int:
    """Run the steps; 0 if all went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu-check.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check needs a CUDA device and torch finds none; see `mixpipe doctor`")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        trained = Path(scratch) / "train.json"
        steps = {
            "tests": [sys.executable, "-m", "pytest", "-m", "gpu", "-q"],
            "kernels against host loops": [BENCH, "--check", "--runs", "1"],
            **{
                f"compute-sanitizer {tool}": [
                    "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *SMALL_BENCH,
                ]
                for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
            },
            "kernel timings": [BENCH, "--runs", "50"],
            "training": [
                sys.executable, "-m", "mixpipe", "train", "--compare", "--device", "cuda",
                "--precision", "bfloat16", "--speedup", "1.6",
                "--output", str(Path(scratch) / "runs"), "--json", str(trained),
            ],
        }  # fmt: skip
        rows = [run(name, command) for name, command in steps.items()]
        if trained.exists():
            rows.append({"name": "training result", **json.loads(trained.read_text())})
    failed = [row["name"] for row in rows if row.get("status", 0) != 0]
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    rows.append({"name": "device", "capability": capability, "driver": driver()})
    figures = [Figure("steps that failed", len(failed), "<= 0"), *timings(rows)]
    write_report(options.output, rows, figures, "make gpu-check")
    print(f"written to {options.output}; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def run(name: str, command: list[str]) -> dict[str, object]:
    """Run one step, shown as it goes; its status, seconds and last lines."""
    print(f"== {name}: {' '.join(command)}", flush=True)
    if shutil.which(command[0]) is None:
        print(f"{command[0]} is not there")
        return {"name": name, "status": 127, "output": f"{command[0]} is not there"}
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    output = (done.stdout + done.stderr).splitlines()
    print("\n".join(output[-20:]), flush=True)
    return {
        "name": name,
        "status": done.returncode,
        "seconds": round(seconds, 1),
        "output": output[-200:],
    }


def timings(rows: list[dict[str, object]]) -> list[Figure]:
    """The kernels' shares of the copy's bandwidth, from the lines of kernel_bench.

    Composing float16 is to reach 0.9.
    """
    lines = next((row["output"] for row in rows if row["name"] == "kernel timings"), [])
    shares = []
    for line in lines if isinstance(lines, list) else []:
        found = re.search(
            r"^(?P<case>.*?) +[\d.]+ MB must move.*?(?P<share>[\d.]+) of a copy", line
        )
        if found:
            goal = ">= 0.9" if re.match("compose f16 ", found["case"]) else None
            name = f"{found['case']}: share of the copy"
            shares.append(Figure(name, float(found["share"]), goal))
    return shares


def driver() -> str:
    """The driver's version, as nvidia-smi says."""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
