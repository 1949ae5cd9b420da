"""Orders of samples: random, by loss, and several in one.

All sort packed uint64 keys in place (what to sort by in the high bits, an integer in the low bits):
numpy sorts plain integers with SIMD, several times faster than argsort, and the integers come out
in order without a gather, which at random places in memory would cost more than the sort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .arrays import Ids, Losses, id_dtype
from .random import Draw, hashes

__all__ = ["by_loss", "interleaved", "random_order", "shuffled"]

_CHUNK = 1 << 16


def shuffled(ids: Ids, *, seed: int, epoch: int, draw: Draw) -> Ids:
    """``ids`` [n] in random order.

    The order is by each sample's own hash, so the order of a subset is that of the whole set with
    the others left out. 8 bytes a sample beside the result.
    """
    keys = hashes(ids, seed=seed, epoch=epoch, draw=draw)
    return _sorted_low(keys, ids, _bits(ids)).astype(ids.dtype)


def random_order(ids: Ids, *, seed: int, epoch: int, draw: Draw) -> Ids:
    """Positions [n] that put ``ids`` in random order, that of `shuffled`."""
    keys = hashes(ids, seed=seed, epoch=epoch, draw=draw)
    return _sorted_low(keys, None, len(ids).bit_length()).astype(id_dtype(len(ids)))


def by_loss(ids: Ids, losses: Losses, *, seed: int, epoch: int) -> Ids:
    """``ids`` [n] by rising loss; equal losses in random order.

    losses: float32, by sample id; what rounding left below zero counts as zero. The random order is
    as fine as the bits that are left beside loss and id: 12 of them for a million samples.
    """
    # The bits of floats that are not negative (nor -0.0) sort as integers do; the sign is left out.
    keys = (np.maximum(losses[ids], 0.0) + 0.0).view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(33)
    for start in range(0, len(ids), _CHUNK):
        piece = ids[start : start + _CHUNK]
        ties = hashes(piece, seed=seed, epoch=epoch, draw=Draw.TIES)
        keys[start : start + len(piece)] |= ties >> np.uint64(31)
    return _sorted_low(keys, ids, _bits(ids)).astype(ids.dtype)


def interleaved(orders: Sequence[Ids]) -> Ids:
    """One order of several: each keeps its own and is spread evenly over the whole.

    orders: non-negative integers [M_i], at least one array. Of any stretch of the result a part
    M_i / sum(M) comes from order i: of two orders give or take one, of n give or take n - 1.
    """
    keys = np.empty(sum(map(len, orders)), np.uint64)
    end = 0
    for order in filter(len, orders):
        # The j-th of n is at (j + 1/2) / n of the way.
        step = 2**63 // len(order)
        start, end = end, end + len(order)
        keys[start:end] = np.arange(len(order), dtype=np.uint64)
        keys[start:end] *= np.uint64(step)
        keys[start:end] += np.uint64(step // 2)
    numbers = np.concatenate(orders)
    return _sorted_low(keys, numbers, _bits(numbers)).astype(numbers.dtype)


def _bits(ids: Ids) -> int:
    """How many bits the largest id takes."""
    return int(ids.max()).bit_length() if len(ids) else 0


def _sorted_low(keys: npt.NDArray[np.uint64], low: Ids | None, bits: int) -> npt.NDArray[np.uint64]:
    """Put ``low`` (None: 0, 1, ...) into the low bits of the keys, sort, and take it out again.

    In place: the keys' memory is the result's.
    """
    mask = np.uint64((1 << bits) - 1)
    for start in range(0, len(keys), _CHUNK):
        piece = keys[start : start + _CHUNK]
        stop = start + len(piece)
        piece &= ~mask
        piece |= (
            np.arange(start, stop, dtype=np.uint64)
            if low is None
            else low[start:stop].astype(np.uint64)
        )
    keys.sort()
    keys &= mask
    return keys
