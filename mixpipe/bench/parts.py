"""Where the CPU time of one composite goes: planning, reading, decoding, composing."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from mixpipe.bench.corpus import multiplied
from mixpipe.bench.rivals import Settings, mixpipe_loader
from mixpipe.bench.rounds import spread
from mixpipe.decode import Decoder
from mixpipe.decode.excerpts import Excerpts
from mixpipe.plan import DecodeJob, Grid, Layout, Split, plan_batches

__all__ = ["PARTS", "time_parts"]

PARTS = ("plan", "read", "decode", "compose")
_LAYOUTS: Mapping[str, tuple[int, Layout | None]] = {
    "one": (1, None),
    "two": (2, Split()),
    "four": (4, Grid(window="cut")),
    "four, fit": (4, Grid(window="fit")),
}
Stage = Callable[[], object]


def time_parts(
    settings: Settings, rounds: int = 5, *, progress: bool = False
) -> list[dict[str, Any]]:
    """Run an epoch's stages by themselves, and the whole loader, round after round.

    Every epoch is the same one, and gives as many composites of each kind. The parts add up to the
    loader's CPU time, all threads of its process included:

    - ``plan``: the epoch's plan, and regions, windows and flips of each of its batches;
    - ``read``: reading files, and cutting what shows out of their JPEGs;
    - ``decode``: what a `Decoder` takes beyond that;
    - ``compose``: what the loader takes beyond that: resampling, normalising, placing, targets, and
      handing out.

    Args:
        settings: the corpus and how it is read.
        rounds: epochs timed of each stage, after one that is not.
        progress: show a progress bar.

    Returns:
        A row a kind of composite, with ``kind`` "parts": CPU milliseconds a composite,
        ``cpu_ms_of`` each part and ``cpu_ms`` of the whole (median, least, most).
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return [
            pool.submit(_time, name, settings, rounds).result()
            for name in tqdm(_LAYOUTS, desc="parts", disable=not progress)
        ]


def _time(name: str, settings: Settings, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(settings.threads)
    images, layout = _LAYOUTS[name]
    composites, stages = _stages(
        replace(settings, corpus=multiplied(settings.corpus, images)), layout
    )
    costs: dict[str, list[float]] = {stage: [] for stage in stages}
    for number in range(rounds + 1):
        for stage in list(stages) if number % 2 == 0 else reversed(list(stages)):
            begin = time.process_time()
            stages[stage]()
            if number:
                costs[stage].append(1e3 * (time.process_time() - begin) / composites)
    plan, read, decode, whole = (costs[stage] for stage in ("plan", "read", "decode", "whole"))
    parts = {
        "plan": plan,
        "read": read,
        "decode": [d - r for d, r in zip(decode, read, strict=True)],
        "compose": [w - d - p for w, d, p in zip(whole, decode, plan, strict=True)],
    }
    return {
        "name": name,
        "kind": "parts",
        "images_per_output": images,
        "cpu_ms": spread(whole),
        "cpu_ms_of": {part: spread(parts[part]) for part in PARTS},
    }


def _stages(settings: Settings, layout: Layout | None) -> tuple[int, dict[str, Stage]]:
    """The number of composites of an epoch, and what is run; "decode" reads, "whole" does all."""
    loader = mixpipe_loader(settings, layout)
    store, index = loader.store, loader.store.index
    excerpts = Excerpts(store, settings.threads)
    decoder = Decoder(store, threads=settings.threads)

    def jobs() -> list[DecodeJob]:
        plan = loader.policy.plan(loader.table, 0, loader.seed)
        batches = plan.batches(settings.batch_size, by=loader.policy.batch_by)
        return [
            batch.job
            for batch in plan_batches(
                plan, batches, index.heights, index.widths, loader.canvas, loader.crop
            )
        ]

    def whole() -> None:
        loader.set_epoch(0)
        _exhaust(loader)

    planned = jobs()
    composites = loader.plan.num_composites
    return composites, {
        "plan": jobs,
        "read": lambda: _exhaust(map(excerpts, planned)),
        "decode": lambda: _exhaust(decoder.decode(planned)),
        "whole": whole,
    }


def _exhaust(items: Iterable[object]) -> None:
    deque(items, maxlen=0)
