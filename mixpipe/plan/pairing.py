"""Pairing: which of the mixable samples share a composite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from .arrays import Ids, Losses, Mask
from .order import by_loss, random_order
from .random import Draw

__all__ = ["ByClass", "BySimilarLoss", "Pairing", "RandomPairing"]


class Pairing(ABC):
    """Puts samples into groups of k."""

    @abstractmethod
    def groups(self, ids: Ids, k: int, losses: Losses, *, seed: int, epoch: int) -> Ids:
        """Ids [n / k, k] of the samples ``ids`` [n], which come in random order.

        losses: float32, by sample id, finite and 0 or more.
        """


@dataclass(frozen=True)
class RandomPairing(Pairing):
    """Anybody with anybody."""

    def groups(self, ids: Ids, k: int, losses: Losses, *, seed: int, epoch: int) -> Ids:
        """See `Pairing.groups`."""
        return ids.reshape(-1, k)


@dataclass(frozen=True)
class BySimilarLoss(Pairing):
    """Samples of about the same loss together."""

    def groups(self, ids: Ids, k: int, losses: Losses, *, seed: int, epoch: int) -> Ids:
        """See `Pairing.groups`."""
        # In order first: gathering losses at random places would cost more than this sort.
        return by_loss(np.sort(ids), losses, seed=seed, epoch=epoch).reshape(-1, k)


@dataclass(frozen=True)
class ByClass(Pairing):
    """Only samples of different classes together, or only of the same class.

    labels: integers [N], 0 or more, the class of every sample. same: of one class, else of
    different ones. What cannot be had (a class that more than a k-th of the samples belong to, the
    last few samples of a class) is left as it comes.
    """

    labels: Ids = field(repr=False, compare=False)
    same: bool = False

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels: got {labels.dtype} {list(labels.shape)}, expected integers [N], the "
                "class of every sample"
            )
        object.__setattr__(self, "labels", labels)

    def groups(self, ids: Ids, k: int, losses: Losses, *, seed: int, epoch: int) -> Ids:
        """See `Pairing.groups`."""
        if len(self.labels) < len(losses):
            raise ValueError(
                f"labels: got {len(self.labels)}, expected one for each of the {len(losses)} "
                "samples of the loss table"
            )
        if self.same:
            return ids[self._class_order(ids, seed, epoch)].reshape(-1, k)
        groups = ids.reshape(-1, k)
        # Random groups are nearly right. Those that are not are dealt anew among themselves, and
        # only if that fails is everything.
        wrong = self._has_twins(groups)
        if wrong.any():
            groups = groups.copy()
            groups[wrong] = self._dealt(groups[wrong], seed, epoch)
            if self._has_twins(groups).any():
                groups = self._dealt(groups, seed, epoch)
        return groups

    def _class_order(self, ids: Ids, seed: int, epoch: int) -> Ids:
        """Positions that put ``ids`` class by class, the classes in random order."""
        # A class's hash is the same for all its samples, which keep the order in which they come.
        return random_order(self.labels[ids], seed=seed, epoch=epoch, draw=Draw.GROUP)

    def _has_twins(self, groups: Ids) -> Mask:
        """Which groups have two of the same class."""
        labels = np.sort(self.labels[groups], axis=1)
        twins: Mask = (labels[:, 1:] == labels[:, :-1]).any(axis=1)
        return twins

    def _dealt(self, groups: Ids, seed: int, epoch: int) -> Ids:
        """The same samples dealt out class by class, one to a group, like cards.

        Two of one class meet only if the class has more samples than there are groups.
        """
        ids = groups.reshape(-1)
        dealt: Ids = ids[self._class_order(ids, seed, epoch)].reshape(groups.shape[1], -1).T
        return dealt
