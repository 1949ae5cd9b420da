"""dense_targets: (class, weight) pairs to soft labels."""

import torch
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import check_classes, check_smoothing, check_tensor, dtype_number

_MOST_CLASSES = 2**30  # for indices of 32 bits


def dense_targets(
    classes: Tensor,
    weights: Tensor,
    num_classes: int,
    *,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Soft labels, the weighted sum of the constituents' smoothed one-hot rows.

    Equivalent to
    ``(weights[..., None] * (one_hot * (1 - smoothing) + smoothing / num_classes)).sum(1)``.

    Args:
        classes: int64 [B, K], K at most 4; below 0: takes no part.
        weights: float32 [B, K], on the same device.
        num_classes: C.
        smoothing: in [0, 1].
        dtype: float32, float16 or bfloat16.

    Returns:
        [B, C]

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape or device, or there are more
            constituents than the kernels are compiled for (4); on the CPU also
            where a class of weight other than 0 is not below ``num_classes``.
    """
    out: Tensor = torch.ops.mixpipe.dense_targets(classes, weights, num_classes, smoothing, dtype)
    return out


def _dense_targets_cpu(
    classes: Tensor, weights: Tensor, num_classes: int, smoothing: float, dtype: torch.dtype
) -> Tensor:
    classes, weights = check_pairs(classes, weights, num_classes, smoothing)
    check_classes(classes, weights, num_classes, None)
    out = torch.empty(len(classes), num_classes, dtype=dtype)
    launch(classes, weights, out, smoothing).run_cpu(torch.get_num_threads())
    return out


def _dense_targets_fake(
    classes: Tensor, weights: Tensor, num_classes: int, smoothing: float, dtype: torch.dtype
) -> Tensor:
    return torch.empty(classes.shape[0], num_classes, dtype=dtype, device=classes.device)


torch.library.define(
    "mixpipe::dense_targets",
    "(Tensor classes, Tensor weights, int num_classes, float smoothing, ScalarType dtype)"
    " -> Tensor",
)
torch.library.impl("mixpipe::dense_targets", "cpu", _dense_targets_cpu)
torch.library.register_fake("mixpipe::dense_targets", _dense_targets_fake)


def check_pairs(
    classes: Tensor, weights: Tensor, num_classes: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Checks the arguments; returns classes and weights contiguous."""
    check_tensor(classes, "classes", dtypes=torch.int64, shape=(None, None))
    check_tensor(
        weights,
        "weights",
        dtypes=torch.float32,
        shape=tuple(classes.shape),
        device=classes.device,
    )
    if classes.shape[1] > _C.MAX_CONSTITUENTS:
        raise ValueError(
            f"classes has {classes.shape[1]} constituents a composite, expected at most "
            f"{_C.MAX_CONSTITUENTS}"
        )
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise ValueError(f"num_classes is {num_classes}, expected 1 to {_MOST_CLASSES}")
    check_smoothing(smoothing, "smoothing")
    return classes.contiguous(), weights.contiguous()


def launch(classes: Tensor, weights: Tensor, out: Tensor, smoothing: float) -> _C.Launch:
    """The kernel's parameters and launch geometry."""
    return _C.dense_targets(
        classes=classes.data_ptr(),
        weights=weights.data_ptr(),
        out=out.data_ptr(),
        batch=classes.shape[0],
        constituents=classes.shape[1],
        num_classes=out.shape[1],
        dtype=dtype_number(out.dtype),
        smoothing=smoothing,
    )
