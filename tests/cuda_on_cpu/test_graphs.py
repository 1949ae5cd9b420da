"""What a CUDA graph keeps of the kernels: launched again with the parameters of the capture, on the
same memory with other contents, they give what a new call gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import GRADIENT, LOSS, same_bits
from device import Device, unwritten
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixpipe.kernels import reference

CPU = torch.device("cpu")


class Pool(TorchDispatchMode):
    """Keeps every tensor that is made, as a graph's memory pool does."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        self._kept.append(result)
        return result


class Graph:
    """A stand-in for torch.cuda.CUDAGraph that has captured launches alone."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pool = Pool()

    @contextmanager
    def capture(self) -> Iterator[None]:
        with self._device.watching():
            self._device.launcher.store(np.zeros(4, np.uint8), CPU)  # a warm-up loads this kernel
        self._device.capturing = True
        with self._pool:
            yield
        self._device.capturing = False

    def replay(self) -> None:
        for launch, memory in self._device.captured:
            self._device.memory = memory
            self._device.launcher(launch, CPU)


@pytest.mark.parametrize("build", ["plain", "checked"])
def test_compose_shows_the_pixels_of_the_replay_where_the_capture_put_them(build: str) -> None:
    """A table of more than one launch carries the plan."""
    rng = torch.Generator().manual_seed(0)
    patches = [torch.zeros(4, 8, 3, dtype=torch.uint8) for _ in range(80)]
    source = torch.randperm(160, generator=rng).view(80, 2).int() % 80
    regions = torch.tensor([[0, 0, 4, 3], [0, 3, 4, 8]]).int().expand(80, 2, 4).contiguous()
    flips = torch.rand(80, 2, generator=rng) < 0.5
    how = {"size": (4, 8), "flips": flips.clone()}
    device, out = Device(build), unwritten((80, 3, 4, 8), torch.float32)
    device.compose(patches, source, regions, **how, out=out)  # the warm-up
    graph = Graph(device)
    with graph.capture():
        device.compose(patches, source, regions, **how, out=out)
    sources = [launch.source for launch, _ in device.captured]
    assert sources == ["stage.cu", "stage.cu", "compose.cu"]
    how["flips"].logical_not_()  # the plan is the capture's
    for patch in patches:
        patch.copy_(torch.randint(0, 256, patch.shape, generator=rng))
    graph.replay()
    same_bits(out, reference.compose(patches, source, regions, size=(4, 8), flips=flips))


def test_mix_mixes_the_images_of_the_replay() -> None:
    images = torch.zeros(6, 3, 8, 16)
    partners = torch.tensor([1, 2, 0, 4, 3, 5])
    boxes = torch.tensor([[1, 2, 7, 13]] * 6).int()
    device = Device("checked")
    device.mix_(images, regions=boxes, partners=partners)
    graph = Graph(device)
    with graph.capture():
        device.mix_(images, regions=boxes, partners=partners)
    for seed in range(2):
        images.copy_(torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)))
        want = reference.mix_(images.clone(), regions=boxes, partners=partners)
        graph.replay()
        same_bits(images, want)


def test_a_loss_reads_all_from_the_device_the_epoch_too() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, classes = torch.zeros(6, 50), torch.zeros(6, 2, dtype=torch.int64)
    weights, ids = torch.zeros(6, 2), torch.zeros(6, 2, dtype=torch.int64)
    epoch = torch.zeros((), dtype=torch.int32)
    table = {"table_losses": torch.zeros(12), "table_epochs": torch.zeros(12, dtype=torch.int32)}
    device = Device("checked")

    def step() -> tuple[Tensor, Tensor, Tensor]:
        return device.cross_entropy(logits, classes, weights, ids=ids, **table, epoch=epoch)

    step()
    graph = Graph(device)
    with graph.capture():
        loss, per_constituent, gradient = step()
    for now in (3, 4):
        logits.copy_(torch.randn(logits.shape, generator=rng))
        classes.copy_(torch.randint(0, 50, classes.shape, generator=rng))
        weights.copy_(torch.rand(weights.shape, generator=rng))
        ids.copy_(torch.randperm(12, generator=rng).view(6, 2))
        epoch.fill_(now)
        graph.replay()
        wide = logits.clone().requires_grad_()
        loss_, per_constituent_ = reference.composite_cross_entropy(wide, classes, weights)
        torch.testing.assert_close(loss, loss_.detach(), **LOSS)
        torch.testing.assert_close(per_constituent, per_constituent_, **LOSS)
        (gradient_,) = torch.autograd.grad(loss_, wide)
        torch.testing.assert_close(gradient, gradient_, **GRADIENT[torch.float32])
        assert torch.equal(table["table_losses"][ids], per_constituent)
        assert (table["table_epochs"] == now).all()
