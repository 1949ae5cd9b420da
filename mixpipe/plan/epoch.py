"""EpochPlan: who is composed with whom in one epoch, and the batches that ranks take of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from .arrays import Ids, Losses, gathered, id_dtype
from .layouts import WHOLE, Layout, layout_from_state
from .order import interleaved, random_order, shuffled
from .random import Draw

__all__ = [
    "BatchBy",
    "BatchSlice",
    "Batches",
    "EpochPlan",
    "Weighting",
    "assemble",
    "paired_plan",
    "plain_plan",
]

BatchSlice = range  # of composites; empty for a filler
_CHUNK = 1 << 16  # composites put in place at a time: temporaries stay small and in the cache
BatchBy = Literal["composites", "constituents"]
Weighting = Literal["area", "each"]


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's composites, in the order in which they are trained on.

    Composite i has the constituents ``ids[offsets[i]:offsets[i + 1]]``.
    """

    epoch: int
    seed: int
    num_samples: int  # of the data set
    ids: Ids  # [T] sample of each constituent
    offsets: Ids  # [M + 1] rising, from 0 to T
    layouts: Mapping[int, Layout]  # by number of constituents
    shares: Losses | None = None  # [T] of the canvas; None: equal in a composite
    scales: Losses | None = None  # [T] factor on the loss weight; None: 1
    weighting: Weighting = "area"  # "each": every constituent counts alike, whatever its area
    shared: bool = False  # a sample shows in two composites (N -> N mixing)
    max_constituents: int = field(init=False)  # of any composite

    def __post_init__(self) -> None:
        # Piece by piece: of 100 million samples np.diff's memory costs as much as their sort.
        largest = max(
            (
                int(np.diff(self.offsets[start : start + _CHUNK + 1]).max())
                for start in range(0, self.num_composites, _CHUNK)
            ),
            default=0,
        )
        object.__setattr__(self, "max_constituents", largest)

    @property
    def num_composites(self) -> int:
        """Network inputs."""
        return len(self.offsets) - 1

    @property
    def num_constituents(self) -> int:
        """Samples shown in them; in N -> N mixing a sample counts in each of its composites."""
        return len(self.ids)

    def batches(
        self,
        batch_size: int,
        *,
        by: BatchBy = "composites",
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """The batches of one rank, as ranges of composites (see `Batches`)."""
        return Batches(
            self, batch_size, by=by, drop_last=drop_last, rank=rank, world_size=world_size
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings that `from_state_dict` takes (8 to 16 bytes a sample).

        For a checkpoint within the epoch, when the loss table has moved on since the plan was made.
        """
        arrays = {name: getattr(self, name) for name in ("ids", "offsets", "shares", "scales")}
        return {
            **{name: None if a is None else torch.from_numpy(a) for name, a in arrays.items()},
            "layouts": {k: layout.state() for k, layout in self.layouts.items()},
            "epoch": self.epoch,
            "seed": self.seed,
            "num_samples": self.num_samples,
            "weighting": self.weighting,
            "shared": self.shared,
        }

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Any], layouts: Mapping[int, Layout] | None = None
    ) -> EpochPlan:
        """The plan that `state_dict` was made of.

        layouts: those of the policy, by number of constituents; one that a layout was saved from
        is taken as it is, others are made anew from what was saved.
        """
        values: dict[str, Any] = {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in state.items()
        }
        own = {} if layouts is None else layouts
        values["layouts"] = {
            k: own[k] if k in own and own[k].state() == saved else layout_from_state(saved)
            for k, saved in state["layouts"].items()
        }
        return cls(**values)


class Batches(Sequence[BatchSlice]):
    """One rank's batches of a plan: batch b is a range of composite numbers.

    by="composites": a batch has ``batch_size`` composites, the last one what is left.
    by="constituents": there are as many batches as if each had ``batch_size`` constituents, that
    is, as plain training has, and composites are dealt out evenly: batches have the same number of
    them, give or take one, and where a plan's sizes are evenly spread (`assemble`) nearly
    ``batch_size`` constituents. So an epoch has two shapes of input and no short last batch.
    ``batch_size`` is that of one rank. The composites of the global batch b are the same whatever
    the number of ranks that share them, if batch_size * world_size is the same, and are dealt out
    evenly among these; every rank has the same number of batches. Where a batch has fewer
    composites than there are ranks, some ranks get an empty range. `plan_batch` makes of an empty
    range a filler: the plan's last composite once more, with ids -1 and weights 0, so that it takes
    no part in the loss, the table or the accuracy, and a rank still has an input to run on.
    """

    def __init__(
        self,
        plan: EpochPlan,
        batch_size: int,
        *,
        by: BatchBy,
        drop_last: bool,
        rank: int,
        world_size: int,
    ) -> None:
        if by not in ("composites", "constituents"):
            raise ValueError(f"by: got {by!r}, expected 'composites' or 'constituents'")
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
        if by == "constituents" and batch_size < plan.max_constituents:
            raise ValueError(
                f"batch_size: got {batch_size} constituents, expected at least "
                f"{plan.max_constituents}, the size of this plan's largest composite: "
                "raise batch_size or count by='composites'"
            )
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank: got {rank} of world_size {world_size}, expected 0 <= rank < world_size"
            )
        composites = plan.num_composites
        total = composites if by == "composites" else plan.num_constituents
        whole = batch_size * world_size  # the global batch
        count = total // whole if drop_last else -(-total // whole)
        steps = np.arange(count + 1, dtype=np.int64)
        if by == "composites":
            edges = np.minimum(steps * whole, composites)
        else:
            taken = composites * count * whole // max(total, 1) if drop_last else composites
            edges = steps * taken // max(count, 1)
        firsts, sizes = edges[:-1], np.diff(edges)
        # Rounded up, so that a filler is never rank 0's, whose batch-norm statistics
        # DistributedDataParallel hands to the others.
        self._starts = firsts - (-sizes * rank // world_size)
        self._stops = firsts - (-sizes * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> range: ...
    @overload
    def __getitem__(self, index: slice) -> list[range]: ...
    def __getitem__(self, index: int | slice) -> range | list[range]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return range(int(self._starts[index]), int(self._stops[index]))

    def __iter__(self) -> Iterator[range]:
        return (self[i] for i in range(len(self)))


def plain_plan(
    num_samples: int, *, epoch: int, seed: int, ids: Ids | None = None, shuffle: bool = True
) -> EpochPlan:
    """Every sample (or those of ``ids``) by itself, in random order or as they come."""
    if ids is None:
        ids = np.arange(num_samples, dtype=id_dtype(num_samples))
    if shuffle:
        ids = shuffled(ids, seed=seed, epoch=epoch, draw=Draw.ORDER)
    offsets = np.arange(len(ids) + 1, dtype=id_dtype(len(ids) + 1))
    return EpochPlan(epoch, seed, num_samples, ids, offsets, {1: WHOLE})


def paired_plan(num_samples: int, layout: Layout, *, epoch: int, seed: int) -> EpochPlan:
    """N -> N: composite i is led by the i-th sample of the random order, its company is i ^ 1.

    Neighbours lie in the same batch (but at an odd edge), where both need each sample's whole crop
    only once; they depend on neither the batch size nor the rank. An odd one out stays plain.
    """
    order = plain_plan(num_samples, epoch=epoch, seed=seed).ids
    paired = num_samples // 2 * 2
    ids = np.empty(num_samples + paired, order.dtype)
    ids[0 : 2 * paired : 2] = order[:paired]
    ids[1 : 2 * paired : 4] = order[1:paired:2]
    ids[3 : 2 * paired : 4] = order[0:paired:2]
    ids[2 * paired :] = order[paired:]
    offsets = np.arange(0, 2 * num_samples + 1, 2, dtype=id_dtype(2 * num_samples + 1))
    offsets[-1] = len(ids)
    return EpochPlan(epoch, seed, num_samples, ids, offsets, {1: WHOLE, 2: layout}, shared=True)


def assemble(groups: Sequence[Ids], *, epoch: int, seed: int) -> tuple[Ids, Ids]:
    """Put composites of several sizes in one order: random within a size, sizes evenly spread.

    groups: integer arrays [M_k, k], each row one composite, its first sample leading.
    Returns ids [T] and offsets [M + 1]. Composites of one size are in the order of their leaders'
    hashes. As any stretch of the epoch has its part of every size, batches of as many composites
    have nearly as many constituents: what is made ready for one shape of input, a convolution's
    algorithm say, serves the whole epoch. (oneDNN takes 20 ms of a small ResNet for each new shape,
    and a random order of sizes gives 27 shapes an epoch.)
    """
    composites, total = sum(map(len, groups)), sum(group.size for group in groups)
    places = interleaved([len(group) for group in groups])
    sizes = np.empty(composites, np.uint8)
    for group, place in zip(groups, places, strict=True):
        for start in range(0, len(place), _CHUNK):
            sizes[place[start : start + _CHUNK]] = group.shape[1]
    offsets = np.zeros(composites + 1, id_dtype(total + 1))
    np.cumsum(sizes, out=offsets[1:], dtype=offsets.dtype)
    del sizes
    ids = np.empty(total, groups[0].dtype)
    for group, place in zip(groups, places, strict=True):
        group = np.ascontiguousarray(group)  # or each piece's rows would be taken of a new copy
        order = random_order(group[:, 0], seed=seed, epoch=epoch, draw=Draw.ORDER)
        for start in range(0, len(group), _CHUNK):
            members = gathered(group, order[start : start + _CHUNK])
            # Pointer-sized indices: numpy would convert others at every use.
            starts = offsets[place[start : start + _CHUNK]].astype(np.intp)
            for j in range(group.shape[1]):
                ids[starts + j] = members[:, j]
    return ids, offsets
