"""What came of the runs of `mixpipe bench method`: a row a way of training, and the figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixpipe.bench.presets import PLAIN
from mixpipe.report import Figure

__all__ = ["method_figures", "summarise"]

Run = Mapping[str, Any]


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
        # Without what floats make of a difference of nothing.
        return round(float(by_name[name]["accuracy"] - by_name[other]["accuracy"]), 6)

    def beyond_seeds(*names: str) -> str | None:
        """More than what seeds alone do to either; None where one has a single seed."""
        deviations = [by_name[name]["deviation"] for name in names]
        return None if None in deviations else f">= {max(deviations):.2f}"

    figures = []
    goals = (  # without a goal: more than the seeds' spread
        ("MixTrain 1.8", "plain", ">= -0.3"),
        ("MixTrain 1.8", "plain-shortened 1.8", None),
        ("MixTrain 1.8", "InfoBatch 1.8", ">= 0.0"),
        ("MixTrain 1.6", "plain", ">= -0.15"),
        ("MixTrain 1.6", "plain-shortened 1.6", None),
        ("MixTrain + drop 2.2", "plain", ">= -0.3"),
        ("MixTrain + drop 2.2", "plain-shortened 2.2", None),
        ("MixTrain + drop 2.2", "InfoBatch 2.2", ">= 0.0"),
    )
    for one, other, goal in (*goals, *((f"{one}, tapered", *rest) for one, *rest in goals)):
        if one in by_name and other in by_name:
            name = f"{one} minus {other}, points of accuracy"
            figures.append(Figure(name, gap(one, other), goal or beyond_seeds(one, other)))
    for row in rows:
        if row["name"].startswith("MixTrain") and "plain" in by_name:
            for key, unit in (("seconds", "seconds"), ("cpu_seconds", "CPU seconds")):
                alone = key == "seconds"
                ratios = _shares_kept(by_name["plain"]["runs"], row["runs"], key, alone=alone)
                if ratios:
                    name = f"{row['name']}: speed-up in {unit} over that in network inputs"
                    figures.append(Figure(name, statistics.median(ratios), ">= 0.9"))
    return figures


def _shares_kept(
    plain: Sequence[Run], mixed: Sequence[Run], key: str, *, alone: bool
) -> list[float]:
    """By seed, the speed-up in ``key`` over that in network inputs.

    Of runs that were made alike: on the same kind of machine, as many side by side (one, where they
    must have been ``alone``), in turns or not, decoded images cached or not. What was not noted, as
    in old results, is compared with nothing.
    """
    by_seed = {run["seed"]: run for run in plain}
    pairs = [(by_seed[run["seed"]], run) for run in mixed if run["seed"] in by_seed]
    return [
        a[key] / b[key] / (a["network_inputs"] / b["network_inputs"])
        for a, b in pairs
        if _made(a) == _made(b) and (a.get("side_by_side") == 1 if alone else a.get("side_by_side"))
    ]


def _made(run: Run) -> tuple[Any, ...]:
    """How and on what, as far as seconds depend on it; old runs had no cache and took no turns."""
    how = run.get("side_by_side"), run.get("in_turns", False), run.get("cached", False)
    return *how, _machine(run["meta"]["hardware"])


def _full_inputs(runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Network inputs of plain training at full length; None where it was not run."""
    full = [run["network_inputs"] for run in runs if run["row"] == PLAIN.name]
    return statistics.fmean(full) if full else None
