"""The settings of a training run, and the objects they name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mixpipe.data import Store, embedded, open_store
from mixpipe.loader import IMAGENET_MEAN, IMAGENET_STD, MixLoader
from mixpipe.plan import CenterCrop, Crop, Plain, Policy, RandomResizedCrop

__all__ = ["OPTIMIZERS", "PRECISIONS", "TrainConfig", "learning_rate", "make_optimizer"]

EMBEDDED = "embedded"
SMALL = 64  # pixels
CACHED_UP_TO = 2**30  # bytes of decoded images
OPTIMIZERS = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3}  # name: default rate at 128
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainConfig:
    """What a run trains on, with what, and for how long. The command line has the same names.

    Attributes:
        data: ``"embedded"``, or a folder (or tar) with ``train/CLASS/*.jpg`` and
            ``val/CLASS/*.jpg``.
        model: a name of :func:`mixpipe.train.models.build_model`.
        epochs: passes over the training set.
        batch_size: composites or constituents a step, as the policy counts.
        val_split: the name of the folder to evaluate on; None: ``"test"`` of the embedded images,
            else ``"val"``.
        size: the canvas in pixels; None: 28 for the embedded images, else 224. Up to 64 the images
            are taken to be small: they are cropped mildly, and evaluated whole.
        optimizer: one of ``OPTIMIZERS``.
        lr: the highest learning rate; None: the optimiser's default, scaled with the batch size.
        weight_decay: decoupled in adamw, else the usual L2 term; not on biases and norms.
        label_smoothing: in [0, 1).
        warmup: the part of the run in which the learning rate rises; a cosine to zero follows.
        seed: of the plan, the weights and all else that is random.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        decode_device: where images are decoded: None for ``device``, or ``"cpu"``.
        precision: one of ``PRECISIONS``; below float32 by ``torch.autocast``.
        threads: decoding threads; None: one a core.
        skip_unreadable: leave out images that cannot be read, rather than refuse the data.
        cache: keep decoded images in the device's memory; None: where they take 1 GiB or less.
        separate: classify each region by itself; False: the plain network on mixed pixels.
        eval_every: epochs from one evaluation to the next; the last epoch is evaluated always.
    """

    data: str = EMBEDDED
    val_split: str | None = None
    model: str = "resnet8"
    epochs: int = 16
    batch_size: int = 128
    size: int | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    warmup: float = 0.1
    seed: int = 0
    device: str = "cpu"
    decode_device: str | None = None
    precision: str = "float32"
    threads: int | None = None
    skip_unreadable: bool = False
    cache: bool | None = None
    separate: bool = True
    eval_every: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any work."""
        if self.epochs < 1:
            raise ValueError(f"epochs: expected at least 1, got {self.epochs}")
        if self.eval_every < 1:
            raise ValueError(f"eval_every: expected at least 1, got {self.eval_every}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: expected at least 2, got {self.batch_size}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: expected one of {list(OPTIMIZERS)}, got {self.optimizer}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {list(PRECISIONS)}, got {self.precision}")
        for name in ("size", "lr", "threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        if not self.weight_decay >= 0.0:
            raise ValueError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(
                f"label_smoothing: expected 0 <= value < 1, got {self.label_smoothing}"
            )
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup: expected 0 <= value < 1, got {self.warmup}")

    def require_device(self) -> None:
        """Raise ``ValueError`` where ``device`` is not on this machine, or one is no device."""
        for name, given in (("device", self.device), ("decode_device", self.decode_device)):
            try:
                kind = "cpu" if given is None else torch.device(given).type
            except RuntimeError:
                kind = ""
            if kind not in ("cpu", "cuda"):
                raise ValueError(f"{name}: expected cpu, cuda or cuda:N, got {given!r}")
        kind = torch.device(self.device).type
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device: {self.device!r} needs a CUDA device and torch finds none; "
                "pass --device cpu, or see `mixpipe doctor`"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    @property
    def canvas(self) -> int:
        """The canvas's height and width in pixels."""
        return self.size or (28 if self.data == EMBEDDED else 224)

    def evaluates(self, epoch: int) -> bool:
        """Whether ``epoch``, from 0, ends with an evaluation."""
        return (epoch + 1) % self.eval_every == 0 or epoch + 1 == self.epochs

    @property
    def small(self) -> bool:
        """Whether images are small: cropped mildly, evaluated whole."""
        return self.canvas <= SMALL

    def train_loader(self, policy: Policy) -> MixLoader:
        """The training images, mixed by ``policy``."""
        crop = RandomResizedCrop(scale=(0.6, 1.0)) if self.small else RandomResizedCrop()
        return self._loader("train", policy, crop, train=True)

    def val_loader(self, classes: tuple[str, ...]) -> MixLoader:
        """The validation images, unmixed, with the training set's classes."""
        crop = CenterCrop(resize=self.canvas) if self.small else None
        split = self.val_split or ("test" if self.data == EMBEDDED else "val")
        return self._loader(split, Plain(shuffle=False), crop, train=False, classes=classes)

    def train_labels(self) -> NDArray[np.int64]:
        """The class of every training image, as an index into the class names."""
        return self._store("train", None).index.labels

    def _loader(
        self,
        split: str,
        policy: Policy,
        crop: Crop | None,
        *,
        train: bool,
        classes: tuple[str, ...] | None = None,
    ) -> MixLoader:
        self.require_device()
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        if self.data == EMBEDDED:
            mean, std = (0.286,) * 3, (0.353,) * 3  # of Fashion-MNIST's training images
        store = self._store(split, classes)
        fits = store.index.decoded_bytes <= CACHED_UP_TO
        return MixLoader(
            store,
            batch_size=self.batch_size,
            size=self.canvas,
            train=train,
            policy=policy,
            crop=crop,
            dtype=PRECISIONS[self.precision],
            memory_format=torch.channels_last,
            mean=mean,
            std=std,
            device=self.device,
            decode_device=self.decode_device,
            seed=self.seed,
            threads=self.threads,
            cache=fits if self.cache is None else self.cache,
        )

    def _store(self, split: str, classes: tuple[str, ...] | None) -> Store:
        if self.data == EMBEDDED:
            return embedded(split)
        if not Path(self.data).exists():
            raise FileNotFoundError(
                f"data: {self.data} is not there; expected 'embedded', or a folder or tar with "
                "train/CLASS/*.jpg and val/CLASS/*.jpg"
            )
        return open_store(self.data, split, classes=classes, skip_unreadable=self.skip_unreadable)


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``config`` names, without weight decay on biases and norms."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, decay = peak_rate(config), config.weight_decay
    # On a GPU torch's usual choice is to update many tensors at once; on a CPU it is one by one,
    # which under a profiler takes 0.7 ms of a small ResNet's step more than in one kernel.
    # (Not with float16: torch 2.14's begin with momentum that nobody wrote, where the first step's
    # gradients overflow and it is skipped.)
    on_cpu = torch.device(config.device).type == "cpu"
    fused = True if on_cpu and config.precision != "float16" else None
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, rate, momentum=0.9, nesterov=True, weight_decay=decay, fused=fused
        )
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, rate, weight_decay=decay, fused=fused)


def peak_rate(config: TrainConfig) -> float:
    """The highest learning rate: given, or the default in proportion to the batch size."""
    if config.lr is not None:
        return config.lr
    return OPTIMIZERS[config.optimizer] * config.batch_size / 128


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The rate at ``progress`` in [0, 1] of the run: a linear rise, then a cosine to zero.

    By the progress of epochs and not by steps, since the number of steps of later epochs is not
    known before their plans are.
    """
    if progress < config.warmup:
        return peak_rate(config) * (progress / config.warmup)
    rest = (progress - config.warmup) / (1.0 - config.warmup)
    return peak_rate(config) * 0.5 * (1.0 + math.cos(math.pi * min(rest, 1.0)))


def set_rate(groups: Iterable[dict[str, Any]], rate: float) -> None:
    """Give every parameter group the learning rate ``rate``."""
    for group in groups:
        group["lr"] = rate
