"""Names for the kinds of arrays that the plan is made of."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Ids", "Losses", "Mask", "Size", "gathered", "id_dtype"]

Ids: TypeAlias = npt.NDArray[np.signedinteger[Any]]  # sample ids, positions, pixels
Losses: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Size: TypeAlias = tuple[int, int]  # (H, W) pixels
_Any = TypeVar("_Any", bound=np.generic)
_CHUNK = 1 << 16


def id_dtype(count: int) -> np.dtype[np.signedinteger[Any]]:
    """int32 where ``count`` samples can be numbered with it, else int64."""
    return np.dtype(np.int32 if count < 2**31 else np.int64)


def gathered(values: npt.NDArray[_Any], ids: Ids) -> npt.NDArray[_Any]:
    """``values[ids]``, of one value or one row an id, for ids in any order.

    By `numpy.take`: of rows, indexing takes ten times as long. In pieces, as either makes
    pointer-sized integers of the ids.
    """
    out = np.empty((len(ids), *values.shape[1:]), values.dtype)
    for start in range(0, len(ids), _CHUNK):
        piece = ids[start : start + _CHUNK]
        # "clip" writes to ``out`` directly; the ids are within bounds.
        values.take(piece, axis=0, out=out[start : start + _CHUNK], mode="clip")
    return out
