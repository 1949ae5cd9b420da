"""The command line: ``mixpipe train``, ``show``, ``profile``, ``bench``, ``doctor``."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Column, Table

from mixpipe import __version__
from mixpipe.bench import JsonFile, bench, console, print_figures
from mixpipe.decode import DecodeError
from mixpipe.doctor import diagnose
from mixpipe.report import environment, write_report
from mixpipe.train import (
    EpochMetrics,
    PolicyOptions,
    RunSummary,
    TrainConfig,
    Trainer,
    compare,
    comparison_figures,
    make_policy,
    profile,
    show,
)
from mixpipe.train.policies import LAYOUTS

__all__ = ["app", "main"]

logger = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train image networks on composites: several images in one network input.",
)
app.add_typer(bench, name="bench")
Data = Annotated[
    str, typer.Argument(help="'embedded', or a folder with train/CLASS/*.jpg and val/CLASS/*.jpg.")
]
Window = Annotated[
    Literal["cut", "fit"] | None,
    typer.Option(help="Regions show a cut or the whole crop (default: by layout)."),
]
Spread = Annotated[
    float, typer.Option(help="Of a split: how far it may lie from its place, 0 to 0.5.")
]
Skip = Annotated[bool, typer.Option(help="Leave out images that cannot be read.")]
Cache = Annotated[
    bool | None,
    typer.Option(
        "--cache/--no-cache",
        help="Keep decoded images in the device's memory (default: up to 1 GiB).",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder for what the run writes.")]


def main() -> None:
    """Run the command line; an error that its user can mend is a sentence, and exit status 2."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError, DecodeError) as error:
        logger.debug("", exc_info=True)
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixpipe {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_say_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def train(
    data: Data = "embedded",
    *,
    model: Annotated[
        str,
        typer.Option(
            help="resnet8, resnet14, resnet20, mobilenet_small, vit_small; or torchvision's."
        ),
    ] = "resnet8",
    val_split: Annotated[
        str | None,
        typer.Option(help="Folder to evaluate on (default: test embedded, else val)."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training set.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Constituents (or composites) a step.")] = 128,
    size: Annotated[
        int | None, typer.Option(help="Canvas in pixels (default: 28 embedded, else 224).")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, adam, adamw or rmsprop.")] = "sgd",
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate (default: by optimiser).")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Not on biases and norms.")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(help="From 0 to below 1.")] = 0.0,
    warmup: Annotated[
        float, typer.Option(help="Part of the run in which the learning rate rises.")
    ] = 0.1,
    policy: Annotated[
        str, typer.Option(help="mixtrain, plain, mixup, cutmix, infobatch or selective.")
    ] = "mixtrain",
    speedup: Annotated[
        float | None, typer.Option(help="MixTrain: samples over network inputs, of the whole run.")
    ] = None,
    rule: Annotated[
        str, typer.Option(help="MixTrain: who is mixed: mean, quantile, random or hysteresis.")
    ] = "mean",
    threshold: Annotated[float | None, typer.Option(help="MixTrain: the rule's threshold.")] = None,
    leave: Annotated[
        float,
        typer.Option(help="With hysteresis: plain again above so many times the plain mean loss."),
    ] = 1.0,
    k: Annotated[int, typer.Option(help="MixTrain: constituents of a composite, 2 to 4.")] = 2,
    tiers: Annotated[
        str,
        typer.Option(
            help="MixTrain: 'k:threshold,…' for --k and --threshold; --speedup alone: 2:1,4:0.3."
        ),
    ] = "",
    layout: Annotated[str, typer.Option(help=f"MixTrain: {', '.join(LAYOUTS)}.")] = "default",
    window: Window = None,
    spread: Spread = 0.0,
    adaptive: Annotated[bool, typer.Option(help="MixTrain: regions follow losses.")] = False,
    exponent: Annotated[
        float, typer.Option(help="With --adaptive: shares are as the losses to this power.")
    ] = 1.0,
    min_share: Annotated[
        float, typer.Option(help="With --adaptive: least part of the equal share, up to 1.")
    ] = 0.5,
    drop: Annotated[
        float, typer.Option(help="MixTrain: drop this share of the easiest samples.")
    ] = 0.0,
    easiest: Annotated[
        float, typer.Option(help="With --drop: share of the samples that are the easiest.")
    ] = 0.3,
    warmup_epochs: Annotated[int, typer.Option(help="MixTrain: plain epochs first.")] = 1,
    final: Annotated[
        float | None,
        typer.Option(help="Share of the epochs that are plain, last; MixTrain: none by default."),
    ] = None,
    taper: Annotated[
        float | None,
        typer.Option(
            help="MixTrain: share of the epochs over which mixing fades out, by default 0."
        ),
    ] = None,
    pairing: Annotated[
        str,
        typer.Option(help="MixTrain: random, similar (in loss), different-class or same-class."),
    ] = "random",
    weighting: Annotated[
        Literal["area", "each"], typer.Option(help="MixTrain: area, or each alike.")
    ] = "area",
    batch_by: Annotated[
        Literal["constituents", "composites"],
        typer.Option(help="MixTrain: what --batch-size counts: constituents or composites."),
    ] = "constituents",
    seed: Annotated[int, typer.Option(help="Of the plan, the weights and all else.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    decode_device: Annotated[
        str | None, typer.Option(help="cpu: decode there for a GPU (default: the device).")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    threads: Annotated[
        int | None, typer.Option(help="Decoding threads (default: one a core).")
    ] = None,
    skip_unreadable: Skip = False,
    cache: Cache = None,
    separate: Annotated[
        bool, typer.Option(help="Classify each region by itself, or the composite as a whole.")
    ] = True,
    eval_every: Annotated[int, typer.Option(help="Epochs between evaluations.")] = 1,
    output: Output = Path("runs/train"),
    resume: Annotated[Path | None, typer.Option(help="Continue from this checkpoint.")] = None,
    compare_plain: Annotated[
        bool, typer.Option("--compare", help="Also train plain: at full length, and at equal cost.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train a network on composites."""
    config = TrainConfig(
        data=data,
        val_split=val_split,
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        size=size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        warmup=warmup,
        seed=seed,
        device=device,
        decode_device=decode_device,
        precision=precision,
        threads=threads,
        skip_unreadable=skip_unreadable,
        cache=cache,
        separate=separate,
        eval_every=eval_every,
    )
    options = PolicyOptions(
        name=policy,
        speedup=speedup,
        rule=rule,
        threshold=threshold,
        leave=leave,
        tiers=_parse_tiers(tiers),
        k=k,
        layout=layout,
        window=window,
        spread=spread,
        adaptive=adaptive,
        exponent=exponent,
        min_share=min_share,
        drop=drop,
        easiest=easiest,
        warmup_epochs=warmup_epochs,
        final=final,
        taper=taper,
        pairing=pairing,
        weighting=weighting,
        batch_by=batch_by,
    )
    made = make_policy(options, epochs, config.train_labels)
    progress = console.is_terminal
    if compare_plain:
        if resume is not None:
            raise ValueError("--resume: continues one run; leave out --compare")
        runs = compare(
            config, made, name=policy, output=output, progress=progress, on_epoch=_print_epoch
        )
    else:
        trainer = Trainer(config, made, output=output, name=policy, progress=progress)
        if resume is not None:
            trainer.resume(resume)
        elif trainer.checkpoint is not None and trainer.checkpoint.exists():
            logger.warning(
                "%s is of an earlier run, and is written over after the first epoch; --resume "
                "goes on with it, --output names another folder",
                trainer.checkpoint,
            )
        try:
            runs = [trainer.fit(lambda metrics: _print_epoch(policy, metrics))]
        except (DecodeError, OSError, KeyboardInterrupt):  # what does not come again
            if trainer.saved:
                typer.echo(
                    f"stopped; go on with the same command and --resume {trainer.checkpoint}"
                )
            raise
        finally:
            trainer.close()
    _print_runs(runs)
    figures = comparison_figures(runs) if compare_plain else []
    print_figures(figures)
    console.print(f"written to {output}")
    if json_file is not None:
        write_report(json_file, [asdict(run) for run in runs], figures)


@app.command("show")
def show_command(
    data: Data = "embedded",
    *,
    size: Annotated[
        int | None, typer.Option(help="Canvas in pixels (default: 28 embedded, else 224).")
    ] = None,
    k: Annotated[int, typer.Option(help="Constituents of a composite, 2 to 4.")] = 2,
    layout: Annotated[str, typer.Option(help=f"One of {', '.join(LAYOUTS)}.")] = "default",
    window: Window = None,
    spread: Spread = 0.0,
    pairing: Annotated[str, typer.Option(help="random, different-class or same-class.")] = "random",
    seed: Annotated[int, typer.Option(help="Shows others.")] = 0,
    skip_unreadable: Skip = False,
    output: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("composites.png"),
) -> None:
    """Draw composites of anybody's data."""
    config = TrainConfig(
        data=data, size=size, seed=seed, skip_unreadable=skip_unreadable, cache=False
    )
    options = PolicyOptions(k=k, layout=layout, window=window, spread=spread, pairing=pairing)
    show(config, options, output)
    console.print(f"written to {output}")


@app.command("profile")
def profile_command(
    data: Data = "embedded",
    *,
    model: Annotated[str, typer.Option(help="As of `mixpipe train`.")] = "resnet8",
    batch_size: Annotated[int, typer.Option(help="Constituents a step.")] = 128,
    size: Annotated[
        int | None, typer.Option(help="Canvas in pixels (default: 28 embedded, else 224).")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Constituents of a composite; 1: plain.")] = 2,
    batches: Annotated[int, typer.Option(min=1, help="Batches to measure.")] = 50,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    decode_device: Annotated[
        str | None, typer.Option(help="cpu: decode there for a GPU (default: the device).")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    threads: Annotated[
        int | None, typer.Option(help="Decoding threads (default: one a core).")
    ] = None,
    cache: Cache = None,
    json_file: JsonFile = None,
) -> None:
    """Say where the time of a training step goes, and what bounds it."""
    config = TrainConfig(
        data=data,
        model=model,
        batch_size=batch_size,
        size=size,
        device=device,
        decode_device=decode_device,
        precision=precision,
        threads=threads,
        cache=cache,
        val_split="train",  # nothing is evaluated, and there need be no other
    )
    options = PolicyOptions(rule="random", threshold=1.0, k=k, warmup_epochs=0)
    policy = make_policy(options if k > 1 else PolicyOptions("plain"), config.epochs)
    trainer = Trainer(config, policy)
    try:
        result = profile(trainer, batches)
    finally:
        trainer.close()
    table = Table("part", "ms a batch", "share", "images/s")
    for name, seconds, share in result.rows:
        speed = result.constituents / max(seconds, 1e-9)
        table.add_row(name, f"{1000 * seconds:.2f}", f"{share:.0%}", f"{speed:.0f}")
    console.print(table)
    console.print(
        f"{result.composites:.0f} composites of {result.constituents:.0f} images a batch; "
        f"bound by the {result.bound}: {result.advice}"
    )
    if json_file is not None:
        shares = {name: share for name, _, share in result.rows}
        row = {**asdict(result), "shares": shares, "bound": result.bound}
        write_report(json_file, [row], [])


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say what is installed, what is in use, and why the rest is not."""
    findings = diagnose()
    if as_json:
        rows = [finding._asdict() for finding in findings]
        typer.echo(json.dumps({"meta": environment(), "rows": rows, "figures": []}, indent=1))
    else:
        table = Table("part", "state", "what")
        colours = {"ok": "green", "absent": "yellow", "broken": "bold red"}
        for part, state, detail in findings:
            table.add_row(part, f"[{colours[state]}]{state}[/]", escape(detail))
        console.print(table)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def _parse_tiers(text: str) -> tuple[tuple[int, float], ...]:
    """'2:1.0,4:0.3' as pairs."""
    try:
        pairs = [part.split(":") for part in text.split(",") if part]
        return tuple((int(k), float(threshold)) for k, threshold in pairs)
    except ValueError:
        raise ValueError(
            f"--tiers: expected k:threshold,… such as 2:1.0,4:0.3, got {text!r}"
        ) from None


def _print_epoch(name: str, metrics: EpochMetrics) -> None:
    evaluation = metrics.evaluation
    evaluated = f"accuracy {evaluation.accuracy:.4f}, " if evaluation else ""
    console.print(
        f"{name} epoch {metrics.epoch + 1}: loss {metrics.loss:.3f}, "
        f"{evaluated}{metrics.network_inputs} network inputs of "
        f"{metrics.constituents} images in {metrics.seconds:.1f} s "
        f"({metrics.wait_seconds:.1f} s waiting for data)"
    )


def _print_runs(runs: list[RunSummary]) -> None:
    """A table: ``inputs`` are network inputs, ``saved`` how many times fewer than plain's."""
    full = max(run.plain_inputs for run in runs)
    columns: list[tuple[str, Any]] = [
        ("acc. %", lambda r: f"{100 * r.accuracy:.2f}"),
        ("epochs", lambda r: f"{r.epochs}"),
        ("inputs", lambda r: f"{r.network_inputs}"),
        ("saved", lambda r: f"{full / r.network_inputs:.2f}×"),
        ("steps", lambda r: f"{r.steps}"),
        ("s", lambda r: f"{r.seconds:.0f}"),
        ("wait s", lambda r: f"{r.wait_seconds:.1f}"),
        ("images/s", lambda r: f"{r.images_per_second:.0f}"),
        ("inputs/s", lambda r: f"{r.inputs_per_second:.0f}"),
    ]
    table = Table(Column("run", no_wrap=True), *(heading for heading, _ in columns))
    for run in runs:
        table.add_row(run.name, *(text(run) for _, text in columns))
    console.print(table)
    for run in runs:
        parts = {
            **run.loader_seconds,
            "step": run.step_seconds,
            "evaluation": run.eval_seconds,
        }
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        console.print(f"{run.name}, time by part: {times}")
