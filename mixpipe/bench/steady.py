"""What the loader does over many epochs: the gap between two of them, and the memory it holds."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from mixpipe.bench.corpus import multiplied
from mixpipe.bench.measure import held_mib
from mixpipe.bench.rivals import Settings
from mixpipe.bench.rounds import spread
from mixpipe.loader import MixLoader
from mixpipe.plan import MixTrain, RandomRule
from mixpipe.report import Figure

__all__ = ["steady_figures", "watch_epochs"]

_TIMES = 4  # the larger data set


def watch_epochs(
    settings: Settings, epochs: int = 30, *, progress: bool = False
) -> list[dict[str, Any]]:
    """Run composites of two for many epochs, over the corpus and over one four times as large.

    Nothing is done with the batches, so that the gap between two epochs is the longest it can be.

    Returns:
        A row a data set, with ``kind`` "steady": ``batch_ms`` and ``gap_ms`` (median, least, most;
        the gap is from an epoch's last batch to the next one's first), ``gap_batches``, and
        ``mib``, what the process held at the end of each epoch.
    """
    larger = replace(settings, corpus=multiplied(settings.corpus, _TIMES))
    sets = tqdm((settings, larger), desc="many epochs", disable=not progress)
    return [_in_a_process(each, epochs) for each in sets]


def steady_figures(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """The figures that the project has set itself, from `watch_epochs`' rows."""
    one, larger = (row for row in rows if row["kind"] == "steady")
    # Blocks of all sizes come and go, and until the allocator has seen the worst of it, it takes
    # more of the system: memory is compared where that has ended.
    third = len(larger["mib"]) // 3
    late, before = median(larger["mib"][-third:]), median(larger["mib"][-2 * third : -third])
    return [
        Figure("gap between two epochs, in batch times", one["gap_batches"], "<= 3"),
        Figure(
            "memory in the last third of the epochs over the third before", late / before, "<= 1.02"
        ),
        Figure(
            f"memory with {larger['images'] // one['images']} times the images over that with one",
            median(larger["mib"]) / median(one["mib"]),
            "<= 1.05",
        ),
    ]


def _in_a_process(settings: Settings, epochs: int) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_watch, settings, epochs).result()


def _watch(settings: Settings, epochs: int) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    loader = MixLoader(
        settings.corpus,
        batch_size=settings.batch_size,
        size=settings.size,
        policy=MixTrain(rule=RandomRule(1.0), warmup=0, batch_by="composites"),
        dtype=torch.float16,
        memory_format=torch.channels_last,
        threads=settings.threads,
    )
    batches, gaps, mib = [], [], []
    last: float | None = None
    for _ in range(epochs):
        times = []
        for _ in loader:
            times.append(time.perf_counter())
            if len(times) == len(loader):
                mib.append(held_mib(os.getpid()))
        batches += [1e3 * (b - a) for a, b in pairwise(times)]
        if last is not None:
            gaps.append(1e3 * (times[0] - last))
        last = time.perf_counter()  # what was measured after the last batch is not the gap's
    loader.close()
    return {
        "name": f"{len(loader.table)} images",
        "kind": "steady",
        "images": len(loader.table),
        "batch_ms": spread(batches),
        "gap_ms": spread(gaps),
        "gap_batches": median(gaps) / median(batches),
        "mib": mib,
    }
