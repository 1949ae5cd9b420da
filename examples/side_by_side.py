"""Plain training, a shortened one at about MixTrain's cost, and MixTrain, over seeds."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import mixpipe
from mixpipe.report import Figure, write_report


class Setting(NamedTuple):
    """What a run is given."""

    policy: mixpipe.Policy
    epochs: int
    seed: int
    threads: int | None


def compare(about: str, run: Callable[[Setting], tuple[float, int]], measure: str) -> None:
    """Read the command line, run every way with every seed, print a table and write ``--json``.

    Args:
        about: what the example does, in a sentence.
        run: trains and tests: what is measured, higher being better, and the network inputs.
        measure: what it measures, with its unit.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--speedup", type=float, default=1.6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="decoding threads [one a core]")
    parser.add_argument("--json", help="write the results there, for mixpipe bench report")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds: expected at least 1, got {options.seeds}")
    epochs, shorter = options.epochs, max(1, round(options.epochs / options.speedup))
    rows = []
    for name, length in (("plain", epochs), ("plain, shortened", shorter), ("MixTrain", epochs)):
        scores, start = [], time.perf_counter()
        for seed in range(options.seeds):
            policy: mixpipe.Policy = mixpipe.Plain()
            if name == "MixTrain":
                policy = mixpipe.MixTrain(speedup=options.speedup, epochs=epochs)
            score, inputs = run(Setting(policy, length, seed, options.threads))
            scores.append(score)
        rows.append(
            {
                "way": name,
                "epochs": length,
                "seeds": options.seeds,
                measure: mean(scores),
                "standard deviation": stdev(scores) if len(scores) > 1 else None,
                "network inputs": inputs,
                "seconds a run": (time.perf_counter() - start) / options.seeds,
            }
        )
        print(f"{name}: {measure} {mean(scores):.2f}, {inputs:,} network inputs")
    if options.json:
        plain, shortened, mixed = (float(row[measure]) for row in rows)
        figures = [
            Figure(f"MixTrain minus plain, {measure}", mixed - plain),
            Figure(f"MixTrain minus plain, shortened, {measure}", mixed - shortened),
        ]
        command = ["python", f"examples/{Path(sys.argv[0]).name}", *sys.argv[1:]]
        write_report(options.json, rows, figures, shlex.join(command))
