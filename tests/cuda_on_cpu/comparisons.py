"""What "equal to the reference" means for each kernel; raises AssertionError where it is not so."""

import math
from typing import Any

import torch
from device import Device, unwritten
from torch import Tensor

from mixpipe.kernels import reference

# compose, mix_ and dense_targets: the same bits. Cross-entropy against float64: exponentials and
# logarithms of float32 are good to 2 units in the last place on hardware and sums of up to 22,000
# are made in pairs; the gradient is rounded to the logits' dtype when made and when scaled.
LOSS = {"rtol": 4e-6, "atol": 4e-6}
GRADIENT = {
    torch.float32: {"rtol": 2e-5, "atol": 1e-7},
    torch.float16: {"rtol": 2e-3, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-6},
}


def same_bits(got: Tensor, want: Tensor) -> None:
    """Equal, NaNs and zeros' signs included."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    bits = {4: torch.int32, 2: torch.int16}[got.element_size()]
    different = got.contiguous().view(bits) != want.contiguous().view(bits)
    if different.any():
        at = different.nonzero()[0].tolist()
        raise AssertionError(
            f"{int(different.sum())} of {different.numel()} elements differ, first at {at}: "
            f"{got[tuple(at)].item()} instead of {want[tuple(at)].item()}"
        )


def compare_compose(
    device: Device, *, dtype: torch.dtype, channels_last: bool, offset: int = 0, **arguments: Any
) -> None:
    shape = (len(arguments["source"]), 3, *arguments["size"])
    out = unwritten(shape, dtype, channels_last, offset)
    how = {"dtype": dtype, "channels_last": channels_last}
    same_bits(device.compose(**arguments, out=out), reference.compose(**arguments, **how))


def compare_resampled(
    device: Device, *, dtype: torch.dtype, channels_last: bool, offset: int = 0, **arguments: Any
) -> None:
    shape = (len(arguments["source"]), 3, *arguments["size"])
    out = unwritten(shape, dtype, channels_last, offset)
    how = {"dtype": dtype, "channels_last": channels_last}
    got = device.compose_resampled(**arguments, out=out)
    same_bits(got, reference.compose_resampled(**arguments, **how))


def compare_mix(device: Device, images: Tensor, how: dict[str, Tensor]) -> None:
    want = images.clone()
    mixed = len(reference.mix_(want, **how))
    got = device.mix_(images, **how)
    same_bits(got, want[:mixed])


def compare_targets(device: Device, *arguments: Any, **how: Any) -> None:
    same_bits(device.dense_targets(*arguments, **how), reference.dense_targets(*arguments, **how))


def compare_cross_entropy(
    device: Device, logits: Tensor, targets: Tensor, weights: Tensor, how: dict[str, Any]
) -> None:
    def table() -> dict[str, Any]:
        return {name: v.clone() if isinstance(v, Tensor) else v for name, v in how.items()}

    own, others = table(), table()
    loss, per_constituent, gradient = device.cross_entropy(logits, targets, weights, **own)
    wide = logits.detach().clone().requires_grad_()
    loss_, per_constituent_ = reference.composite_cross_entropy(wide, targets, weights, **others)
    (gradient_,) = torch.autograd.grad(loss_, wide)
    torch.testing.assert_close(loss, loss_.detach(), **LOSS)
    torch.testing.assert_close(per_constituent, per_constituent_, **LOSS)
    # A difference of terms as large as a composite's weights together, rounded three times: of a
    # single class that is all there is (1.1e-7 of the weights, the most of 2 million draws).
    close = dict(GRADIENT[logits.dtype])
    close["atol"] = max(close["atol"], 3 * 2**-24 * float(weights.sum(1).max()))
    torch.testing.assert_close(gradient, gradient_, **close)
    if "table_losses" in how:
        torch.testing.assert_close(own["table_losses"], others["table_losses"], **LOSS)
        assert torch.equal(own["table_epochs"], others["table_epochs"])


def compare_selection(device: Device, *table: Any, **how: Any) -> None:
    got, want = device.select_lowest(*table, **how), reference.select_lowest(*table, **how)
    assert (got.ranked, got.counts) == (want.ranked, want.counts), "counts are not close"
    assert math.isclose(got.mean, want.mean, rel_tol=1e-12), "means are not close"
    assert (got.masks == want.masks).all(), "masks: elements differ"
