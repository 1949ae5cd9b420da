"""Checks of tensor arguments, in the caller's words, before any work."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mixpipe import _C

FLOATING = (torch.float32, torch.float16, torch.bfloat16)
"""Element types that the kernels write, in the order of the extension's numbers."""


def dtype_number(dtype: torch.dtype, name: str = "dtype") -> int:
    """The extension's number of an element type; raises TypeError for one it does not write."""
    if dtype not in FLOATING:
        raise TypeError(f"{name} is {dtype}, expected one of {_names(FLOATING)}")
    return FLOATING.index(dtype)


def check_tensor(
    tensor: Tensor,
    name: str,
    *,
    dtypes: torch.dtype | Iterable[torch.dtype],
    shape: tuple[int | None, ...] | None = None,
    device: torch.device | None = None,
    contiguous: bool = False,
) -> None:
    """Raises TypeError or ValueError naming the argument, what was given and what was expected.

    Args:
        tensor: the argument.
        name: its name in the public signature.
        dtypes: the dtypes that are accepted.
        shape: the expected shape; None stands for any size.
        device: the expected device.
        contiguous: whether the elements must lie densely in row-major order.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {type(tensor).__name__}, expected a torch.Tensor")
    accepted = (dtypes,) if isinstance(dtypes, torch.dtype) else tuple(dtypes)
    if tensor.dtype not in accepted:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {_names(accepted)}")
    if shape is not None and tensor.shape != shape and not _fits(tensor.shape, shape):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected [{expected}]")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected it on {device}: move it there")
    if contiguous and not tensor.is_contiguous():
        raise ValueError(
            f"{name} has strides {list(tensor.stride())}, expected a contiguous tensor: "
            f"pass {name}.contiguous()"
        )


def _fits(have: Sequence[int], want: Sequence[int | None]) -> bool:
    return len(have) == len(want) and [
        h if w is None else w for h, w in zip(have, want, strict=True)
    ] == list(have)


def memory_layout(images: Tensor, name: str) -> int:
    """0 for dense NCHW, 1 for dense channels_last; raises ValueError for anything else."""
    if images.is_contiguous():
        return 0
    if images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last):
        return 1
    raise ValueError(
        f"{name} has strides {list(images.stride())}, expected a contiguous or a channels_last "
        f"tensor: pass {name}.contiguous()"
    )


def _names(dtypes: Iterable[torch.dtype]) -> str:
    return " or ".join(str(dtype) for dtype in dtypes)


def check_smoothing(value: float, name: str) -> None:
    """Raises ValueError unless the value is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value}, expected a number from 0 to 1")


def check_classes(
    classes: Tensor, weights: Tensor, num_classes: int, ignore_index: int | None
) -> None:
    """Raises ValueError where a class of weight other than 0 is out of range.

    A GPU that has them is waited for.

    Args:
        classes: int64 [B, K], contiguous.
        weights: float32 [B, K], contiguous.
        num_classes: classes are in 0 .. ``num_classes`` - 1.
        ignore_index: a class that takes no part; None: every class below 0 takes none.
    """
    classes, weights = classes.cpu(), weights.cpu()
    _C.check_targets(
        classes.data_ptr(),
        weights.data_ptr(),
        classes.numel(),
        classes.shape[1],
        num_classes,
        ignore_index,
    )
