"""`mixpipe bench plan`: what an epoch's plan costs, in time and memory, by policy and data set."""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mixpipe.decode.cached import free_bytes
from mixpipe.plan import (
    Adaptive,
    ByClass,
    BySimilarLoss,
    CutMix,
    CutMixBox,
    Drop,
    Grid,
    Hysteresis,
    InfoBatch,
    Layout,
    LossTable,
    MeanRule,
    MixTrain,
    MixUp,
    Plain,
    Policy,
    QuantileRule,
    RandomResizedCrop,
    RandomRule,
    SelectiveBackprop,
    Split,
    Tier,
    plan_batch,
)
from mixpipe.report import Figure
from mixpipe.train.memory import keep_freed_memory

__all__ = ["IMAGENET", "POLICIES", "plan_figures", "run_plans", "sizes_up_to", "time_batches"]

IMAGENET = 1_280_000
_TIERS = (Tier(2, MeanRule(1.0)), Tier(4, MeanRule(0.3)))
Make = Callable[[NDArray[np.int64]], Policy]  # given every sample's class
POLICIES: Mapping[str, Make] = {
    "Plain": lambda _: Plain(),
    "MixTrain, mean": lambda _: MixTrain(),
    "MixTrain, quantile": lambda _: MixTrain(rule=QuantileRule()),
    "MixTrain, random": lambda _: MixTrain(rule=RandomRule()),
    "MixTrain, hysteresis": lambda _: MixTrain(rule=Hysteresis()),
    "MixTrain, tiers": lambda _: MixTrain(tiers=_TIERS),
    "MixTrain, budget": lambda _: MixTrain(speedup=1.5),
    "MixTrain, adaptive": lambda _: MixTrain(adaptive=Adaptive()),
    "MixTrain, like losses": lambda _: MixTrain(pairing=BySimilarLoss()),
    "MixTrain, same class": lambda labels: MixTrain(pairing=ByClass(labels, same=True)),
    "MixTrain, other classes": lambda labels: MixTrain(pairing=ByClass(labels)),
    "MixTrain + drop": lambda _: MixTrain(drop=Drop()),
    "CutMix": lambda _: CutMix(),
    "MixUp": lambda _: MixUp(),
    "InfoBatch": lambda _: InfoBatch(epochs=90),
    "SelectiveBackprop": lambda _: SelectiveBackprop(),
}
_CLASSES = 1000
_EPOCH = 5  # all policies act in it
_REPEAT_BELOW = 20_000_000  # samples; larger plans are timed once
_BYTES = 56  # a sample, of memory that must be free: table, index and plan, with room to spare


def sizes_up_to(largest: int) -> list[int]:
    """Powers of ten from 10,000, ImageNet's size, and ``largest``; rising."""
    if largest < 1:
        raise ValueError(f"largest: got {largest}, expected at least 1 sample")
    powers = [10**p for p in range(4, 1 + int(math.log10(largest)))]
    return sorted({largest, *powers, *([IMAGENET] if largest >= IMAGENET else [])})


def run_plans(
    sizes: Iterable[int],
    policies: Mapping[str, Make] = POLICIES,
    *,
    seed: int = 0,
    repeats: int = 5,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Make the plans of one epoch, a row for each policy and number of samples.

    Losses are exponentially distributed, and every sample has been seen. Peak bytes are what
    `tracemalloc` counts (numpy reports its arrays to it) from before the policy is made to the end
    of its plan: the plan itself, temporaries and the policy's state, but not the loss table and the
    index's labels, which are there before. Then plans are timed, without tracing: ``repeats`` of
    them, of which the median counts, or one of twenty million samples and more. They are made in
    memory that the process has used before, as every epoch's plan but the first is in training on
    a CPU: the process keeps freed memory from then on (`keep_freed_memory`). A virtual machine
    hands out what nobody has touched at 3 ns a byte, as much as the plan's own work.
    A plan is made by one thread, so CPU seconds are the seconds that it takes on an idle machine.

    Args:
        sizes: numbers of samples; those that free memory does not hold are left out.
        policies: what makes each policy, given every sample's class; by name.
        seed: of losses and plans.
        repeats: of the timing of small plans.
        progress: show a progress bar.
    """
    keep_freed_memory()
    rows = []
    work = [size for size in sizes if size * _BYTES <= free_bytes()]
    with tqdm(total=len(work) * len(policies), unit="plan", disable=not progress) as bar:
        for size in work:
            table = loss_table(size, seed)
            labels = np.random.default_rng(seed).integers(0, _CLASSES, size)
            for name, make in policies.items():
                bar.set_description(f"{name}, {size:,} samples")
                rows.append({"policy": name, **_measure(make, table, labels, seed, repeats)})
                bar.update()
            del table, labels
    return rows


def time_batches(
    num_samples: int = IMAGENET,
    *,
    composites: int = 256,
    seed: int = 0,
    repeats: int = 50,
) -> list[dict[str, Any]]:
    """Milliseconds of `plan_batch`, for RandomResizedCrop to 224 × 224: median over batches."""
    ways: list[tuple[str, int, Layout]] = [
        ("split", 2, Split()),
        ("cutmix", 2, CutMixBox()),
        ("grid", 4, Grid()),
    ]
    table = loss_table(num_samples, seed)
    random = np.random.default_rng(seed)
    heights = random.integers(300, 501, num_samples, dtype=np.int32)
    widths = random.integers(400, 601, num_samples, dtype=np.int32)
    crop = RandomResizedCrop()
    rows = []
    for name, k, layout in ways:
        mixed = MixTrain(tiers=[Tier(k, MeanRule(1e6), layout)])
        plan = mixed.plan(table, _EPOCH, seed)
        times = []
        for composites_range in plan.batches(composites)[:repeats]:
            begin = time.perf_counter()
            plan_batch(plan, composites_range, heights, widths, (224, 224), crop)
            times.append(1e3 * (time.perf_counter() - begin))
        low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
        rows.append(
            {
                "batch": f"{composites} composites of {k}, {name}",
                "samples": num_samples,
                "milliseconds": float(median),
                "milliseconds_low": float(low),
                "milliseconds_high": float(high),
            }
        )
    return rows


def plan_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The figures that plans are judged by, of those rows that were run."""
    plans = [row for row in rows if "policy" in row]
    if not plans:
        return []
    largest = max(row["samples"] for row in plans)
    figures = []
    at_imagenet = [row["seconds"] for row in plans if row["samples"] == IMAGENET]
    if at_imagenet:
        figures.append(
            Figure(f"seconds for {IMAGENET:,} samples, slowest policy", max(at_imagenet), "<= 1.0")
        )
    per_sample = {
        (row["policy"], row["samples"]): row["cpu_seconds"] / row["samples"]
        for row in plans
        if row["samples"] in (10**6, largest)
    }
    growth = [
        per_sample[name, largest] / per_sample[name, 10**6]
        for name in dict.fromkeys(row["policy"] for row in plans)
        if (name, 10**6) in per_sample and (name, largest) in per_sample
    ]
    if growth and largest > 10**6:
        figures.append(
            Figure(
                f"CPU time a sample at {largest:,} samples over that at 1,000,000, worst policy",
                max(growth),
                "<= 2.0",
            )
        )
    # Below ImageNet's size a few arrays of fixed size weigh more than the samples.
    peaks = [row["peak_bytes_per_sample"] for row in plans if row["samples"] >= 10**6]
    if peaks:
        figures.append(Figure("peak bytes a sample, worst policy", max(peaks), "<= 40"))
    figures += [
        Figure(f"milliseconds of plan_batch: {row['batch']}", row["milliseconds"])
        for row in rows
        if "batch" in row
    ]
    return figures


def loss_table(num_samples: int, seed: int) -> LossTable:
    """A table in which every sample was seen in epoch 0."""
    table = LossTable(num_samples)
    random = np.random.default_rng(seed)
    random.standard_exponential(out=table.losses.numpy(), dtype=np.float32)
    table.epochs.fill_(0)
    return table


def _measure(
    make: Make, table: LossTable, labels: NDArray[np.int64], seed: int, repeats: int
) -> dict[str, Any]:
    """Time and peak memory of one policy's plan."""
    samples = len(table)
    tracemalloc.start()
    try:
        policy = make(labels)
        # What was mixed before matters to a policy with a state; others are spared the time.
        if isinstance(policy, MixTrain) and isinstance(policy.tiers[0].rule, Hysteresis):
            policy.plan(table, _EPOCH - 1, seed)
        policy.plan(table, _EPOCH, seed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    times = [_timed(policy, table, seed) for _ in range(repeats if samples < _REPEAT_BELOW else 1)]
    seconds, cpu_seconds = map(statistics.median, zip(*times, strict=True))
    return {
        "samples": samples,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "nanoseconds_per_sample": 1e9 * seconds / samples,
        "peak_bytes_per_sample": peak / samples,
    }


def _timed(policy: Policy, table: LossTable, seed: int) -> tuple[float, float]:
    """Seconds that a plan takes: on the clock, and of the CPU."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    policy.plan(table, _EPOCH, seed)
    return time.perf_counter() - begin, time.process_time() - cpu_begin
