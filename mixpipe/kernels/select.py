"""select_lowest: which samples have the lowest losses, found where the loss table lies.

losses, epochs [N] ──► mean, threshold, subset (on the device) ──► one copy: N bits a tier
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import check_tensor

RULES = ("mean", "share", "budget")
"""In the order of the extension's numbers."""


@dataclass(frozen=True)
class Selection:
    """The samples that a rule takes.

    Attributes:
        ranked: samples that have been seen and whose loss is finite.
        mean: of their losses.
        counts: samples of each tier's subset.
        masks: bool [tiers, N].
    """

    ranked: int
    mean: float
    counts: list[int]
    masks: NDArray[np.bool_]


def select_lowest(
    losses: Tensor,
    epochs: Tensor,
    rule: str,
    factors: Sequence[float],
    *,
    savings: Sequence[float] = (),
    target: float = 0.0,
    seed: int = 0,
) -> Selection:
    """Selects the samples of lowest loss from a loss table, for up to four tiers at once.

    A sample is ranked when it has been seen and its loss is finite; a loss below 0 counts as 0.
    The host waits for the result, once: it is for the plan of an epoch, and for no CUDA graph.

    Args:
        losses: float32 [N].
        epochs: int32 [N] on the same device; below 0: unseen.
        rule: "mean": losses of at most ``factor`` times the mean. "share": the
            ``round(factor * ranked)`` lowest, equal losses told apart at random by ``seed``.
            "budget": losses of at most ``factor * scale`` times the mean, with the largest scale
            for which ``sum(savings * counts)`` is at most ``target``; none where no scale does.
        factors: one for each tier, 0 or more.
        savings: network inputs that each sample of a tier's subset saves; for "budget".
        target: network inputs to save; for "budget".
        seed: of the order among equal losses, for "share".

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape, device or value.
    """
    check_select(losses, epochs, rule, factors, savings)
    if losses.is_cuda:
        from mixpipe.kernels import cuda

        return cuda.select_lowest(
            cuda.launcher(), losses, epochs, rule, factors, savings=savings, target=target,
            seed=seed,
        )  # fmt: skip
    from mixpipe.kernels import reference

    return reference.select_lowest(
        losses, epochs, rule, factors, savings=savings, target=target, seed=seed
    )


def check_select(
    losses: Tensor,
    epochs: Tensor,
    rule: str,
    factors: Sequence[float],
    savings: Sequence[float],
) -> None:
    """Raises TypeError or ValueError for arguments that select_lowest cannot take."""
    check_tensor(losses, "losses", dtypes=torch.float32, shape=(None,), contiguous=True)
    check_tensor(
        epochs,
        "epochs",
        dtypes=torch.int32,
        shape=(len(losses),),
        device=losses.device,
        contiguous=True,
    )
    if len(losses) > 2**31 - 2**20:
        raise ValueError(f"losses has {len(losses)} samples, expected at most {2**31 - 2**20}")
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {', '.join(map(repr, RULES))}")
    if not 1 <= len(factors) <= _C.MAX_TIERS or any(not factor >= 0 for factor in factors):
        raise ValueError(
            f"factors is {list(factors)}, expected 1 to {_C.MAX_TIERS} numbers of 0 or more"
        )
    if rule == "budget" and len(savings) != len(factors):
        raise ValueError(
            f"savings has {len(savings)} numbers, expected one for each of {len(factors)} factors"
        )


def unpack_selection(result: bytes, size: int, tiers: int) -> Selection:
    """The selection of a result's bytes, as the kernels leave them."""
    ranked, mean, counts = _C.read_selection(result, tiers)
    _, head = _C.selection_layout(size, tiers)
    words = np.frombuffer(result, dtype=np.uint8, offset=head).reshape(tiers, -1)
    masks = np.unpackbits(words, axis=1, bitorder="little")[:, :size].view(np.bool_)
    return Selection(ranked, mean, counts, masks)
