"""Names for the kinds of arrays that the plan is made of."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Ids", "Losses", "Mask", "Size", "id_dtype"]

Ids: TypeAlias = npt.NDArray[np.signedinteger[Any]]  # sample ids, positions, pixels
Losses: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Size: TypeAlias = tuple[int, int]  # (H, W) pixels


def id_dtype(count: int) -> np.dtype[np.signedinteger[Any]]:
    """int32 where ``count`` samples can be numbered with it, else int64."""
    return np.dtype(np.int32 if count < 2**31 else np.int64)
