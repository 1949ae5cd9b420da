"""The kernels on a real device, against the reference; skipped where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, ComposeCase, compose_cases, same, tables
from test_cross_entropy import GRADIENT, LOSS
from test_cross_entropy import cases as losses_cases
from test_cross_entropy import run as run_loss
from test_mix import batches
from torch import Tensor

from mixpipe.kernels import (
    compose,
    composite_cross_entropy,
    debug,
    dense_targets,
    mix_,
    reference,
    select_lowest,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def moved(value: Any, device: str = "cuda") -> Any:
    """Tensors of a structure, on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(moved(item, device) for item in value)
    return value


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any host synchronisation is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@settings(max_examples=100, deadline=None)
@given(compose_cases(), st.sampled_from(DTYPES), st.booleans())
def test_compose(case: ComposeCase, dtype: torch.dtype, channels_last: bool) -> None:
    arguments = case.arguments() | {"dtype": dtype, "channels_last": channels_last}
    on_device = arguments | {
        "patches": moved(case.patches),
        "index_map": moved(case.index_map),
        "out": torch.empty(
            (len(case.source), 3, *case.size),
            dtype=dtype,
            device="cuda",
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        ),
    }
    assert same(compose(**on_device).cpu(), reference.compose(**arguments))


@settings(max_examples=100, deadline=None)
@given(batches())
def test_mix(case: Any) -> None:
    images, how = case
    assert same(mix_(images.cuda(), **how).cpu(), reference.mix_(images.clone(), **how))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_targets(dtype: torch.dtype) -> None:
    classes, weights = torch.randint(-1, 1001, (64, 3)), torch.rand(64, 3)
    how = {"smoothing": 0.1, "dtype": dtype}
    got = dense_targets(classes.cuda(), weights.cuda(), 1001, **how).cpu()
    assert same(got, reference.dense_targets(classes, weights, 1001, **how))


@settings(max_examples=100, deadline=None)
@given(losses_cases())
def test_cross_entropy(case: Any) -> None:
    got = moved(run_loss(composite_cross_entropy, *moved(case)), "cpu")
    want = run_loss(reference.composite_cross_entropy, *case)
    torch.testing.assert_close(got[0], want[0], **LOSS)
    torch.testing.assert_close(got[1], want[1], **LOSS)
    torch.testing.assert_close(got[2], want[2], **GRADIENT[got[2].dtype])
    if got[3] is not None:
        torch.testing.assert_close(got[3], want[3], **LOSS)
        assert torch.equal(got[4], want[4])


@pytest.mark.parametrize("num_classes", [4096, 8191, 21841])
def test_cross_entropy_of_many_classes_is_deterministic(num_classes: int) -> None:
    logits = torch.randn(64, num_classes, device="cuda", requires_grad=True)
    classes = torch.randint(0, num_classes, (64, 2), device="cuda")
    weights = torch.full((64, 2), 0.5, device="cuda")
    want = reference.composite_cross_entropy(logits, classes, weights)[0]
    first, _ = composite_cross_entropy(logits, classes, weights)
    torch.testing.assert_close(first, want, **LOSS)
    for _ in range(10):
        assert torch.equal(composite_cross_entropy(logits, classes, weights)[0], first)


@settings(max_examples=50, deadline=None)
@given(tables())
def test_select_lowest(case: Any) -> None:
    losses, epochs, rule, factors, how = case
    got = select_lowest(losses.cuda(), epochs.cuda(), rule, factors, **how)
    want = reference.select_lowest(losses, epochs, rule, factors, **how)
    assert got.counts == want.counts
    assert (got.masks == want.masks).all()


def step(model: torch.nn.Module, x: Tensor, table: dict[str, Tensor]) -> Tensor:
    """A training step's loss and gradients, with the loss table's entries."""
    classes = torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
    weights = torch.full((len(x), 2), 0.5, device=x.device)
    loss, _ = composite_cross_entropy(model(x), classes, weights, **table, epoch=1)
    loss.backward()
    return loss


def model_and_table() -> tuple[torch.nn.Module, Tensor, dict[str, Tensor]]:
    table = {
        "ids": torch.arange(32, device="cuda").view(16, 2),
        "table_losses": torch.zeros(32, device="cuda"),
        "table_epochs": torch.zeros(32, dtype=torch.int32, device="cuda"),
    }
    return torch.nn.Linear(8, 10).cuda(), torch.randn(16, 8, device="cuda"), table


def test_a_step_does_not_wait() -> None:
    model, x, table = model_and_table()
    step(model, x, table)  # loads the kernel
    with no_waiting():
        step(model, x, table)


def test_a_step_on_a_stream_of_its_own() -> None:
    model, x, table = model_and_table()
    want = step(model, x, table).detach()
    torch.cuda.synchronize()
    table["table_losses"].zero_()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = step(model, x, table)
    stream.synchronize()
    assert torch.equal(got, want)
    assert (table["table_losses"] > 0).all()


def test_opcheck() -> None:
    classes, weights = torch.zeros(4, 2, dtype=torch.int64).cuda(), torch.ones(4, 2).cuda()
    logits = torch.randn(4, 10, device="cuda")
    torch.library.opcheck(
        torch.ops.mixpipe.composite_cross_entropy.default,
        (logits, classes, weights, None, None, None, 0, None, 0.1, -100, True),
    )
    torch.library.opcheck(
        torch.ops.mixpipe.dense_targets.default, (classes, weights, 10, 0.1, torch.float16)
    )


def test_tensors_on_different_devices_are_refused() -> None:
    logits = torch.randn(4, 10, device="cuda")
    with pytest.raises(ValueError, match="weights is on cpu, expected it on cuda:0"):
        composite_cross_entropy(
            logits, torch.zeros(4, 2, dtype=torch.int64).cuda(), torch.ones(4, 2)
        )


def test_debug_mode_checks_what_only_the_device_knows() -> None:
    classes, weights = torch.full((4, 2), 99).cuda(), torch.ones(4, 2).cuda()
    with debug(sync=True), pytest.raises(ValueError, match="expected a class in 0 .. 9"):
        composite_cross_entropy(torch.randn(4, 10, device="cuda"), classes, weights)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices() -> None:
    classes, weights = torch.randint(0, 10, (8, 2)), torch.rand(8, 2)
    want = reference.dense_targets(classes, weights, 10)
    patch, source = torch.randint(0, 256, (8, 9, 3), dtype=torch.uint8), torch.zeros(1, 1).int()
    regions = torch.tensor([[[0, 0, 8, 9]]]).int()
    composite = reference.compose([patch], source, regions, size=(8, 9))
    logits = torch.randn(8, 10)
    loss = reference.composite_cross_entropy(logits, classes, weights)[0]
    # The current device stays cuda:0.
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        got = dense_targets(classes.to(device), weights.to(device), 10)
        assert got.device == torch.device(device)
        assert torch.equal(got.cpu(), want)
        assert same(compose([patch.to(device)], source, regions, size=(8, 9)).cpu(), composite)
        given = (tensor.to(device) for tensor in (logits, classes, weights))
        torch.testing.assert_close(composite_cross_entropy(*given)[0].cpu(), loss, **LOSS)
