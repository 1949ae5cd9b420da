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
from mixpipe.bench.rivals import Settings, mixpipe_loader
from mixpipe.bench.rounds import spread
from mixpipe.plan import Split
from mixpipe.report import Figure

__all__ = ["steady_figures", "watch_epochs"]

_TIMES = 4  # the larger data set


def watch_epochs(
    settings: Settings, epochs: int = 30, *, progress: bool = False
) -> list[dict[str, Any]]:
    """Run composites of two for many epochs, over the corpus and over one four times as large.

    Nothing is done with the batches, so that the gap between two epochs is the longest it can be.

    Args:
        settings: the corpus and how it is read.
        epochs: of the larger data set; the smaller one has as many batches, in more epochs.
        progress: show a progress bar.

    Returns:
        A row a data set, with ``kind`` "steady": ``batch_ms`` and ``gap_ms`` (median, least, most;
        the gap is from an epoch's last batch to the next one's first), ``gap_batches``, and
        ``mib``, what the process held in each epoch, before its last batch.
    """
    larger = replace(settings, corpus=multiplied(settings.corpus, _TIMES))
    sets = ((settings, _TIMES * epochs), (larger, epochs))
    return [_in_a_process(*each) for each in tqdm(sets, desc="many epochs", disable=not progress)]


def steady_figures(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """The figures that the project has set itself, from `watch_epochs`' rows."""
    one, larger = (row for row in rows if row["kind"] == "steady")
    # Blocks of all sizes come and go, and until the allocator has seen the worst of it, it takes
    # more of the system: whether that ends is seen late.
    growth = max(_last_third(row["mib"]) / _last_third(row["mib"], 2) for row in (one, larger))
    return [
        Figure("gap between two epochs, in batch times", one["gap_batches"], "<= 3"),
        Figure(
            "memory in the last third of the epochs over the third before, of the worse data set",
            growth,
            "<= 1.02",
        ),
        Figure(
            f"memory with {larger['images'] // one['images']} times the images over that with one",
            _last_third(larger["mib"]) / _last_third(one["mib"]),
            "<= 1.05",
        ),
    ]


def _last_third(mib: Sequence[float], which: int = 1) -> float:
    """Of an epoch's memory, the median in the last third, or in the ``which``-th before the end."""
    third = len(mib) // 3
    return median(mib[len(mib) - which * third : len(mib) - (which - 1) * third])


def _in_a_process(settings: Settings, epochs: int) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_watch, settings, epochs).result()


def _watch(settings: Settings, epochs: int) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    loader = mixpipe_loader(settings, Split())
    batches, gaps, mib = [], [], []
    last: float | None = None
    for _ in range(epochs):
        times = []
        for _ in loader:
            times.append(time.perf_counter())
            # Not after the last batch: looking would be part of the gap.
            if len(times) == max(1, len(loader) - 1):
                mib.append(held_mib(os.getpid()))
        batches += [1e3 * (b - a) for a, b in pairwise(times)]
        if last is not None:
            gaps.append(1e3 * (times[0] - last))
        last = times[-1]  # so that ending the epoch is the gap's too
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
