"""One training run: epochs over a MixLoader, evaluation, files a person can read and resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mixpipe.nn import CompositeLoss, SeparatedModel, separate_regions
from mixpipe.plan import Policy
from mixpipe.report import environment, open_beside, write_json
from mixpipe.target import CompositeTarget
from mixpipe.trace import part
from mixpipe.train.config import (
    PRECISIONS,
    TrainConfig,
    learning_rate,
    make_optimizer,
    peak_rate,
    set_rate,
)
from mixpipe.train.memory import keep_freed_memory
from mixpipe.train.models import build_model
from mixpipe.train.sheet import draw_sheet

__all__ = ["DivergedError", "EpochMetrics", "Evaluation", "RunSummary", "Trainer"]


CHECKPOINT = "checkpoint.pt"
LOADER_PARTS = ("plan", "decode", "compose")


@dataclass(frozen=True)
class Evaluation:
    """Fractions of the validation images that a model gets right, of all and of each class."""

    accuracy: float
    by_class: dict[str, float]


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch did; a line of ``metrics.jsonl``.

    ``evaluation`` is None after an epoch that was not evaluated. ``cpu_seconds`` are of the whole
    process, decoding threads included; like ``seconds`` without evaluation. ``wait_seconds`` of
    these the step waited for its batch, ``start_seconds`` of them for the epoch's first.
    """

    epoch: int
    loss: float
    train_accuracy: float
    evaluation: Evaluation | None
    network_inputs: int
    constituents: int
    decoded: int
    steps: int
    seconds: float
    cpu_seconds: float
    wait_seconds: float
    start_seconds: float
    step_seconds: float
    loader_seconds: dict[str, float]
    eval_seconds: float


class DivergedError(ArithmeticError):
    """The loss is not a finite number any more."""


@dataclass(frozen=True)
class RunSummary:
    """What a run came to; ``summary.json`` holds it.

    ``accuracy`` is the fraction of the validation images that the last epoch's model gets right,
    ``class_accuracy`` that of each class.
    ``seconds`` is training, decoding included and evaluation left out; ``wait_seconds`` of it the
    step waited for its batch, ``start_seconds`` of them for the first of an epoch, for which the
    plan is made (and, in the first epoch, a cache filled). ``loader_seconds`` is what the loader
    did for plan, decode and compose, most of it beside the step. ``images_per_second`` are
    constituents, ``inputs_per_second`` network inputs. ``decoded`` images were decoded for the
    training; with a cache each of them once. ``cpu_seconds`` is the same work in time of all of the
    process's threads.
    """

    name: str
    epochs: int
    accuracy: float
    class_accuracy: dict[str, float]
    network_inputs: int
    plain_inputs: int
    decoded: int
    steps: int
    seconds: float
    cpu_seconds: float
    eval_seconds: float
    wait_seconds: float
    start_seconds: float
    step_seconds: float
    loader_seconds: dict[str, float]
    images_per_second: float
    inputs_per_second: float

    @property
    def speedup(self) -> float:
        """How many times fewer network inputs than plain training of as many epochs."""
        return self.plain_inputs / self.network_inputs


class Trainer:
    """Trains one model by one policy.

    Args:
        config: the settings.
        policy: who is mixed with whom.
        output: the folder for ``metrics.jsonl``, ``summary.json``, ``composites.png`` and
            ``checkpoint.pt``; None writes nothing.
        name: what the run is called in its summary.
        progress: show a progress bar.

    Attributes:
        network: what is trained.
        model: the same, separating regions where the policy mixes.
        saved: whether :attr:`checkpoint` is of this run.

    Raises:
        ValueError, FileNotFoundError: settings or data that cannot work.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        *,
        output: str | os.PathLike[str] | None = None,
        name: str = "train",
        progress: bool = True,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.name = name
        self.output = None if output is None else Path(output)
        self.progress = progress
        self.loader = config.train_loader(policy)
        self.val_loader = config.val_loader(self.loader.classes)
        device = torch.device(config.device)
        model = build_model(config.model, len(self.loader.classes), config.canvas)
        model = model.to(device).to(memory_format=torch.channels_last)
        self.network = model
        mixes = config.separate and policy.max_constituents > 1
        self.model = separate_regions(model) if mixes else model
        self.loss = CompositeLoss(self.loader.table, label_smoothing=config.label_smoothing)
        self.optimizer = make_optimizer(config, model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.metrics: list[EpochMetrics] = []
        self.saved = False
        self._drawn = (False, 0)  # whether the sheet has composites, and of how many sizes

    def fit(self, on_epoch: Callable[[EpochMetrics], None] | None = None) -> RunSummary:
        """Train to the end, from the start or from where :meth:`resume` left it.

        On a CPU the process keeps freed memory from then on (`keep_freed_memory`).

        Args:
            on_epoch: called with each epoch's metrics.
        """
        for metrics in self.epochs():
            if on_epoch is not None:
                on_epoch(metrics)
        summary = self.summary()
        if self.output is not None:
            write_json(
                self.output / "summary.json",
                {
                    "meta": environment(),
                    "config": self.config.as_dict(),
                    "policy": repr(self.loader.policy),
                    **asdict(summary),
                    "speedup": summary.speedup,
                },
            )
        return summary

    def epochs(self) -> Iterator[EpochMetrics]:
        """Train epoch by epoch, as :meth:`fit` does, at the pace of the caller.

        An epoch is saved when the next one is asked for.
        """
        if torch.device(self.config.device).type == "cpu":
            keep_freed_memory()
        while len(self.metrics) < self.config.epochs:
            self.metrics.append(self._train_epoch())
            yield self.metrics[-1]
            self._write_metrics()
            self.save()

    @property
    def checkpoint(self) -> Path | None:
        """Where the checkpoint is written; None without an output folder."""
        return None if self.output is None else self.output / CHECKPOINT

    def summary(self) -> RunSummary:
        """The run so far.

        Raises:
            RuntimeError: no epoch was evaluated yet.
        """
        evaluation = next((m.evaluation for m in reversed(self.metrics) if m.evaluation), None)
        if evaluation is None:
            raise RuntimeError(
                f"summary: none of {len(self.metrics)} epochs was evaluated yet, expected one at "
                "least; ask for it at the end, or evaluate more often (eval_every)"
            )
        seconds = sum(m.seconds for m in self.metrics)
        inputs = sum(m.network_inputs for m in self.metrics)
        return RunSummary(
            name=self.name,
            epochs=len(self.metrics),
            accuracy=evaluation.accuracy,
            class_accuracy=evaluation.by_class,
            network_inputs=inputs,
            plain_inputs=len(self.metrics) * len(self.loader.store.index),
            decoded=sum(m.decoded for m in self.metrics),
            steps=sum(m.steps for m in self.metrics),
            seconds=seconds,
            cpu_seconds=sum(m.cpu_seconds for m in self.metrics),
            eval_seconds=sum(m.eval_seconds for m in self.metrics),
            wait_seconds=sum(m.wait_seconds for m in self.metrics),
            start_seconds=sum(m.start_seconds for m in self.metrics),
            step_seconds=sum(m.step_seconds for m in self.metrics),
            loader_seconds={
                name: sum(m.loader_seconds[name] for m in self.metrics) for name in LOADER_PARTS
            },
            images_per_second=sum(m.constituents for m in self.metrics) / seconds,
            inputs_per_second=inputs / seconds,
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.checkpoint is None:
            return
        state = {
            "config": self.config.as_dict(),
            "policy": repr(self.loader.policy),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "metrics": [asdict(m) for m in self.metrics],
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        try:
            with open_beside(self.checkpoint) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # of a full disk torch.save raises its own
            raise OSError(
                f"{self.checkpoint}: cannot be written ({error.__context__ or error}); what was "
                "saved before is still there"
            ) from error
        self.saved = True

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Continue from a checkpoint as if the run had not stopped.

        Raises:
            ValueError: the checkpoint is of other settings, another policy or another data set.
        """
        checkpoint = Path(path)
        if not checkpoint.is_file():
            raise FileNotFoundError(f"resume: {checkpoint} is not a file; expected a {CHECKPOINT}")
        try:
            # On the CPU: every part's load_state_dict copies to where it lives.
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            state["config"], state["policy"], state["loader"]
        except Exception as error:  # of junk torch.load raises nearly anything
            raise ValueError(
                f"resume: {checkpoint} is no {CHECKPOINT} of a training run ({error})"
            ) from error
        ours = {**self.config.as_dict(), "policy": repr(self.loader.policy)}
        theirs = {**state["config"], "policy": state["policy"]}
        # Another machine may have other devices, threads and folders; the run is the same.
        free = {"device", "decode_device", "threads", "data", "skip_unreadable", "cache"}
        differing = [k for k in ours if k not in free and ours[k] != theirs.get(k)]
        if differing:
            raise ValueError(
                f"resume: {checkpoint} was made with other settings: "
                + ", ".join(f"{k}={theirs.get(k)!r} (now {ours[k]!r})" for k in differing)
                + "; give the same settings, or start a new run"
            )
        self.loader.load_state_dict(state["loader"])
        self.network.load_state_dict(state["model"])
        for saved, own in zip(
            state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True
        ):
            if "fused" in own:  # as it suits this device, not the checkpoint's
                saved["fused"] = own["fused"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.metrics = [_metrics(m) for m in state["metrics"]]
        self.saved = self.checkpoint is not None and checkpoint.resolve() == (
            self.checkpoint.resolve()
        )
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def close(self) -> None:
        """Free the decoders."""
        self.loader.close()
        self.val_loader.close()

    def _train_epoch(self) -> EpochMetrics:
        self.model.train()
        epoch, stats = self.loader.epoch, self.loader.stats
        before = replace(stats, seconds=dict(stats.seconds))
        totals = torch.zeros(3, device=self.config.device)  # loss, correct, constituents
        wait_seconds = start_seconds = step_seconds = drawing = 0.0
        trained = 0
        start, cpu_start = time.perf_counter(), time.process_time()
        asked, steps = start, len(self.loader)  # makes the plan
        with tqdm(
            total=steps,
            desc=f"{self.name} {epoch + 1}/{self.config.epochs}",
            unit="step",
            leave=False,
            disable=not self.progress,
        ) as bar:
            for step, (images, target) in enumerate(self.loader):
                begin = time.perf_counter()
                wait_seconds += begin - asked
                if step == 0:
                    start_seconds = wait_seconds
                    self._draw(images, target)
                    drawing = time.perf_counter() - begin
                    begin += drawing
                if len(images) > 1:  # batch norm has no statistics of one
                    rate = learning_rate(self.config, (epoch + step / steps) / self.config.epochs)
                    set_rate(self.optimizer.param_groups, rate)
                    totals += self.step(images, target)
                    step_seconds += time.perf_counter() - begin
                    trained += 1
                if step % 20 == 0:  # reading the totals waits for the device
                    elapsed = time.perf_counter() - start
                    bar.set_postfix(
                        loss=f"{totals[0].item() / max(trained, 1):.3f}",
                        accuracy=f"{(totals[1] / totals[2]).item():.3f}",
                        images_s=f"{(stats.constituents - before.constituents) / elapsed:.0f}",
                        inputs_s=f"{(stats.composites - before.composites) / elapsed:.0f}",
                        refresh=False,
                    )
                bar.update()
                asked = time.perf_counter()
        if not trained:
            raise ValueError(
                f"batch_size: got {self.config.batch_size}, but all {steps} batches of epoch "
                f"{epoch + 1} are of one network input, of which batch norm has no statistics; "
                "expected a larger one"
            )
        loss, correct, counted = totals.tolist()
        seconds = time.perf_counter() - start - drawing
        cpu_seconds = time.process_time() - cpu_start - drawing
        if not math.isfinite(loss):
            raise DivergedError(
                f"epoch {epoch + 1}: the loss is {loss}; try a lower lr than "
                f"{peak_rate(self.config):g}"
            )
        begin = time.perf_counter()
        evaluation = self.evaluate() if self.config.evaluates(epoch) else None
        return EpochMetrics(
            epoch=epoch,
            loss=loss / trained,
            train_accuracy=correct / counted,
            evaluation=evaluation,
            network_inputs=stats.composites - before.composites,
            constituents=stats.constituents - before.constituents,
            decoded=stats.decoded - before.decoded,
            steps=trained,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            wait_seconds=wait_seconds,
            start_seconds=start_seconds,
            step_seconds=step_seconds,
            loader_seconds={
                name: stats.seconds[name] - before.seconds.get(name, 0.0) for name in LOADER_PARTS
            },
            eval_seconds=time.perf_counter() - begin,
        )

    def step(
        self, images: Tensor, target: CompositeTarget, seconds: dict[str, float] | None = None
    ) -> Tensor:
        """One optimiser step; the batch's loss, correct constituents and constituents.

        seconds: adds the host's wall time in each part. (A GPU does the work later.)
        """
        with part("forward", seconds), self._autocast():
            logits = (
                self.model(images, target.regions, target.index_map)
                if isinstance(self.model, SeparatedModel)
                else self.model(images)
            )
        with part("loss", seconds):
            loss = self.loss(logits, target)
        with part("backward", seconds):
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()
        with part("optimizer", seconds):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        present = target.ids >= 0
        guess = logits.detach().argmax(-1)
        if guess.ndim == 1:  # one row for all constituents
            guess = guess[:, None]
        correct = (guess == target.classes) & present
        return torch.stack([loss.detach(), correct.sum(), present.sum()])

    @torch.inference_mode()
    def evaluate(self) -> Evaluation:
        """What the plain model, as it is, gets right of the validation images."""
        self.model.eval()
        classes = self.val_loader.classes
        right = torch.zeros(2, len(classes), dtype=torch.int64, device=self.config.device)
        self.val_loader.set_epoch(0)
        for images, target in self.val_loader:
            with self._autocast():
                logits = self.model(images)
            truth = target.classes[:, 0]
            right[0] += torch.bincount(truth, minlength=len(classes))
            right[1] += torch.bincount(truth[logits.argmax(-1) == truth], minlength=len(classes))
        counts, correct = right.tolist()
        by_class = {
            name: got / of for name, got, of in zip(classes, correct, counts, strict=True) if of
        }
        return Evaluation(sum(correct) / sum(counts), by_class)

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        device = torch.device(self.config.device).type
        return torch.autocast(device, dtype, enabled=dtype != torch.float32)

    def _draw(self, images: Tensor, target: CompositeTarget) -> None:
        """The contact sheet, of an epoch's first batch.

        Drawn in the first epoch of all, and again by one with more numbers of constituents than
        those that this process has drawn; plain batches of a resumed run leave it as it is.
        """
        if self.output is None:
            return
        sizes = set((target.ids >= 0).sum(1).tolist())
        variety = (max(sizes) > 1, len(sizes))
        if variety <= self._drawn or (max(sizes) == 1 and self.loader.epoch > 0):
            return
        self._drawn = variety
        draw_sheet(
            self.output / "composites.png",
            images,
            target,
            self.loader.classes,
            mean=self.loader.mean,
            std=self.loader.std,
        )

    def _write_metrics(self) -> None:
        if self.output is None:
            return
        with open_beside(self.output / "metrics.jsonl") as file:
            for metrics in self.metrics:
                file.write((json.dumps(asdict(metrics)) + "\n").encode())


def _metrics(saved: dict[str, Any]) -> EpochMetrics:
    """Metrics as ``asdict`` gave them."""
    evaluation = saved["evaluation"]
    return EpochMetrics(**{**saved, "evaluation": evaluation and Evaluation(**evaluation)})
