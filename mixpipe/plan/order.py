"""Orders of samples: random, by loss, and several in one.

All sort packed uint64 keys in place (what to sort by in the high bits, an integer in the low bits):
numpy sorts plain integers with SIMD, several times faster than argsort, and the integers come out
in order without a gather, which at random places in memory would cost more than the sort.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .arrays import Ids, Losses, Mask, id_dtype
from .random import Draw, hashes

__all__ = ["by_loss", "earliest", "interleaved", "random_order", "shuffled"]

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


def interleaved(lengths: Sequence[int]) -> list[Ids]:
    """Places that spread several orders evenly over one.

    lengths: of each order, 6 * 10**9 in all at the most. Returns for each the places [M_i] of its
    elements, rising: order i's j-th is (j + 1/2) / M_i of the way, and of two at one point the
    earlier order's is first. Of any stretch of the whole a part M_i / sum(M) is order i's: of two
    orders give or take one, of n give or take n - 1. By division: a sort would take five times as
    long.
    """
    places = []
    for i, length in enumerate(lengths):
        place = np.empty(length, id_dtype(sum(lengths)))
        for start in range(0, length, _CHUNK):
            piece = place[start : start + _CHUNK]
            j = np.arange(start, start + len(piece), dtype=np.uint64)
            before = j.copy()
            for other, count in enumerate(lengths):
                if other != i and count:
                    # (2 m + 1) / (2 M_other) < (2 j + 1) / (2 M_i), or <= where other is earlier
                    reach = (2 * j + 1) * np.uint64(count) - np.uint64(other > i)
                    before += (reach // np.uint64(length) + 1) >> 1
            piece[:] = before
        places.append(place)
    return places


def earliest(ids: Ids, count: int, *, seed: int, epoch: int, draw: Draw) -> Mask:
    """The mask [n] of those of ``ids``, all different, that are the first ``count`` of `shuffled`.

    Found without a sort, and so that what is done with them goes through memory in order.
    """
    if count >= len(ids):
        return np.ones(len(ids), np.bool_)
    keys = hashes(ids, seed=seed, epoch=epoch, draw=draw)
    _pack(keys, ids, _bits(ids))
    taken: Mask = keys < np.partition(keys, count)[count]
    return taken


def _bits(ids: Ids) -> int:
    """How many bits the largest id takes."""
    return int(ids.max()).bit_length() if len(ids) else 0


def _sorted_low(keys: npt.NDArray[np.uint64], low: Ids | None, bits: int) -> npt.NDArray[np.uint64]:
    """Put ``low`` (None: 0, 1, ...) into the low bits of the keys, sort, and take it out again.

    In place: the keys' memory is the result's.
    """
    _pack(keys, low, bits)
    keys.sort()
    keys &= np.uint64((1 << bits) - 1)
    return keys


def _pack(keys: npt.NDArray[np.uint64], low: Ids | None, bits: int) -> None:
    """Put ``low`` (None: 0, 1, ...) into the low bits of the keys."""
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
