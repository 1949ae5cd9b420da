"""`mixpipe bench method`: MixTrain beside its rivals, over seeds, at equal cost."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from operator import add, sub
from pathlib import Path
from typing import Any

import platformdirs
import torch
from tqdm.auto import tqdm

from mixpipe.bench.fashion import build_tar
from mixpipe.report import Figure, environment, open_beside, write_json
from mixpipe.train import PolicyOptions, TrainConfig, Trainer, make_policy

__all__ = [
    "PRESETS",
    "Preset",
    "Row",
    "draw",
    "known_runs",
    "method_figures",
    "run_preset",
    "summarise",
]

Run = dict[str, Any]
Epochs = Generator[float, None, Run | None]
FASHION = "/usr/share/datasets/fashion-mnist"
TIERS = ((2, 1.0), (4, 0.3))


@dataclass(frozen=True)
class Row:
    """One way of training.

    Attributes:
        name: what the table calls it.
        options: its policy.
        shortened: run for so many times fewer epochs; 1: full length.
        settings: those of `TrainConfig` in which this row differs from the preset.
    """

    name: str
    options: PolicyOptions
    shortened: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)


def _mixed(speedup: float | None, **more: Any) -> PolicyOptions:
    """The recipe, or what ``more`` says instead."""
    options: dict[str, Any] = {"tiers": TIERS, "taper": 0.6, "final": 0.1, **more}
    return PolicyOptions(speedup=speedup, **options)


PLAIN = Row("plain", PolicyOptions("plain"))
# Nearly all samples in pairs, all the time: there is nothing left to taper.
PAIRS: dict[str, Any] = {"speedup": 1.8, "rule": "random", "final": 0.0, "taper": 0.0}
# InfoBatch as its authors run it, dropping half of what is below the mean loss, takes 1.5 times
# fewer inputs here. The rest comes from fewer epochs, as in MixTrain's own best row for 2.2, ...
INFOBATCH = PolicyOptions("infobatch", speedup=1.5, drop=0.5)
# ... or from dropping more, in as many epochs.
INFOBATCH_MORE = tuple(
    Row(f"InfoBatch {speedup}, all epochs", PolicyOptions("infobatch", speedup=speedup, drop=drop))
    for speedup, drop in ((1.8, 0.6), (2.2, 0.7))
)
# In fewer steps twice plain training's learning rate does better (CHOICES, CHOICES_22).
TWICE = {"lr": 0.2}
# Each rival at a cost that MixTrain is measured at too.
RIVALS = (
    PLAIN,
    *(Row(f"plain-shortened {s}", PolicyOptions("plain"), s) for s in (1.6, 1.8)),
    Row("plain-shortened 2.2", PolicyOptions("plain"), 2.2, TWICE),
    Row("pixel blend 1.8", PolicyOptions(layout="mixup", **PAIRS)),
    Row(
        "CutMix halves 1.8",
        PolicyOptions(layout="cutmix", **PAIRS),
        settings={"separate": False},
    ),
    Row("random subset 1.8", _mixed(1.8, rule="random")),
    Row("InfoBatch 1.8", INFOBATCH, 1.8 / 1.5, TWICE),
    Row("InfoBatch 2.2", INFOBATCH, 2.2 / 1.5, TWICE),
    *INFOBATCH_MORE,
    Row("Selective-Backprop 1.8", PolicyOptions("selective", speedup=1.8), settings=TWICE),
)
FEWER = 38 / 31  # with a speed-up of 1.8, 2.2 times fewer inputs
# A lower speed-up in fewer epochs, as InfoBatch has it at this cost, ...
PRUNED = Row("MixTrain + drop 1.8", _mixed(1.5, drop=0.5), 1.8 / 1.5, TWICE)
# ... and at 2.2, where it is the best found (CHOICES_22).
PRUNED_22 = Row("MixTrain + drop 2.2", _mixed(1.8, drop=0.5), FEWER, TWICE)
MIXTRAIN = (
    Row("MixTrain 1.6", _mixed(1.6)),
    Row("MixTrain 1.8", _mixed(1.8)),
    PRUNED,
    PRUNED_22,
)


def _tried(
    name: str,
    taper: float,
    final: float = 0.1,
    *,
    speedup: float = 1.8,
    shortened: float = 1.0,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Row:
    options = _mixed(speedup, taper=taper, final=final, **more)
    return Row(name, options, shortened, settings or {})


FOURS = ((4, 1.0),)
THREE_TIERS = ((2, 1.0), (3, 0.6), (4, 0.3))
RATES = (0.1, 0.2)  # plain training's, and one for fewer steps
CHOICES = (
    PLAIN,
    _tried("recipe: tiers 2 and 4, taper 0.6, final 0.1", 0.6, 0.1),
    _tried("no taper", 0.0, 0.1),
    _tried("no taper, each sample counts alike", 0.0, 0.1, weighting="each"),
    _tried("no taper, final 0.3", 0.0, 0.3),
    _tried("no taper, no plain epochs at the end", 0.0, 0.0),
    _tried("no taper, final 0.3, each counts alike", 0.0, 0.3, weighting="each"),
    _tried("no taper, final 0.38, only fours", 0.0, 0.38, tiers=FOURS),
    # Pruning as well.
    replace(PRUNED, name="drop 0.5, 1.5 in 32 epochs, lr 0.2"),
    # Rivals of fewer steps than plain training, with its rate and with twice that.
    *(
        replace(row, name=f"{row.name}, lr {lr}", settings={"lr": lr})
        for row in RIVALS
        if row.name in ("plain-shortened 1.8", "InfoBatch 1.8", "Selective-Backprop 1.8")
        for lr in RATES
    ),
    # Whether plain training is saturated, and what is left of the method where it is.
    Row("plain, twice as long", PolicyOptions("plain"), 0.5),
    _tried("recipe, twice as long", 0.6, shortened=0.5),
)


Work = tuple[Row, TrainConfig]
# All cost about what a 2.2th of plain training's inputs do: a lower speed-up in fewer epochs too.
CHOICES_22 = (
    PLAIN,
    _tried("taper 0.9", 0.9, speedup=2.2),
    _tried("drop 0.5, taper 0.6", 0.6, speedup=2.2, drop=0.5),
    _tried("drop 0.5, taper 0.9", 0.9, speedup=2.2, drop=0.5),
    _tried("drop 0.5, taper 0.9, tiers 2, 3 and 4", 0.9, speedup=2.2, drop=0.5, tiers=THREE_TIERS),
    _tried("1.8 in 31 epochs", 0.6, shortened=FEWER),
    _tried("drop 0.5, 1.8 in 31 epochs", 0.6, shortened=FEWER, drop=0.5),
    _tried("drop 0.7, 1.8 in 31 epochs", 0.6, shortened=FEWER, drop=0.7),
    _tried("drop 0.3, 1.8 in 31 epochs", 0.6, shortened=FEWER, drop=0.3),
    _tried("drop 0.5, 1.6 in 28 epochs", 0.6, speedup=1.6, shortened=38 / 28, drop=0.5),
    # Learning rates for fewer steps, and for as few of them; plain training's with these.
    *(Row(f"plain, lr {lr}", PolicyOptions("plain"), settings={"lr": lr}) for lr in (0.05, 0.2)),
    *(
        replace(row, name=f"{row.name}, lr {lr}", settings={"lr": lr})
        for row in RIVALS
        if row.name in ("plain-shortened 2.2", "InfoBatch 2.2")
        for lr in RATES
    ),
    *(
        _tried(
            f"drop 0.5, 1.8 in 31 epochs, lr {lr}",
            0.6,
            shortened=FEWER,
            drop=0.5,
            settings={"lr": lr},
        )
        for lr in (0.05, 0.2, 0.3)
    ),
)


def _varied(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    speedup: float | None = 1.6,
    **more: Any,
) -> Row:
    """The recipe at 1.6 times fewer inputs, with another policy option or training setting."""
    return Row(name, _mixed(speedup, **more), settings=settings or {})


# One option at a time: whether each works, and roughly what it is worth. The budget stays, and so
# an option may move others: of pairs alone nearly all samples are needed; of the quantile and the
# random rule the thresholds are shares, which make another number of fours.
VARIANTS = (
    PLAIN,
    Row("plain-shortened 1.6", PolicyOptions("plain"), 1.6),
    _varied("recipe"),
    _varied("quantile rule", rule="quantile"),
    _varied("random rule", rule="random"),
    # This one decides by itself how many are mixed.
    _varied("pairs by hysteresis", rule="hysteresis", speedup=None, tiers=(), taper=None),
    _varied("adaptive shares", adaptive=True),
    _varied("only pairs", tiers=((2, 1.0),)),
    _varied("only threes", tiers=((3, 1.0),)),
    _varied("only fours", tiers=FOURS),
    _varied("windows cut", window="cut"),
    _varied("windows fit", window="fit"),
    _varied("split anywhere", spread=0.25),
    _varied("together by like loss", pairing="similar"),
    _varied("together of one class", pairing="same-class"),
    _varied("together of other classes", pairing="different-class"),
    _varied("each counts alike", weighting="each"),
    _varied("batches of composites", batch_by="composites"),
    _varied("one pool for all regions", {"separate": False}),
    _varied("no taper, no plain epochs at the end", taper=0.0, final=0.0),
    *(
        row
        for key, names in (
            ("optimizer", ("adam", "adamw", "rmsprop")),
            ("model", ("resnet14", "resnet20", "mobilenet_small", "vit_small")),
        )
        for name in names
        for row in (
            Row(f"{name}: plain", PolicyOptions("plain"), settings={key: name}),
            _varied(f"{name}: recipe", {key: name}),
        )
    ),
)


# What was measured first, with plain training's rate.
AS_PLAIN = tuple(
    replace(row, name=f"{row.name}, lr 0.1", settings={})
    for row in RIVALS + MIXTRAIN
    if row.name in ("plain-shortened 2.2", "Selective-Backprop 1.8", "MixTrain + drop 2.2")
)

# Where plain training is saturated. All of plain training's rate: the shortest has as many steps
# as plain training in 38 epochs.
LONG = (
    *(
        replace(row, settings={k: v for k, v in row.settings.items() if k != "lr"})
        for row in RIVALS + MIXTRAIN
        if row not in (*INFOBATCH_MORE, PRUNED)
    ),
    # Whether that is saturated, and what is left of the method there.
    Row("plain, twice as long", PolicyOptions("plain"), 0.5),
    Row("MixTrain 1.8, twice as long", _mixed(1.8), 0.5),
)


@dataclass(frozen=True)
class Preset:
    """A comparison.

    Attributes:
        about: a sentence for the table's head.
        config: the settings of all runs; the seed is set for each.
        rows: what is compared; the first is plain training at full length.
        seeds: so many runs of each row.
        fashion: the splits to take from Fashion-MNIST's original files, where those are the data.
        own_data: the data is the caller's to name.
    """

    about: str
    config: TrainConfig
    rows: tuple[Row, ...] = RIVALS + MIXTRAIN
    seeds: int = 3
    fashion: Mapping[str, tuple[str, slice]] = field(default_factory=dict)
    own_data: bool = False


SMALL = TrainConfig(model="resnet8", epochs=38, batch_size=128, size=28, val_split="test")
# Settings are chosen on "val", which no run trains on; "test" is read for the table.
FASHION_PART = {
    "train": ("train", slice(0, 2000)),
    "val": ("train", slice(2000, 4000)),
    "test": ("t10k", slice(None)),
}
FASHION_ALL = {"train": ("train", slice(None)), "test": ("t10k", slice(None))}

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "10,000 embedded images, a few epochs: shows that the command works, not what is better",
        replace(SMALL, epochs=6),
        rows=(PLAIN, Row("plain-shortened 1.6", PolicyOptions("plain"), 1.6), MIXTRAIN[0]),
        seeds=1,
    ),
    "fashion": Preset(
        "20,000 training and all 10,000 test images",
        SMALL,
        rows=RIVALS + MIXTRAIN + AS_PLAIN,
        fashion=FASHION_PART,
    ),
    "fashion-choice": Preset(
        "settings tried at 1.8 times fewer inputs, on 20,000 validation images",
        replace(SMALL, val_split="val"),
        rows=CHOICES,
        seeds=1,
        fashion=FASHION_PART,
    ),
    "fashion-choice-2.2": Preset(
        "settings tried at 2.2 times fewer inputs, on 20,000 validation images",
        replace(SMALL, val_split="val"),
        rows=CHOICES_22,
        seeds=1,
        fashion=FASHION_PART,
    ),
    "fashion-variants": Preset(
        "6,000 training and 20,000 validation images; optimisers and models beside their own plain",
        replace(SMALL, val_split="val", epochs=24),
        rows=VARIANTS,
        seeds=1,
        fashion={**FASHION_PART, "train": ("train", slice(0, 600))},
    ),
    "fashion-long": Preset(
        "20,000 training and all 10,000 test images, twice the epochs",
        replace(SMALL, epochs=2 * SMALL.epochs),
        rows=LONG,
        fashion=FASHION_PART,
    ),
    "fashion-full": Preset(
        "all 60,000 training and 10,000 test images",
        SMALL,
        rows=(PLAIN, Row("plain-shortened 1.8", PolicyOptions("plain"), 1.8), MIXTRAIN[1]),
        seeds=1,
        fashion=FASHION_ALL,
    ),
    "cifar10": Preset(
        "CIFAR-10 as an image folder",
        replace(SMALL, model="resnet20", epochs=200, size=32, val_split=None),
        own_data=True,
    ),
    "imagenet": Preset(
        "ImageNet as an image folder",
        TrainConfig(
            model="resnet50",
            epochs=90,
            batch_size=256,
            size=224,
            # The usual one (Goyal et al., 2017), with their five epochs to get there.
            lr=0.1,
            warmup=5 / 90,
            label_smoothing=0.1,
            weight_decay=5e-5,
            device="cuda",
            precision="bfloat16",
        ),
        seeds=1,
        own_data=True,
    ),
}


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
        known: runs of before, from :func:`known_runs`; they are not run again.
        finished: only what was run before: no run is begun.
        jobs: runs side by side, each in a process of its own with its part of the cores. What the
            clock says of them then compares nothing.
        in_turns: the runs of a seed take turns, an epoch each, so that a machine that is slower at
            times is so for all of them, and seconds compare. All of them are in memory.
        progress: show a progress bar.

    Returns:
        The runs: a `RunSummary`'s values and settings, with ``row`` and ``seed``.

    Raises:
        ValueError: ``only`` names a row that the preset has not, or ``data`` is missing.
    """
    if preset.own_data and data is None:
        raise ValueError(f"data: expected the folder of {preset.about}; pass --data PATH")
    rows = [row for row in preset.rows if not only or row.name in only]
    unknown = set(only) - {row.name for row in preset.rows}
    if unknown:
        names = ", ".join(row.name for row in preset.rows)
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
    work = []
    for seed in range(seeds or preset.seeds):
        for row in rows:
            epochs = max(1, round(config.epochs / row.shortened))
            settings = replace(config, seed=seed, epochs=epochs, eval_every=epochs, **row.settings)
            work.append((row, settings))
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
    return [run for run in runs if run is not None]


def known_runs(file: str | os.PathLike[str]) -> list[Run]:
    """The runs that an earlier results file holds; none where there is no such file."""
    path = Path(file)
    if not path.is_file():
        return []
    return [run for row in json.loads(path.read_text())["rows"] for run in row["runs"]]


def summarise(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table row for each way of training: means and standard deviations over its seeds."""
    rows = []
    full = _full_inputs(runs)
    for name in dict.fromkeys(run["row"] for run in runs):
        same = [run for run in runs if run["row"] == name]
        accuracies = [100 * run["accuracy"] for run in same]
        inputs = statistics.fmean(run["network_inputs"] for run in same)
        rows.append(
            {
                "name": name,
                "seeds": len(same),
                "accuracy": statistics.fmean(accuracies),
                "deviation": statistics.stdev(accuracies) if len(same) > 1 else None,
                "network_inputs": inputs,
                "saved": None if full is None else full / inputs,
                "commits": sorted({str(run["meta"]["commit"]) for run in same}),
                "trained_on": sorted({_machine(run["meta"]["hardware"]) for run in same}),
                "by_class": _class_means([run.get("by_class") or {} for run in same]),
                "decoded": _mean_if_known(run.get("decoded") for run in same),
                "runs": same,
                **{
                    key: statistics.fmean(run[key] for run in same)
                    for key in (
                        "steps",
                        "seconds",
                        "cpu_seconds",
                        "wait_seconds",
                        "images_per_second",
                    )
                },
            }
        )
    return rows


def _mean_if_known(values: Iterable[float | None]) -> float | None:
    """The mean; None where it is not known of all, as of old runs."""
    known = list(values)
    return None if None in known else statistics.fmean(value or 0.0 for value in known)


def _class_means(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each class, in per cent; nothing where a run does not tell."""
    if not all(runs):
        return {}
    return {name: 100 * statistics.fmean(run[name] for run in runs) for name in runs[0]}


def _machine(hardware: Mapping[str, Any]) -> str:
    return str(hardware["gpu"] or f"{hardware['cores']} cores of {hardware['cpu']}")


def method_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The figures that the method is judged by, of those rows that were run.

    Seconds on the clock are compared only of runs that had a machine to themselves.
    """
    by_name = {row["name"]: row for row in rows}

    def gap(name: str, other: str) -> float:
        return float(by_name[name]["accuracy"] - by_name[other]["accuracy"])

    def spread(*names: str) -> float:
        """What seeds alone do to either."""
        return max(by_name[name]["deviation"] or 0.0 for name in names)

    figures = []
    for one, other, goal in (  # without a goal: more than the seeds' spread
        ("MixTrain 1.8", "plain", ">= -0.3"),
        ("MixTrain 1.8", "plain-shortened 1.8", None),
        ("MixTrain 1.8", "InfoBatch 1.8", ">= 0.0"),
        ("MixTrain 1.6", "plain", ">= -0.15"),
        ("MixTrain 1.6", "plain-shortened 1.6", None),
        ("MixTrain + drop 2.2", "plain", ">= -0.3"),
        ("MixTrain + drop 2.2", "plain-shortened 2.2", None),
        ("MixTrain + drop 2.2", "InfoBatch 2.2", ">= 0.0"),
    ):
        if one in by_name and other in by_name:
            name = f"{one} minus {other}, points of accuracy"
            goal = goal or f">= {spread(one, other):.2f}"
            figures.append(Figure(name, gap(one, other), goal))
    for row in rows:
        if row["name"].startswith("MixTrain") and "plain" in by_name:
            for key, name, most in (("seconds", "seconds", 1), ("cpu_seconds", "CPU seconds", 99)):
                ratios = _shares_kept(by_name["plain"]["runs"], row["runs"], key, most)
                if ratios:
                    name = f"{row['name']}: speed-up in {name} over that in network inputs"
                    figures.append(Figure(name, statistics.median(ratios), ">= 0.9"))
    return figures


def _shares_kept(plain: Sequence[Run], mixed: Sequence[Run], key: str, most: int) -> list[float]:
    """By seed, the speed-up in ``key`` over that in network inputs.

    Of runs that were made alike: on the same kind of machine, as many side by side, at most
    ``most``, in turns or not, decoded images cached or not. What was not noted, as in old results,
    is compared with nothing.
    """
    by_seed = {run["seed"]: run for run in plain}
    pairs = [(by_seed[run["seed"]], run) for run in mixed if run["seed"] in by_seed]
    return [
        a[key] / b[key] / (a["network_inputs"] / b["network_inputs"])
        for a, b in pairs
        if _made(a) == _made(b) and (a.get("side_by_side") or most + 1) <= most
    ]


def _made(run: Run) -> tuple[Any, ...]:
    """How and on what, as far as seconds depend on it; old runs had no cache and took no turns."""
    how = run.get("side_by_side"), run.get("in_turns", False), run.get("cached", False)
    return *how, _machine(run["meta"]["hardware"])


def draw(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw accuracy against cost into a PNG file; bars are one standard deviation.

    Rows are numbered from the best. One that would cover another is set aside.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(9, max(4.5, 1 + 0.26 * len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    styles = {"plain": ("o", "black"), "MixTrain": ("D", "tab:orange")}
    full = _full_inputs([{"row": row["name"], **row} for row in rows]) or 1.0
    ranked = sorted(rows, key=lambda row: -row["accuracy"])
    shares = [row["network_inputs"] / full for row in ranked]
    reach = [row["deviation"] or 0.0 for row in ranked]
    places = _apart(shares, [row["accuracy"] for row in ranked], reach)
    for number, (row, share, place) in enumerate(zip(ranked, shares, places, strict=True), 1):
        family = row["name"].split()[0].split("-")[0].rstrip(",")
        marker, colour = styles.get(family, ("s", "tab:blue"))
        if place != share:
            axes.plot([share, place], [row["accuracy"]] * 2, ":", color=colour, linewidth=1)
        axes.errorbar(
            place,
            row["accuracy"],
            yerr=row["deviation"] or 0.0,
            fmt=marker,
            color=colour,
            capsize=3,
            label=f"{number:\N{FIGURE SPACE}>2}  {row['name']}",
        )
        axes.annotate(
            str(number),
            (place, row["accuracy"] + (row["deviation"] or 0.0)),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=colour,
        )
    axes.margins(x=0.08, y=0.08)
    moved = (
        ";\nwhat would overlap is set aside, a dotted line leads to its place"
        if places != shares
        else ""
    )
    axes.set_xlabel(f"network inputs, as a share of plain training's{moved}")
    axes.set_ylabel("accuracy %")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    with open_beside(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _apart(
    places: Sequence[float], heights: Sequence[float], reach: Sequence[float]
) -> list[float]:
    """The places, moved by as little as keeps marks, bars and the numbers on them apart.

    Args:
        places: of the marks, along x.
        heights: of the marks, along y.
        reach: of each bar, above and below its mark.
    """
    width = 0.032 * (max(places) - min(places) or 1.0)  # of a mark and of a number
    line = 0.05 * (max(map(add, heights, reach)) - min(map(sub, heights, reach)) or 1.0)
    bars = [
        (height - max(line / 2, bar), height + max(line / 2, bar) + line)
        for height, bar in zip(heights, reach, strict=True)
    ]
    moved: list[float] = []
    for (low, high), place in zip(bars, places, strict=True):
        beside = [x for x, (a, b) in zip(moved, bars, strict=False) if low < b and a < high]
        tries = (place + side * n * width for n in itertools.count() for side in (1, -1))
        moved.append(next(x for x in tries if all(abs(x - y) >= 0.9 * width for y in beside)))
    return moved


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
            for metrics in trainer.epochs():
                yield (metrics.epoch + 1) / config.epochs
            run = {"key": key, "seed": config.seed, **asdict(trainer.summary()), **settings}
            run["evaluations"] = {
                split: {"accuracy": run.pop("accuracy"), "by_class": run.pop("class_accuracy")}
            }
            run["meta"] = environment(f"mixpipe bench method, run {path.stem}")
            run["side_by_side"], run["in_turns"] = jobs, in_turns
            run["cached"] = trainer.loader.cache
            folder.mkdir(parents=True, exist_ok=True)
            with open_beside(weights) as file:
                torch.save(trainer.network.state_dict(), file)
    finally:
        trainer.close()
    write_json(path, run)
    # As it was written.
    return (
        yield from _run(
            row,
            config,
            folder=folder,
            known=known,
            finished=finished,
            jobs=jobs,
            in_turns=in_turns,
            progress=progress,
        )
    )


def _key(config: TrainConfig, options: PolicyOptions) -> str:
    """The same for runs that learn the same, wherever the data lies and what they are judged on.

    Only what differs from the defaults counts: a new setting leaves old runs known.
    """
    here = replace(config, data=Path(config.data).name, val_split=None, threads=None, cache=None)
    parts = [(asdict(here), asdict(TrainConfig())), (asdict(options), asdict(PolicyOptions()))]
    changed = [{k: v for k, v in given.items() if v != usual[k]} for given, usual in parts]
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def _full_inputs(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Network inputs of plain training at full length; None where it was not run."""
    full = [run["network_inputs"] for run in runs if run["row"] == PLAIN.name]
    return statistics.fmean(full) if full else None


def _fashion_tar(folder: str, splits: Mapping[str, tuple[str, slice]]) -> str:
    """The tar of these splits in the cache folder, made when it is not there."""
    key = hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()[:12]
    path = Path(platformdirs.user_cache_dir("mixpipe")) / f"fashion-mnist-{key}.tar"
    if not path.exists():
        with open_beside(path) as file:
            file.write(build_tar(folder, splits))
    return str(path)
