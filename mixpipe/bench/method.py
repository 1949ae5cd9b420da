"""`mixpipe bench method`: runs a comparison over seeds, one run after another or side by side."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
import torch
from tqdm.auto import tqdm

from mixpipe.bench.fashion import build_tar
from mixpipe.bench.presets import Preset, Row
from mixpipe.report import environment, open_beside, write_json
from mixpipe.train import PolicyOptions, TrainConfig, Trainer, make_policy

__all__ = ["known_runs", "run_preset"]

Run = dict[str, Any]
Epochs = Generator[float, None, Run | None]
Work = tuple[Row, TrainConfig]
FASHION = "/usr/share/datasets/fashion-mnist"


def run_preset(
    preset: Preset,
    folder: str | os.PathLike[str],
    *,
    data: str | None = None,
    only: Sequence[str] = (),
    seeds: int | None = None,
    val_split: str | None = None,
    device: str | None = None,
    known: Sequence[Run] = (),
    finished: bool = False,
    jobs: int = 1,
    in_turns: bool = False,
    progress: bool = True,
) -> list[Run]:
    """Run what is not yet in ``folder``, two files a run; a comparison cut short goes on there.

    Runs are evaluated once, after their last epoch. With another ``val_split`` the weights kept in
    ``folder`` are evaluated on that: a setting is chosen on one split and its runs are judged on
    another.

    Args:
        preset: what to run.
        folder: holds the finished runs.
        data: where the data is; by default the embedded images, or Debian's Fashion-MNIST.
        only: the names of rows to run; by default all.
        seeds: runs of each row; by default the preset's.
        val_split: evaluate on this split instead of the preset's.
        device: train there instead.
        known: runs of before, from :func:`known_runs`; they are not run again, and stay in what is
            returned, those too that ``only`` and ``seeds`` do not ask for.
        finished: only what was run before: no run is begun.
        jobs: runs side by side, each in a process of its own with its part of the cores. What the
            clock says of them then compares nothing.
        in_turns: the runs of a seed take turns, an epoch each, so that a machine that is slower at
            times is so for all of them, and seconds compare. All of them are in memory.
        progress: show a progress bar.

    Returns:
        The runs: a `RunSummary`'s values and settings, with ``row`` and ``seed``.

    Raises:
        ValueError: ``only`` names a row that the preset has not, ``data`` is missing, or ``known``
            has runs of another comparison.
    """
    if preset.own_data and data is None:
        raise ValueError(f"data: expected the folder of {preset.about}; pass --data PATH")
    rows = [row for row in preset.rows if not only or row.name in only]
    unknown = set(only) - {row.name for row in preset.rows}
    if unknown:
        names = ", ".join(repr(row.name) for row in preset.rows)
        raise ValueError(f"only: no row {sorted(unknown)}; expected some of {names}")
    config = preset.config
    if preset.fashion:
        config = replace(config, data=_fashion_tar(data or FASHION, preset.fashion))
    elif data is not None:
        config = replace(config, data=data)
    if jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    if in_turns and jobs > 1:
        raise ValueError(f"in_turns: expected jobs of 1, got {jobs}")
    config = replace(
        config,
        val_split=val_split or config.val_split,
        device=device or config.device,
        threads=max(1, len(os.sched_getaffinity(0)) // jobs),
    )
    work = [
        (row, _settings(config, row, seed)) for seed in range(seeds or preset.seeds) for row in rows
    ]
    row_names = _names(preset, config, {run["seed"] for run in known})
    _refuse_to_lose(known, row_names)
    one = partial(
        _run,
        folder=Path(folder),
        known={run["key"]: run for run in known},
        finished=finished,
        jobs=jobs,
        in_turns=in_turns,
    )
    with tqdm(total=len(work), unit="run", disable=not progress) as bar:
        runs = []
        if jobs > 1:
            done = _side_by_side(one, work, jobs)
        elif in_turns:
            done = _in_turns(one, work, bar)
        else:
            done = _one_by_one(one, work, bar)
        for run in done:
            runs.append(run)
            bar.update()
    done_now = [run for run in runs if run is not None]
    every = done_now + _others(done_now, known, row_names, str(config.val_split))
    _refuse_to_lose(known, {run["key"] for run in every})
    order = {row.name: place for place, row in enumerate(preset.rows)}
    return sorted(every, key=lambda run: (run["seed"], order[run["row"]]))


def _settings(config: TrainConfig, row: Row, seed: int) -> TrainConfig:
    epochs = max(1, round(config.epochs / row.shortened))
    return replace(config, seed=seed, epochs=epochs, eval_every=epochs, **row.settings)


def _names(preset: Preset, config: TrainConfig, seeds: Collection[int]) -> dict[str, str]:
    """What the runs of all rows with these seeds are called, by their keys."""
    return {
        _key(_settings(config, row, seed), row.options): row.name
        for row in preset.rows
        for seed in seeds
    }


def _others(
    done: Sequence[Run], known: Sequence[Run], names: Mapping[str, str], split: str
) -> list[Run]:
    """What is known of other rows and seeds than those that were asked for."""
    keys = {run["key"] for run in done}
    return [
        {**run, "row": names[run["key"]], **run["evaluations"][split]}
        for run in known
        if run["key"] not in keys and split in run["evaluations"]
    ]


def _refuse_to_lose(known: Sequence[Run], keys: Collection[str]) -> None:
    """Raise ``ValueError`` where a run is known that is none of these."""
    lost = [f"{run['row']}, seed {run['seed']}" for run in known if run["key"] not in keys]
    if lost:
        raise ValueError(
            f"known: {len(lost)} runs of the results file are not of this comparison (the first: "
            f"{lost[0]}), by their settings or by the split that they were judged on, and would be "
            "lost; name another file with --json, or that comparison with --preset"
        )


def known_runs(file: str | os.PathLike[str]) -> list[Run]:
    """The runs that an earlier results file holds; none where there is no such file.

    Raises:
        ValueError: it is not one of `mixpipe bench method`.
    """
    path = Path(file)
    if not path.is_file():
        return []
    try:
        return [run for row in json.loads(path.read_text())["rows"] for run in row["runs"]]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(
            f"{path}: expected the results of an earlier mixpipe bench method, to go on from, or "
            "no such file; pass another --json FILE"
        ) from None


def _one_by_one(one: Callable[..., Epochs], work: Sequence[Work], bar: Any) -> Iterator[Run | None]:
    for row, config in work:
        bar.set_description(f"{row.name}, seed {config.seed}")
        yield _to_the_end(one, row, config, progress=not bar.disable)


def _in_turns(one: Callable[..., Epochs], work: Sequence[Work], bar: Any) -> Iterator[Run | None]:
    """All runs of a seed, then those of the next; whoever has done least of its epochs is next."""
    for _, seed in itertools.groupby(work, lambda item: item[1].seed):
        with ExitStack() as stack:
            running = {
                i: stack.enter_context(closing(one(row, config, progress=False)))
                for i, (row, config) in enumerate(seed)
            }
            done, runs = dict.fromkeys(running, 0.0), dict.fromkeys(running)
            while running:
                i = min(running, key=lambda i: done[i])
                try:
                    done[i] = next(running[i])
                except StopIteration as end:
                    runs[i] = end.value
                    del running[i]
                bar.set_description(f"{100 * statistics.fmean(done.values()):.0f} % of the seed")
        yield from runs.values()


def _side_by_side(
    one: Callable[..., Epochs], work: Sequence[Work], jobs: int
) -> Iterator[Run | None]:
    """The runs in the order of ``work``; what was begun ends before an error is raised."""
    spawn = multiprocessing.get_context("spawn")  # a process with CUDA cannot be forked
    threads = work[0][1].threads or 1
    with ProcessPoolExecutor(
        jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        futures = [
            pool.submit(_to_the_end, one, row, config, progress=False) for row, config in work
        ]
        try:
            for future in futures:
                yield future.result()
        finally:  # after an error no further run is begun
            for future in futures:
                future.cancel()


def _to_the_end(one: Callable[..., Epochs], row: Row, config: TrainConfig, **more: Any) -> Any:
    epochs = one(row, config, **more)
    while True:
        try:
            next(epochs)
        except StopIteration as end:
            return end.value


def _run(
    row: Row,
    config: TrainConfig,
    *,
    folder: Path,
    known: Mapping[str, Run],
    finished: bool,
    jobs: int,
    in_turns: bool,
    progress: bool,
) -> Epochs:
    """One run, or what is known of it from before; ``config`` is that of this row and seed.

    Yields the part of its epochs that is done, after each. Returns None where it would have to be
    begun and only finished ones are wanted.
    """
    # Where the data lay is nobody's business.
    here = {**config.as_dict(), "data": Path(config.data).name}
    settings = {"config": here, "options": asdict(row.options)}
    key = _key(config, row.options)
    path = folder / f"seed{config.seed}-{key}.json"
    run = json.loads(path.read_text()) if path.exists() else known.get(key)
    split, weights = str(config.val_split), path.with_suffix(".pt")
    if run is not None and split in run["evaluations"]:
        return {**run, "row": row.name, **run["evaluations"][split]}
    if finished and not (run is not None and weights.exists()):
        return None
    trainer = Trainer(
        config,
        make_policy(row.options, config.epochs, config.train_labels),
        name=row.name,
        progress=progress,
    )
    try:
        if run is not None and weights.exists():
            trainer.network.load_state_dict(torch.load(weights, weights_only=True))
            run["evaluations"][split] = asdict(trainer.evaluate())
        else:
            meta = environment(f"mixpipe bench method, run {path.stem}")  # of the code that runs
            for metrics in trainer.epochs():
                yield (metrics.epoch + 1) / config.epochs
            run = {"key": key, "seed": config.seed, **asdict(trainer.summary()), **settings}
            run["evaluations"] = {
                split: {"accuracy": run.pop("accuracy"), "by_class": run.pop("class_accuracy")}
            }
            run["meta"], run["side_by_side"], run["in_turns"] = meta, jobs, in_turns
            run["cached"] = trainer.loader.cache
            folder.mkdir(parents=True, exist_ok=True)
            with open_beside(weights) as file:
                torch.save(trainer.network.state_dict(), file)
    finally:
        trainer.close()
    write_json(path, run)
    run = json.loads(path.read_text())  # as whoever goes on will find it
    return {**run, "row": row.name, **run["evaluations"][split]}


def _key(config: TrainConfig, options: PolicyOptions) -> str:
    """The same for runs that learn the same, wherever the data lies and what they are judged on.

    Only what differs from the defaults counts: a new setting leaves old runs known.
    """
    here = replace(config, data=Path(config.data).name, val_split=None, threads=None, cache=None)
    parts = [(asdict(here), asdict(TrainConfig())), (asdict(options), asdict(PolicyOptions()))]
    changed = [{k: v for k, v in given.items() if v != usual[k]} for given, usual in parts]
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def _fashion_tar(folder: str, splits: Mapping[str, tuple[str, slice]]) -> str:
    """The tar of these splits in the cache folder, made when it is not there."""
    key = hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()[:12]
    path = Path(platformdirs.user_cache_dir("mixpipe")) / f"fashion-mnist-{key}.tar"
    if not path.exists():
        with open_beside(path) as file:
            file.write(build_tar(folder, splits))
    return str(path)
