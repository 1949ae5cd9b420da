"""The plots of the docs: each from the rows of a results file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import add, sub
from pathlib import Path
from typing import Any

from mixpipe.bench import rounds
from mixpipe.bench.parts import PARTS
from mixpipe.bench.presets import PLAIN
from mixpipe.report import open_beside

__all__ = ["draw_kernels", "draw_loader", "draw_method", "draw_plan"]

Row = Mapping[str, Any]

# A dozen that can be told apart.
_COLOURS = (*(f"C{number}" for number in range(10)), "black", "navy")
# Of plain training's inputs; marked on the axis.
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4)


def draw_plan(path: Path, rows: Sequence[Row], title: str) -> None:
    """CPU nanoseconds a sample against samples, a line a policy."""
    plans = [row for row in rows if "policy" in row]
    policies = dict.fromkeys(row["policy"] for row in plans)
    with _canvas(path, (9, 5)) as figure:
        axes = figure.subplots()
        for policy, colour, marker in zip(
            policies, itertools.cycle(_COLOURS), itertools.cycle("osD^v"), strict=False
        ):
            line = [row for row in plans if row["policy"] == policy]
            axes.plot(
                [row["samples"] for row in line],
                [1e9 * row["cpu_seconds"] / row["samples"] for row in line],
                f"{marker}-",
                color=colour,
                label=policy,
            )
        axes.set_xscale("log")
        axes.set(xlabel="samples", ylabel="CPU nanoseconds a sample")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)


def draw_kernels(path: Path, rows: Sequence[Row], title: str) -> None:
    """How many times mixpipe's time each way takes, a panel a case."""
    rivals = [row for row in rows if row["way"] not in ("mixpipe", "reference")]
    cases = [
        [row for row in rivals if row["case"] == case]
        for case in dict.fromkeys(row["case"] for row in rivals)
    ]
    lines = [len(case) + 1 for case in cases]  # one for the panel's title
    colours = {
        "torch eager": "tab:blue",
        "torch.compile": "tab:purple",
        "copy of as many bytes": "tab:gray",
    }
    with _canvas(path, (9, 1 + 0.23 * sum(lines))) as figure:
        panels = figure.subplots(
            len(cases),
            sharex=True,
            squeeze=False,
            height_ratios=lines,
            subplot_kw={"xscale": "log"},
        )
        for axes, case in zip(panels.flat, cases, strict=True):
            for place, row in enumerate(case):
                colour = colours.get(row["way"].split(",")[0], "tab:green")
                median, most = row["ratio"]["median"], row["ratio"]["most"]
                # From 1: a log scale has no zero to begin at.
                axes.barh(place, median - 1, left=1, xerr=_reach(row["ratio"]), color=colour)
                axes.annotate(
                    f"{median:.3g}",
                    (max(most, 1), place),
                    (5, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    fontsize=9,
                )
            axes.set_yticks(range(len(case)), [row["way"] for row in case], fontsize=9)
            axes.set_ylim(len(case) - 0.5, -0.5)  # the first on top
            axes.set_title(case[0]["case"], fontsize=9, fontweight="bold", loc="left")
            axes.axvline(1, color="black", linewidth=0.8)
            axes.margins(x=0.12)
            axes.grid(alpha=0.3, axis="x")
            axes.set_axisbelow(True)
        panels.flat[-1].xaxis.set_major_formatter("{x:g}")
        panels.flat[-1].set_xlabel("time over mixpipe's: median, least and most")


def draw_loader(path: Path, rows: Sequence[Row], title: str) -> None:
    """CPU milliseconds an output and outputs a second, with what the rounds spread over; parts."""
    measured = [row for row in rows if "cpu_ms_per_output" in row]
    names = [f"{row['kind']}: {row['name']}" for row in measured]
    split = [row for row in rows if row["kind"] == "parts"]
    lines = [3 + len(measured), *([4 + len(split)] if split else [])]
    with _canvas(path, (9, 0.27 * sum(lines))) as figure:
        above, *below = figure.subfigures(len(lines), height_ratios=lines, squeeze=False)[:, 0]
        both = above.subplots(ncols=2, sharey=True)
        for axes, key, label in zip(
            both,
            ("cpu_ms_per_output", "outputs_per_s"),
            ("CPU milliseconds an output", "outputs/s"),
            strict=True,
        ):
            for place, row in enumerate(measured):
                colour = "tab:orange" if row["name"].startswith("mixpipe") else "tab:blue"
                spread = rounds.spread([each[key] for each in row["rounds"]])
                axes.barh(place, spread["median"], xerr=_reach(spread), color=colour)
            axes.set_xlabel(label)
            axes.grid(alpha=0.3, axis="x")
            axes.set_axisbelow(True)
        both[0].set_yticks(range(len(measured)), names, fontsize=9)
        both[0].set_ylim(len(measured) - 0.4, -0.6)  # the first on top
        above.supxlabel("median, least and most of the rounds", fontsize=9)
        for panel in below:
            _draw_parts(panel.subplots(), split)


def _draw_parts(axes: Any, rows: Sequence[Row]) -> None:
    """What the CPU time of a composite is made of."""
    reached = [0.0] * len(rows)
    for part in PARTS:
        widths = [row["cpu_ms_of"][part]["median"] for row in rows]
        axes.barh(range(len(rows)), widths, left=reached, label=part)
        reached = [left + width for left, width in zip(reached, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [f"composite of {row['name']}" for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("CPU milliseconds a composite, by part")
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.legend(fontsize=9, frameon=False)


def draw_method(path: Path, rows: Sequence[Row], title: str) -> None:
    """Draw accuracy against cost into a PNG file; bars are one standard deviation.

    Rows are numbered from the best, and hollow where they have fewer seeds than others. One that
    would cover another is set aside. Cost has a logarithmic scale: half as much is as far anywhere.
    """
    full = next((row["network_inputs"] for row in rows if row["name"] == PLAIN.name), None)
    seeds = max(row["seeds"] for row in rows)
    ranked = sorted(rows, key=lambda row: -row["accuracy"])
    shares = [row["network_inputs"] / (full or 1) for row in ranked]
    reach = [row["deviation"] or 0.0 for row in ranked]
    logs = [math.log(share) for share in shares]
    apart = _apart(logs, [row["accuracy"] for row in ranked], reach)
    places = [
        share if log == place else math.exp(place)
        for share, log, place in zip(shares, logs, apart, strict=True)
    ]
    with _canvas(path, (9, max(4.5, 1 + 0.26 * len(rows)))) as figure:
        axes = figure.subplots()
        for number, (row, share, place) in enumerate(zip(ranked, shares, places, strict=True), 1):
            marker, colour = _style(row)
            few = row["seeds"] < seeds
            of_few = f" ({row['seeds']} seed{'s' * (row['seeds'] > 1)})" if few else ""
            if place != share:
                axes.plot([share, place], [row["accuracy"]] * 2, ":", color=colour, linewidth=1)
            axes.errorbar(
                place,
                row["accuracy"],
                yerr=row["deviation"] or 0.0,
                fmt=marker,
                color=colour,
                markerfacecolor="white" if few else colour,
                capsize=3,
                label=f"{number:\N{FIGURE SPACE}>2}  {row['name']}{of_few}",
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
        axes.set_xscale("log")
        axes.margins(x=0.08, y=0.08)
        if full is not None:
            least, most = axes.get_xlim()
            axes.set_xticks([share for share in _SHARES if least <= share <= most])
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        moved = (
            ";\nwhat would overlap is set aside, a dotted line leads to its place"
            if places != shares
            else ""
        )
        of_plain = "" if full is None else ", as a share of plain training's"
        axes.set_xlabel(f"network inputs{of_plain}{moved}")
        axes.set_ylabel("accuracy %")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)


def _style(row: Row) -> tuple[str, str]:
    """Marker and colour: of plain training, of MixTrain, of rivals and a random subset."""
    options = row["runs"][0].get("options", {}) if row.get("runs") else {}
    if options.get("name") == "plain":
        return "o", "black"
    # Other layouts are those of MixUp and CutMix.
    own = options.get("layout") == "default" and options.get("rule") != "random"
    return ("D", "tab:orange") if options.get("name") == "mixtrain" and own else ("s", "tab:blue")


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


def _reach(spread: Row) -> list[list[float]]:
    """How far a bar's whiskers go, down and up."""
    median = spread["median"]
    return [[median - spread["least"]], [spread["most"] - median]]


@contextmanager
def _canvas(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure to draw in; it is written to ``path`` when the block ends well."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with open_beside(path) as file:
        figure.savefig(file, format="png", dpi=120)
