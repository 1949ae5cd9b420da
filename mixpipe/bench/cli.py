"""The commands below ``mixpipe bench``."""

from __future__ import annotations

import os
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mixpipe.bench import kernels, method, page, plan
from mixpipe.bench.corpus import make_corpus
from mixpipe.bench.loader import compare_loaders, loader_figures
from mixpipe.bench.outcome import method_figures, summarise
from mixpipe.bench.parts import PARTS, time_parts
from mixpipe.bench.plots import draw_method
from mixpipe.bench.presets import PRESETS
from mixpipe.bench.rivals import Settings
from mixpipe.bench.steady import steady_figures, watch_epochs
from mixpipe.report import Figure, write_report

__all__ = ["JsonFile", "bench", "console", "print_figures"]

bench = typer.Typer(no_args_is_help=True, help="Measure, against everything else.")
PAGES = [Path("docs/benchmarks.md"), Path("docs/method.md")]
# Wide enough for the tables where there is no terminal to ask.
console = Console(highlight=False, soft_wrap=True, width=max(get_terminal_size().columns, 110))


def _to_be_written(file: Path | None) -> Path | None:
    """Says that it cannot be before hours of work and not after them."""
    if file is not None:
        there = next(folder for folder in file.absolute().parents if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise typer.BadParameter(f"{file} cannot be written: {there} is no writable folder")
    return file


JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", dir_okay=False, callback=_to_be_written, help="Also write the results here."
    ),
]


@bench.command("method")
def method_command(
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "quick",
    data: Annotated[
        str | None, typer.Option(help="Image folder, or Fashion-MNIST's original files.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of finished runs (default: runs/method-PRESET).")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run (default: all).")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs of each row (default: the preset's).")
    ] = None,
    val_split: Annotated[
        str | None, typer.Option(help="Evaluate on this split (default: the preset's).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: the preset's).")] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Begin no run: the table of those that are done.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Runs side by side, on parts of the cores.")] = 1,
    in_turns: Annotated[
        bool, typer.Option("--in-turns", help="Runs of a seed take turns: their seconds compare.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train by MixTrain and by its rivals, at equal cost, over seeds; goes on where it stopped."""
    if preset not in PRESETS:
        raise ValueError(f"--preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
    chosen, folder = PRESETS[preset], runs or Path("runs") / f"method-{preset}"
    done = method.run_preset(
        chosen,
        folder,
        data=data,
        only=only or (),
        seeds=seeds,
        val_split=val_split,
        device=device,
        known=method.known_runs(json_file) if json_file else (),
        finished=finished,
        jobs=jobs,
        in_turns=in_turns,
        progress=console.is_terminal,
    )
    if not done:
        raise ValueError(f"--finished: no run of preset {preset!r} is done in {folder}")
    rows = summarise(done)
    figures = method_figures(rows)
    columns = (
        *("way", "accuracy %", "±", "network inputs", "saved", "steps", "seconds"),
        *("images/s", "decoded/s", "seeds"),
    )
    table = Table(*columns, title=chosen.about)
    for row in rows:
        deviation = "" if row["deviation"] is None else f"{row['deviation']:.2f}"
        table.add_row(
            row["name"],
            f"{row['accuracy']:.2f}",
            deviation,
            f"{row['network_inputs']:.0f}",
            "" if row["saved"] is None else f"{row['saved']:.2f}×",
            f"{row['steps']:.0f}",
            f"{row['seconds']:.0f}",
            f"{row['images_per_second']:.0f}",
            "" if row["decoded"] is None else f"{row['decoded'] / row['seconds']:.0f}",
            str(row["seeds"]),
        )
    console.print(table)
    print_figures(figures)
    if json_file is not None:
        write_report(json_file, rows, figures)
        draw_method(json_file.with_suffix(".png"), rows, chosen.about)
        console.print(f"written to {json_file} and {json_file.with_suffix('.png')}")


@bench.command("plan")
def plan_command(
    largest: Annotated[int, typer.Option(help="Samples of the largest plan.")] = 10**8,
    json_file: JsonFile = None,
) -> None:
    """Make plans of 10,000 samples and more: time and memory of every policy."""
    rows = plan.run_plans(plan.sizes_up_to(largest), progress=console.is_terminal)
    rows += plan.time_batches(min(largest, plan.IMAGENET))
    table = Table("policy", "samples", "seconds", "ns a sample", "peak bytes a sample")
    for row in rows:
        if "policy" in row:
            table.add_row(
                row["policy"],
                f"{row['samples']:,}",
                f"{row['seconds']:.3g}",
                f"{row['nanoseconds_per_sample']:.0f}",
                f"{row['peak_bytes_per_sample']:.1f}",
            )
    console.print(table)
    figures = plan.plan_figures(rows)
    print_figures(figures)
    if json_file is not None:
        write_report(json_file, rows, figures)
        console.print(f"written to {json_file}")


@bench.command("kernels")
def kernels_command(
    device: Annotated[str, typer.Option(help="cpu, or cuda: timed with events.")] = "cpu",
    full: Annotated[bool, typer.Option("--full", help="Every dtype, layout, k and batch.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Try torch.compile too.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way.")] = 7,
    json_file: JsonFile = None,
) -> None:
    """Time the kernels beside torch, timm, torchvision and kornia, and beside a plain copy."""
    rows = kernels.run_kernels(
        device=device, full=full, compiled=compiled, rounds=rounds, progress=console.is_terminal
    )
    for case in dict.fromkeys(row["case"] for row in rows):
        columns = ("way", "ms", "CPU ms", "GPU ms", "GB/s", "of a copy", "× mixpipe's time")
        table = Table(*columns, title=case)
        for row in rows:
            if row["case"] == case:
                on_gpu, share = row.get("device_ms"), row["copy_share"]
                table.add_row(
                    row["way"],
                    f"{row['wall_ms']['median']:.3f}",
                    f"{row['cpu_ms']['median']:.3f}",
                    f"{on_gpu['median']:.4f}" if on_gpu else "",
                    f"{row['gb_per_s']:.2f}" if share else "",
                    f"{share['median']:.2f}" if share else "",
                    "{median:.2f} ({least:.2f}–{most:.2f})".format(**row["ratio"]),
                )
        console.print(table)
    missing = kernels.missing_libraries()
    if missing:
        console.print(f"not installed, so left out: {', '.join(missing)}")
    figures = kernels.kernel_figures(rows)
    print_figures(figures)
    if json_file is not None:
        write_report(json_file, rows, figures)
        console.print(f"written to {json_file}")


@bench.command("loader")
def loader_command(
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Folder of photographs (default: the system's wallpapers, else scikit-image's)."
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="JPEGs to make of them.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Timed epochs of each loader.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads or workers of each loader.")] = 2,
    times: Annotated[int, typer.Option(help="An epoch has the JPEGs so many times.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda: outputs are wanted there.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(help="Rows to measure (default: all).")] = None,
    json_file: JsonFile = None,
) -> None:
    """Time loaders from JPEGs to batches, interleaved, in CPU time and throughput."""
    rows = compare_loaders(
        photos=photos,
        images=images,
        rounds=rounds,
        threads=threads,
        times=times,
        device=device,
        only=only or (),
        progress=console.is_terminal,
    )
    whole = not only and device == "cpu"
    if whole:
        settings = Settings(make_corpus(photos, images), threads=threads)
        rows += watch_epochs(settings, progress=console.is_terminal)
        rows += time_parts(settings, rounds, progress=console.is_terminal)
    columns = ("CPU ms/output", "CPU ms/image", "outputs/s", "images/s", "peak MiB")
    for kind in ("plain", "composites"):
        table = Table(kind, *columns, "CPU ratio", "speed ratio")
        for row in rows:
            if row["kind"] == kind:
                table.add_row(row["name"], *_loader_cells(row))
        console.print(table)
    if whole:
        table = Table("CPU ms of a composite of", *PARTS, "in all")
        for row in rows:
            if row["kind"] == "parts":
                costs = (*(row["cpu_ms_of"][part] for part in PARTS), row["cpu_ms"])
                table.add_row(row["name"], *(f"{cost['median']:.3f}" for cost in costs))
        console.print(table)
    figures = loader_figures(rows, device)
    if whole:
        figures += steady_figures(rows)
    print_figures(figures)
    if json_file is not None:
        write_report(json_file, rows, figures)
        console.print(f"written to {json_file}")


def _loader_cells(row: dict[str, Any]) -> list[str]:
    if "note" in row:
        return [row["note"]]
    ratios = [row[name] for name in ("cpu_ratio", "speed_ratio") if name in row]
    return [
        f"{row['cpu_ms_per_output']:.2f}",
        f"{row['cpu_ms_per_image']:.2f}",
        f"{row['outputs_per_s']:.0f}",
        f"{row['images_per_s']:.0f}",
        f"{row['peak_mib']:.0f}",
        *("{median:.2f} ({least:.2f}–{most:.2f})".format(**ratio) for ratio in ratios),
    ]


@bench.command("report")
def report_command(
    files: Annotated[list[Path], typer.Option("--page", help="The pages.")] = PAGES,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("benchmarks/results"),
    images: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("docs/images"),
) -> None:
    """Rewrite the tables and plots of the pages about benchmarks."""
    for file in files:
        used = page.write_page(file, results, images)
        console.print(f"{file}: {', '.join(used) or 'no results yet'}")


def print_figures(figures: list[Figure]) -> None:
    """A line a figure: its value, its goal, and whether that is met."""
    for figure in figures:
        met = {None: "", True: ", met", False: ", [red]missed[/]"}[figure.met]
        goal = f" (goal {figure.goal}{met})" if figure.goal else ""
        console.print(f"{figure.name}: {figure.value:.3g}{goal}")
