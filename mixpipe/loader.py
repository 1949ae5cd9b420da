"""MixLoader: an epoch's plan as batches of composites on the training device."""

from __future__ import annotations

import itertools
import logging
import operator
import os
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixpipe import kernels
from mixpipe.ahead import Ahead
from mixpipe.blocks import Blocks
from mixpipe.data import Store, open_store
from mixpipe.decode import CachedDecoder, Decoder
from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD
from mixpipe.plan import (
    MAX_CONSTITUENTS,
    Batches,
    BatchPlan,
    CenterCrop,
    Crop,
    DecodeJob,
    EpochPlan,
    LossTable,
    Plain,
    Policy,
    RandomResizedCrop,
    plan_batches,
)
from mixpipe.target import CompositeTarget
from mixpipe.trace import part

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "LoaderStats", "MixLoader"]

logger = logging.getLogger(__name__)

_STATE = {"data", "batches", "seed", "epoch", "position", "plan", "table", "policy"}


@dataclass
class LoaderStats:
    """What a loader has done since it was made, and where its time went.

    Attributes:
        composites: network inputs made; one batch is made ahead of the one handed out.
        constituents: samples shown in them.
        decoded: images decoded; with a cache each of them once.
        seconds: wall time by part. ``"plan"``: making the plans of epochs and batches;
            ``"decode"``: waiting for decoded patches (what the decoder did in the meantime is not
            in it); ``"compose"``: building the composites. The caller does not wait for these: on
            a CPU a thread does them.
    """

    composites: int = 0
    constituents: int = 0
    decoded: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class MixLoader:
    """Iterates over one epoch's composites, like a ``torch.utils.data.DataLoader``.

    ``for images, target in loader`` runs one epoch and moves on to the next; ``len(loader)`` is
    the number of batches of the epoch to come, which the policy may change from epoch to epoch.
    Leaving the loop early is safe: the next loop starts the same epoch anew. Only one loop over a
    loader runs at a time; starting another ends the first. A running loop does not survive a fork,
    since its threads do not.

    The plan of an epoch is made when it is first asked for (``len`` or the first batch), from
    what the loss table says then. With several processes the table becomes the same on all of
    them when an epoch ends; let all of them leave an epoch early, or none.

    Args:
        data: the folder with one folder a class, a tar of such folders, or a ``Store`` (from
            `open_store`, which has more options).
        batch_size: composites a batch, or constituents where the policy counts in these.
        size: the canvas, ``(height, width)`` in pixels or one number for both.
        train: False evaluates: every image once, in order, its centre, unmixed.
        policy: decides who is mixed with whom; by default nobody is.
        crop: which part of an image its canvas shows; by default ``RandomResizedCrop()``, and for
            evaluation ``CenterCrop()`` with an eighth of the size as margin (256 for 224).
        classes: the training set's class names, so that labels mean the same here; for a store,
            give them to the store.
        labels: instead of the labels that ``data`` has: classes int64 ``[N]``, or multi-label
            targets float32 ``[N, C]`` in 0..1, for which the loss is binary cross-entropy.
        dtype: float32, float16 or bfloat16, the dtype of the images.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.
        mean: subtracted from the channels' values in [0, 1].
        std: divides them then.
        device: where images are delivered.
        decode_device: where files are decoded: ``device`` by default, or ``"cpu"``, which leaves a
            GPU to the model and wants more cores.
        seed: with the epoch and the sample id, the source of all randomness.
        drop_last: leave out a last batch that is short.
        rank: this process's number; by default ``torch.distributed``'s, else 0.
        world_size: the number of processes; each gets its part of every batch of
            ``world_size * batch_size``, and all get the same number of batches.
        threads: decoding threads; by default one a core that this process may use.
        prefetch: batches decoded ahead.
        cache: decode every image once, when the first batch is asked for, and keep all of them in
            memory (``store.index.decoded_bytes``, on ``device``, in each process). For small data
            sets: batches are the same, at a fraction of the work. Files that change are not read
            anew before `close`.

    Yields:
        ``(images, target)``: images ``[B, 3, H, W]`` of ``dtype``, and a
        :class:`~mixpipe.CompositeTarget`.

    Raises:
        ValueError: an argument that cannot work, named with what was expected.
        DecodeError: while iterating, an image that cannot be decoded, named.

    Example:
        >>> loader = MixLoader(embedded("train"), batch_size=128, size=28)
        >>> images, target = next(iter(loader))
        >>> images.shape, target.classes.shape
        (torch.Size([128, 3, 28, 28]), torch.Size([128, 1]))
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Store,
        *,
        batch_size: int,
        size: int | tuple[int, int] = 224,
        train: bool = True,
        policy: Policy | None = None,
        crop: Crop | None = None,
        classes: tuple[str, ...] | None = None,
        labels: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        device: torch.device | str = "cpu",
        decode_device: torch.device | str | None = None,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        threads: int | None = None,
        prefetch: int = 2,
        cache: bool = False,
    ) -> None:
        self.canvas = _canvas(size)
        self.batch_size = batch_size
        self.dtype = dtype
        self.memory_format = memory_format
        self.mean = mean
        self.std = std
        self.device = _with_index(torch.device(device))
        self.seed = operator.index(seed)
        self.drop_last = drop_last
        if (rank, world_size) == (None, None):
            _check_group()
        self.rank = _distributed_rank() if rank is None else rank
        self.world_size = _distributed_size() if world_size is None else world_size
        self.train = train
        self.policy = policy or Plain(shuffle=train)
        self.crop = crop or (RandomResizedCrop() if train else _evaluation_crop(self.canvas))
        self._check()
        self.store = _open(data, classes)
        if drop_last and len(self.store.index) < self._global_batch:
            raise ValueError(
                f"drop_last: nothing is left of {len(self.store.index)} samples in batches of "
                f"{self._global_batch}; expected a smaller batch_size, or drop_last=False"
            )
        self.table = LossTable(len(self.store.index), device=self.device)
        self.stats = LoaderStats()
        self.epoch = 0
        self._position = 0  # batches of this epoch that were handed out
        self._resume_at = 0  # where the next loop starts
        self._plan: EpochPlan | None = None
        self._running: weakref.ref[Generator[Any, None, None]] | None = None
        decoder = Decoder(
            self.store,
            device=self.device,
            decode_device=decode_device,
            threads=len(os.sched_getaffinity(0)) if threads is None else threads,
            prefetch=prefetch,
        )
        self.cache = cache
        self._decoder = CachedDecoder(decoder) if cache else decoder
        self._ahead = Ahead(self.device)
        self._blocks = Blocks()
        self._process: int | None = None  # which runs its loops
        self._told = False  # that losses are missing
        self._labels = torch.as_tensor(self.store.index.labels if labels is None else labels).cpu()
        _check_labels(self._labels, len(self.store.index))

    def _check(self) -> None:
        if not isinstance(self.policy, Policy):
            raise TypeError(
                f"policy: got {self.policy!r}, expected a policy such as mixpipe.MixTrain()"
            )
        if isinstance(self.crop, type):
            raise TypeError(f"crop: got the class {self.crop.__name__}, expected an instance of it")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size}")
        most = self.policy.max_constituents
        if self.policy.batch_by == "constituents" and self.batch_size < most:
            raise ValueError(
                f"batch_size: got {self.batch_size} constituents, expected at least {most}, those "
                "of the policy's largest composite"
            )
        if min(self.canvas) < MAX_CONSTITUENTS:
            raise ValueError(
                f"size: expected (height, width) of at least {MAX_CONSTITUENTS} pixels each, got "
                f"{self.canvas}"
            )
        if self.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype: expected float32, float16 or bfloat16, got {self.dtype}")
        if self.memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(
                "memory_format: expected torch.contiguous_format or torch.channels_last, "
                f"got {self.memory_format}"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank: expected 0 <= rank < world_size = {self.world_size}, got {self.rank}"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a label is an index into them."""
        return self.store.index.classes

    @property
    def plan(self) -> EpochPlan:
        """The plan of the current epoch, made when first asked for."""
        if self._plan is None:
            with part("plan", self.stats.seconds):
                self._plan = self.policy.plan(self.table, self.epoch, self.seed)
            self._look_for_losses(self._plan)
        return self._plan

    def _look_for_losses(self, plan: EpochPlan) -> None:
        """Say once where a policy waits for losses that nobody writes."""
        ordinary = plan.num_composites == plan.num_constituents == len(self.table)
        waits = ordinary and self.train and plan.epoch > 0 and not isinstance(self.policy, Plain)
        if waits and not self._told and not (self.table.epochs >= 0).any():
            self._told = True
            logger.warning(
                "epoch %d mixes and drops nobody, and no loss was written into loader.table yet: "
                "give it to the loss, CompositeLoss(loader.table), or call loader.table.update",
                plan.epoch,
            )

    @property
    def _global_batch(self) -> int:
        """What a batch of all ranks together counts."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of the whole epoch to come, or of the one that is running."""
        return len(self._batches())

    def __iter__(self) -> Iterator[tuple[Tensor, CompositeTarget]]:
        """Run the current epoch; see the class."""
        self._end_running()
        batches = self._run_epoch()
        self._running = weakref.ref(batches)
        return batches

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``, as a ``DistributedSampler`` does; a running loop ends.

        After ``load_state_dict`` of a state from the middle of this very epoch, its next loop goes
        on there all the same.
        """
        if epoch < 0:
            raise ValueError(f"epoch: expected at least 0, got {epoch}")
        if epoch == self.epoch and self._resume_at:
            return
        self._end_running()
        self._go_to(epoch)

    def _go_to(self, epoch: int) -> None:
        self.epoch = epoch
        self._plan = None
        self._position = self._resume_at = 0

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: seed, epoch, position, plan, loss table and policy.

        Inside a loop body the current batch counts as done: take the state after the step. With
        several processes take it between epochs, when the table is the same on all of them.
        """
        return {
            "data": self.store.index.fingerprint,
            "batches": self._batching,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._position,
            # Before an epoch's first use there is no plan, and the table says all.
            "plan": None if self._plan is None else self._plan.state_dict(),
            "table": self.table.state_dict(),
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken, with the very batch that would have come.

        A running loop ends. A state from the end of an epoch continues with the next one.

        Raises:
            ValueError: the state is of another data set, or of batches counted otherwise.
        """
        missing = _STATE - state.keys()
        if missing:
            raise ValueError(
                f"state: got {', '.join(map(str, state)) or 'nothing'}, without "
                f"{', '.join(sorted(missing))}; expected what a loader's state_dict() gave"
            )
        if state["data"] != self.store.index.fingerprint:
            raise ValueError(
                f"state: it was saved with another data set ({state['data']}, "
                f"{len(state['table']['losses'])} images) than this loader's "
                f"({self.store.index.fingerprint}, {len(self.table)} images); load it into a "
                "loader over the same files, with the same ones left out"
            )
        if state["position"] and state["batches"] != self._batching:
            raise ValueError(
                f"state: it was saved in mid-epoch with {state['batches']}, and this loader has "
                f"{self._batching}; its position means something else here"
            )
        plan = state["plan"]
        if plan is not None:
            plan = EpochPlan.from_state_dict(plan, self.policy.layouts)
        self._end_running()
        self.table.load_state_dict(state["table"])
        self.policy.load_state_dict(state["policy"])
        self.seed = state["seed"]
        self._go_to(state["epoch"])
        self._plan = plan
        self._position = self._resume_at = state["position"]
        if self._position and self._position == len(self):
            self._go_to(self.epoch + 1)

    @property
    def _batching(self) -> dict[str, Any]:
        """What a position in an epoch depends on beside the plan."""
        return {
            "batch_size": self._global_batch,
            "by": self.policy.batch_by,
            "drop_last": self.drop_last,
        }

    def close(self) -> None:
        """Stop decoding and free the decoder."""
        if self._process not in (None, os.getpid()):
            return  # after a fork: the threads are the parent's to end
        self._end_running()
        self._ahead.close()
        self._decoder.close()
        self._blocks = Blocks()
        self._process = None

    def _end_running(self) -> None:
        running = self._running() if self._running is not None else None
        if running is not None:
            running.close()

    def _batches(self) -> Batches:
        return self.plan.batches(
            self.batch_size,
            by=self.policy.batch_by,
            drop_last=self.drop_last,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _run_epoch(self) -> Generator[tuple[Tensor, CompositeTarget], None, None]:
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "this loader was used before a fork, and its threads stayed with the parent "
                "process; make one of its own in this process"
            )
        self._process = os.getpid()
        start, self._resume_at = self._resume_at, 0
        plan, batches = self.plan, self._batches()
        if not len(batches):
            raise ValueError(
                f"drop_last: nothing is left of epoch {plan.epoch}, whose "
                f"{plan.num_constituents} samples in {plan.num_composites} composites fill no "
                f"batch of {self._global_batch}; expected a smaller batch_size, or drop_last=False"
            )
        seconds = self.stats.seconds
        planned: deque[BatchPlan] = deque()

        def jobs() -> Iterator[DecodeJob]:
            index = self.store.index
            coming = plan_batches(
                plan,
                itertools.islice(batches, start, None),
                index.heights,
                index.widths,
                self.canvas,
                self.crop,
            )
            while True:
                with part("plan", seconds):
                    batch_plan = next(coming, None)
                if batch_plan is None:
                    return
                planned.append(batch_plan)
                yield batch_plan.job

        def make() -> tuple[Tensor, CompositeTarget] | None:
            planning = seconds.get("plan", 0.0)
            with part("decode", seconds):
                decoded = next(decoding, None)  # asks for the batches to come: plans them
            seconds["decode"] -= seconds.get("plan", 0.0) - planning
            if decoded is None:
                return None
            with part("compose", seconds):
                return self._compose(planned.popleft(), decoded[1], plan.epoch)

        self._position = start
        with part("decode", seconds):
            decoded_batches = self._decoder.decode(jobs())  # a cache is filled here
        with closing(decoded_batches) as decoding, closing(self._ahead(make)) as made:
            for batch in made:
                self._position += 1
                yield batch
        if self.train and self.world_size > 1:
            if not _distributed() and plan.epoch == 0 and not isinstance(self.policy, Plain):
                logger.warning(
                    "world_size is %d, but torch.distributed has no process group: make the loss "
                    "tables of all ranks equal after every epoch, or their plans differ",
                    self.world_size,
                )
            self.table.all_reduce()
        self._go_to(plan.epoch + 1)

    def _compose(
        self, batch: BatchPlan, rectangles: Sequence[Tensor], epoch: int
    ) -> tuple[Tensor, CompositeTarget]:
        job = batch.job
        origins = np.tile(job.reads[:, :2], 2)
        ids = torch.from_numpy(batch.ids)
        classes = self._labels[ids]
        classes[ids < 0] = 0
        target = CompositeTarget(
            classes=classes,
            weights=torch.from_numpy(batch.weights),
            ids=ids,
            regions=torch.from_numpy(batch.regions),
            epoch=epoch,
            index_map=None if batch.index_map is None else torch.from_numpy(batch.index_map),
            windows=torch.from_numpy(batch.windows),
            flips=torch.from_numpy(batch.flips),
        )
        if self.device.type == "cuda":  # only pinned memory is copied without the host waiting
            target = target.pin_memory().to(self.device, non_blocking=True)
        channels_last = self.memory_format == torch.channels_last
        out = None  # on a GPU torch's allocator keeps freed blocks
        if self.device.type == "cpu":
            out = self._blocks.empty(len(batch.ids), self.canvas, self.dtype, channels_last)
        images = kernels.compose_resampled(
            rectangles,
            torch.from_numpy(job.windows - origins.astype(np.float32)),
            torch.from_numpy(job.sizes),
            torch.from_numpy(batch.source),
            torch.from_numpy(batch.regions),
            size=self.canvas,
            origins=torch.from_numpy(batch.origins),
            flips=torch.from_numpy(batch.flips),
            blend=None if batch.blend is None else torch.from_numpy(batch.blend),
            index_map=target.index_map,
            mean=self.mean,
            std=self.std,
            dtype=self.dtype,
            channels_last=channels_last,
            out=out,
        )
        self.stats.composites += len(batch.ids)
        self.stats.constituents += int(np.count_nonzero(batch.ids >= 0))
        self.stats.decoded = self._decoder.decoded
        return images, target


def _canvas(size: int | tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return operator.index(height), operator.index(width)
    except (TypeError, ValueError):
        raise TypeError(
            f"size: got {size!r}, expected an integer or (height, width), in pixels"
        ) from None


def _evaluation_crop(canvas: tuple[int, int]) -> CenterCrop:
    """The usual evaluation: 256 for a canvas of 224, and in proportion."""
    return CenterCrop(resize=round(max(canvas) * 256 / 224))


def _open(data: object, classes: Sequence[str] | None) -> Store:
    """The store that ``data`` names or is."""
    if isinstance(data, (str, os.PathLike)):
        return open_store(Path(data), classes=classes)
    if not isinstance(data, Store):
        raise TypeError(
            f"data: expected a folder, a tar or a Store, got {type(data).__name__}; images in "
            "memory go into a BytesStore"
        )
    if classes is not None and tuple(classes) != data.index.classes:
        raise ValueError(
            f"classes: this store has {len(data.index.classes)} classes of its own, not the "
            f"{len(classes)} given; pass classes= to the store instead"
        )
    return data


def _check_labels(labels: Tensor, samples: int) -> None:
    right = {1: torch.int64, 2: torch.float32}
    if labels.dim() not in right or labels.dtype != right[labels.dim()] or len(labels) != samples:
        raise ValueError(
            f"labels: got {labels.dtype} {list(labels.shape)}, expected int64 [{samples}] or "
            f"float32 [{samples}, C], a row a sample"
        )


def _with_index(device: torch.device) -> torch.device:
    """The device with its number, so that all parts agree on which GPU ``cuda`` means."""
    if str(device) == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _check_group() -> None:
    """Rank and world size are to be torch.distributed's: whether a launcher's ranks are its yet."""
    launched = os.environ.get("WORLD_SIZE", "1")
    if launched != "1" and not _distributed():
        raise RuntimeError(
            f"rank, world_size: not given, and of {launched} processes each would take the whole "
            "data set, since torch.distributed has no process group yet; call "
            "torch.distributed.init_process_group() first, or pass rank= and world_size="
        )


def _distributed_rank() -> int:
    return torch.distributed.get_rank() if _distributed() else 0


def _distributed_size() -> int:
    return torch.distributed.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
