"""``mixpipe bench loader``: from JPEGs to batches, side by side with every other loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from mixpipe.bench.corpus import make_corpus, multiplied
from mixpipe.bench.measure import Cost, LoaderProcess
from mixpipe.bench.rivals import CONTENDERS, Contender, Settings
from mixpipe.bench.rounds import spread
from mixpipe.report import Figure

__all__ = ["compare_loaders", "loader_figures"]

logger = logging.getLogger(__name__)

# What the others of a kind are compared with.
_BASES = {"plain": "mixpipe", "composites": "mixpipe, two"}


def compare_loaders(
    *,
    photos: Path | None = None,
    images: int = 1024,
    rounds: int = 5,
    batch_size: int = 64,
    threads: int = 2,
    times: int = 1,
    device: str = "cpu",
    only: Sequence[str] = (),
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Times every contender, interleaved: a round is one epoch of each, in turning order.

    An epoch gives as many outputs of each: for composites of k images it has the corpus k times,
    since the start and the end of an epoch would weigh more in a short one.

    Args:
        photos: see ``make_corpus``.
        images: JPEGs of the corpus.
        rounds: epochs timed of each, after one that is not.
        batch_size: outputs a batch.
        threads: threads or worker processes of each.
        times: an epoch has the corpus so many times, for machines that are through it in no time.
        device: where outputs are wanted, see `Settings`.
        only: names of the contenders; by default all.
        progress: show a bar.

    Returns:
        A row a contender: its costs, medians over the rounds, and the same as ratios to mixpipe's
        in the same round. One that is not installed or fails has a ``note`` instead.

    Raises:
        ValueError: an unknown name.
    """
    names = [contender.name for contender in CONTENDERS]
    for name in only:
        if name not in names:
            raise ValueError(f"--only: expected one of {', '.join(names)}, got {name!r}")
    chosen = [c for c in CONTENDERS if not only or c.name in only]
    settings = Settings(make_corpus(photos, images), batch_size, threads=threads, device=device)
    notes: dict[str, str] = {}
    running: dict[str, LoaderProcess] = {}
    costs: dict[str, list[Cost]] = {}
    peaks: dict[str, float] = {}
    bar = tqdm(total=len(chosen) * (rounds + 1), unit="epoch", disable=not progress)
    try:
        bar.set_description("starting all")
        for contender in chosen:
            if contender.missing:
                notes[contender.name] = f"{contender.missing} is not installed"
            else:
                corpus = multiplied(settings.corpus, times * contender.images)
                running[contender.name] = LoaderProcess(
                    contender.name, replace(settings, corpus=corpus)
                )
        for name, process in list(running.items()):
            bar.set_description(f"warming up {name}")
            try:
                process.ready()
                peaks[name] = process.peak_mib()
            except RuntimeError as error:
                notes[name] = str(error).strip().splitlines()[-1]
                logger.warning("%s is left out: %s", name, error)
                running.pop(name).close()
            bar.update()
        for number in range(rounds):
            order = list(running) if number % 2 == 0 else list(reversed(running))
            for name in order:
                bar.set_description(f"round {number + 1}, {name}")
                costs.setdefault(name, []).append(running[name].run())
                bar.update()
    finally:
        bar.close()
        for process in running.values():
            process.close()
    return [
        {"name": c.name, "kind": c.kind, "note": notes[c.name]}
        if c.name in notes
        else _row(c, costs[c.name], costs.get(_BASES[c.kind]), peaks[c.name])
        for c in chosen
    ]


def loader_figures(rows: Sequence[dict[str, Any]], device: str = "cpu") -> list[Figure]:
    """The figures that the project has set itself, from the rows that there are.

    It has set itself none for a GPU: there the figures are throughputs, without goals.
    """
    by_name = {row["name"]: row for row in rows if "note" not in row}
    figures = []

    def compare(name: str, first: str, second: str, goal: str | None, of: str) -> None:
        """The median over the rounds of second's outputs a (CPU) second under first's."""
        if first in by_name and second in by_name:
            pairs = zip(by_name[first]["rounds"], by_name[second]["rounds"], strict=True)
            figures.append(Figure(name, median(a[of] / b[of] for a, b in pairs), goal))

    cpu, speed = "cpu_ms_per_output", "outputs_per_s"
    if device != "cpu":
        for rival in ("DALI", "torchvision PIL", "torchvision tensors"):
            compare(f"plain: images/s against {rival}", "mixpipe", rival, None, speed)
        for several in ("two", "four"):
            name = f"time of a composite of {several} against a plain image"
            compare(name, "mixpipe, one", f"mixpipe, {several}", None, speed)
        for rival in ("DALI multi_paste", "torchvision PIL + CutMix"):
            compare(f"composites/s against {rival}", "mixpipe, two", rival, None, speed)
        return figures
    compare("plain: CPU time against DALI's reader", "mixpipe", "DALI", "<= 1.05", cpu)
    for rival, goal in (("torchvision PIL", ">= 1.7"), ("torchvision tensors", ">= 1.3")):
        compare(f"plain: images/s against {rival}", "mixpipe", rival, goal, speed)
    for several, goal in (("two", "<= 1.25"), ("four", "<= 1.6"), ("four, fit", "<= 1.6")):
        compare(
            f"CPU time of a composite of {several} against a plain image",
            f"mixpipe, {several}",
            "mixpipe, one",
            goal,
            cpu,
        )
    for rival, goal in (
        ("torchvision PIL + CutMix", ">= 2.5"),
        ("torchvision tensors + CutMix", ">= 2"),
        ("DALI multi_paste", ">= 1.5"),
    ):
        # CPU time a composite, the rival's over ours, is ours over the rival's a CPU second.
        compare(f"composites a CPU second against {rival}", rival, "mixpipe, two", goal, cpu)
    return figures


def _row(
    contender: Contender, costs: list[Cost], base: list[Cost] | None, peak_mib: float
) -> dict[str, Any]:
    rounds = [
        {
            "cpu_ms_per_output": 1e3 * cost.cpu_seconds / cost.outputs,
            "outputs_per_s": cost.outputs / cost.wall_seconds,
        }
        for cost in costs
    ]
    cpu = median(r["cpu_ms_per_output"] for r in rounds)
    speed = median(r["outputs_per_s"] for r in rounds)
    row: dict[str, Any] = {
        "name": contender.name,
        "kind": contender.kind,
        "images_per_output": contender.images,
        "cpu_ms_per_image": cpu / contender.images,
        "cpu_ms_per_output": cpu,
        "images_per_s": speed * contender.images,
        "outputs_per_s": speed,
        "peak_mib": peak_mib,
        "rounds": rounds,
    }
    if base is not None:
        pairs = list(zip(costs, base, strict=True))
        row["against"] = _BASES[contender.kind]
        row["cpu_ratio"] = spread(
            [a.cpu_seconds / a.outputs / (b.cpu_seconds / b.outputs) for a, b in pairs]
        )
        row["speed_ratio"] = spread(
            [a.outputs / a.wall_seconds / (b.outputs / b.wall_seconds) for a, b in pairs]
        )
    return row
