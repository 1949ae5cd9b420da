"""`mixpipe profile`: where the time of a training step goes, and what bounds the run."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch

from mixpipe.train.run import Trainer

__all__ = ["Profile", "profile"]


@dataclass(frozen=True)
class Profile:
    """Seconds a batch, measured by themselves and together.

    Attributes:
        batches: batches in each of the three measurements.
        composites: network inputs a batch, on average.
        constituents: source images a batch, on average.
        parts: seconds a batch of the loader alone: ``plan``, ``decode`` and ``compose``.
        loader: seconds a batch when nothing but the loader runs.
        step: seconds a batch when batches are at hand and only the step runs.
        step_parts: of these, the host's in each part: ``forward``, ``loss`` (which also writes the
            loss table), ``backward`` and ``optimizer``. On a GPU that is issuing the work, which
            the device does later.
        together: seconds a batch of training.
        wait: of these, the seconds in which the step waited for its batch.
    """

    batches: int
    composites: float
    constituents: float
    parts: dict[str, float]
    loader: float
    step: float
    step_parts: dict[str, float]
    together: float
    wait: float

    @property
    def bound(self) -> str:
        """What bounds the run: ``"model"``, or the loader's largest part."""
        if self.wait < 0.1 * self.together:
            return "model"
        return max(self.parts, key=lambda name: self.parts[name])

    @property
    def rows(self) -> list[tuple[str, float, float]]:
        """The report, line by line: what, seconds a batch, and their share of the whole.

        The whole is the loader alone, the step alone, or both together. The rest of a step is
        counting the right answers and, on a GPU, waiting for the device.
        """
        rows = [
            *((f"loader: {name}", seconds, self.loader) for name, seconds in self.parts.items()),
            ("loader alone", self.loader, self.loader),
            *((f"step: {name}", seconds, self.step) for name, seconds in self.step_parts.items()),
            ("step: the rest", self.step - sum(self.step_parts.values()), self.step),
            ("step alone", self.step, self.step),
            ("together", self.together, self.together),
            ("of that waiting for data", self.wait, self.together),
        ]
        return [(name, seconds, seconds / whole) for name, seconds, whole in rows]

    @property
    def advice(self) -> str:
        """What would help."""
        return {
            "model": "the loader keeps up; fewer network inputs (a higher speed-up, a larger k) or "
            "lower precision shorten the run",
            "decode": "keep decoded images in memory if there is room (cache=True), give decoding "
            "more threads or cores, store smaller images, or decode elsewhere: on the GPU "
            "(device='cuda'), or, where that is the model's, on the CPU (decode_device='cpu')",
            "compose": "use a lower precision (half the bytes), or compose on the GPU",
            "plan": "use larger batches: a batch's plan costs the same for few as for many",
        }[self.bound]


def profile(trainer: Trainer, batches: int = 50) -> Profile:
    """Measure ``batches`` of the loader alone, of the step alone, and of both together.

    The trainer's model and table change as in training; use it for nothing else.
    """
    loader = trainer.loader
    trainer.model.train()
    kept = list(itertools.islice(loader, 4))  # warms up both
    for images, target in kept:
        trainer.step(images, target)
    before = dict(loader.stats.seconds)
    count, ids = 0, []
    begin = _now()
    for _, target in itertools.islice(loader, batches):
        count += 1
        ids.append(target.ids)
    alone = (_now() - begin) / count
    parts = {name: (t - before[name]) / count for name, t in loader.stats.seconds.items()}
    composites = sum(len(batch) for batch in ids) / count
    constituents = sum(int((batch >= 0).sum()) for batch in ids) / count

    issued: dict[str, float] = {}
    begin = _now()
    for images, target in itertools.islice(itertools.cycle(kept), count):
        trainer.step(images, target, issued)
    step = (_now() - begin) / count

    busy = first = 0.0
    begin = end = _now()
    for images, target in itertools.islice(loader, count):
        started = _now()
        # An epoch's first batch is waited for, however fast the loader is.
        first = first or started - begin
        trainer.step(images, target)
        end = _now()
        busy += end - started
    together = (end - begin - first) / count
    return Profile(
        batches=count,
        composites=composites,
        constituents=constituents,
        parts=parts,
        loader=alone,
        step=step,
        step_parts={name: seconds / count for name, seconds in issued.items()},
        together=together,
        wait=together - busy / count,
    )


def _now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
