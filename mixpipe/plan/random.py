"""Random numbers that are a function of (seed, epoch, sample id, draw) and of nothing else.

A counter-based hash has no state, so a number never depends on the batch slot, the batch size, the
rank, the thread or what was drawn before: resuming and re-sharding need no generator's state, and
two runs that differ in one setting share all other randomness.

The hash is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014):
output ``i`` of the stream ``key`` is ``mix(key + i * GOLDEN)``. The sample id is the counter ``i``;
(seed, epoch, draw, index) is folded into the key.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .arrays import Floats, Ids

__all__ = ["Draw", "hashes", "uniforms"]

GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# Hashing is done in pieces that stay in the second-level cache.
_CHUNK = 1 << 15


class Draw(IntEnum):
    """What a random number is for. Each purpose is a stream of its own; never renumber them."""

    ORDER = 0  # place of a composite in the epoch
    GROUP = 1  # who shares a composite with whom
    TIES = 2  # who is taken among samples of equal loss
    SUBSET = 3  # RandomRule
    DROP = 4  # who is dropped
    LAYOUT = 5  # where the regions lie
    CROP = 6  # the crop of the source image
    FLIP = 7  # mirrored or not


def _mix_int(x: int) -> int:
    """SplitMix64's finaliser on a Python integer."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def stream_key(seed: int, epoch: int, draw: int, index: int = 0) -> int:
    """The 64-bit key of one stream: seed, epoch, draw and index folded in one after the other."""
    key = 0
    for part in (seed, epoch, draw, index):
        key = _mix_int(key + GOLDEN + _mix_int(part + GOLDEN))
    return key


@lru_cache(maxsize=64)
def _stream_keys(seed: int, epoch: int, draw: int, count: int) -> npt.NDArray[np.uint64]:
    """The keys of the indices 0 to count - 1; kept, since every batch of an epoch asks for them."""
    keys = np.array([stream_key(seed, epoch, draw, j) for j in range(count)], np.uint64)
    keys.flags.writeable = False
    return keys


def _mix(x: npt.NDArray[np.uint64]) -> None:
    """SplitMix64's finaliser, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(_MIX1)
    x ^= x >> np.uint64(27)
    x *= np.uint64(_MIX2)
    x ^= x >> np.uint64(31)


def hashes(
    ids: Ids, *, seed: int, epoch: int, draw: Draw, index: int = 0
) -> npt.NDArray[np.uint64]:
    """One 64-bit hash a sample.

    ids: integers [n], each in [0, 2**63). Returns uint64 [n].
    """
    key = np.uint64(stream_key(seed, epoch, draw, index))
    out = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _CHUNK):
        piece = out[start : start + _CHUNK]
        piece[:] = ids[start : start + _CHUNK]
        piece *= np.uint64(GOLDEN)
        piece += key
        _mix(piece)
    return out


def uniforms(ids: Ids, count: int, *, seed: int, epoch: int, draw: Draw) -> Floats:
    """``count`` numbers a sample, uniform in [0, 1) with 53 bits.

    ids: integers [n]. Returns float64 [count, n]; row j is the stream of index j, so asking for
    more rows does not change the first ones.
    """
    x = ids.astype(np.uint64) * np.uint64(GOLDEN) + _stream_keys(seed, epoch, draw, count)[:, None]
    _mix(x)
    x >>= np.uint64(11)
    out: Floats = x * 2.0**-53
    return out
