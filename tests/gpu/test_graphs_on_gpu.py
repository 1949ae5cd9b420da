"""CUDA graphs of the kernels on a real device: a replay on other contents equals a call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mixpipe
from mixpipe.kernels import compose, compose_resampled, dense_targets, mix_, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BATCH, K, CLASSES, SIZE = 48, 2, 100, (20, 40)


def captured(step: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of the step, which has run once before, and what its replays write."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


def plan(seed: int) -> dict[str, Tensor]:
    """Where 2 * BATCH canvases show: enough constituents for a table of several launches."""
    rng = torch.Generator().manual_seed(seed)
    cut = int(torch.randint(1, SIZE[1], (1,), generator=rng))
    regions = torch.tensor([[0, 0, SIZE[0], cut], [0, cut, SIZE[0], SIZE[1]]]).int()
    regions = regions.expand(BATCH, K, 4).contiguous()
    return {
        "source": torch.randperm(BATCH * K, generator=rng).view(BATCH, K).int(),
        "regions": regions,
        "origins": regions[..., :2].contiguous(),
        "flips": torch.rand(BATCH, K, generator=rng) < 0.5,
    }


def canvases() -> list[Tensor]:
    """BATCH * K images of the canvas' size."""
    shape = (*SIZE, 3)
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda") for _ in range(BATCH * K)
    ]


def repaint(patches: list[Tensor]) -> None:
    """Other pixels in the same memory."""
    for patch in patches:
        patch.copy_(torch.randint(0, 256, patch.shape, dtype=torch.uint8))


def test_compose() -> None:
    patches, how = canvases(), plan(0)
    given = {name: tensor.clone() for name, tensor in how.items()}
    out = torch.empty(BATCH, 3, *SIZE, device="cuda", dtype=torch.float16)
    graph, _ = captured(lambda: compose(patches, **given, size=SIZE, out=out))
    for tensor in given.values():
        tensor.zero_()  # the plan is the capture's
    for _ in range(3):
        repaint(patches)
        graph.replay()
        on_host = [patch.cpu() for patch in patches]
        want = reference.compose(on_host, **how, size=SIZE, dtype=torch.float16)
        assert torch.equal(out.cpu(), want)


def test_compose_resampled() -> None:
    rectangles, how = canvases(), plan(1)
    windows = torch.tensor([[0.5, 1.25, SIZE[0] - 1, SIZE[1] - 2.5]]).repeat(BATCH * K, 1)
    sizes = torch.tensor([SIZE]).int().repeat(BATCH * K, 1)
    given = (rectangles, windows, sizes)
    out = torch.empty(BATCH, 3, *SIZE, device="cuda")
    graph, _ = captured(lambda: compose_resampled(*given, **how, size=SIZE, out=out))
    for _ in range(3):
        repaint(rectangles)
        graph.replay()
        assert torch.equal(out, compose_resampled(*given, **how, size=SIZE))


@pytest.mark.parametrize("kind", ["regions", "weights"])
def test_mix(kind: str) -> None:
    """A cycle through all images; the second replay mixes other images."""
    images = torch.empty(BATCH, 3, *SIZE, device="cuda")
    partners = torch.arange(BATCH).roll(1)
    boxes = torch.tensor([[2, 3, 17, 33]] * BATCH).int()
    amounts = {"regions": boxes} if kind == "regions" else {"weights": torch.rand(BATCH)}
    graph, _ = captured(lambda: mix_(images, partners=partners, **amounts))
    for _ in range(2):
        images.normal_()
        want = reference.mix_(images.cpu(), partners=partners, **amounts)
        graph.replay()
        assert torch.equal(images.cpu(), want)


def test_a_training_step_over_two_epochs() -> None:
    """Model, loss, soft labels and backward in a graph; inputs composed into its memory before."""
    torch.manual_seed(0)
    maps, head = torch.nn.Conv2d(3, 8, 3, padding=1).cuda(), torch.nn.Linear(8, CLASSES).cuda()
    pool, parameters = mixpipe.RegionPool(), [*maps.parameters(), *head.parameters()]
    patches, images = canvases(), torch.empty(BATCH, 3, *SIZE, device="cuda")
    tables = [mixpipe.LossTable(BATCH * K, device="cuda") for _ in range(2)]
    epoch = torch.zeros((), dtype=torch.int32, device="cuda")
    target = mixpipe.CompositeTarget(
        classes=torch.zeros(BATCH, K, dtype=torch.int64, device="cuda"),
        weights=torch.full((BATCH, K), 0.5, device="cuda"),
        ids=torch.arange(BATCH * K, device="cuda").view(BATCH, K),
        regions=plan(0)["regions"].cuda(),
        epoch=epoch,
    )
    compose(patches, **plan(0), size=SIZE, out=images)

    def step(table: mixpipe.LossTable) -> tuple[Tensor, Tensor, list[Tensor]]:
        logits = head(pool(maps(images), target.regions, SIZE))
        loss = mixpipe.CompositeLoss(table)(logits, target)
        soft = dense_targets(target.classes, target.weights, CLASSES, smoothing=0.1)
        return loss, soft, list(torch.autograd.grad(loss, parameters))

    graph, (loss, soft, gradients) = captured(lambda: step(tables[0]))
    close = {"rtol": 1e-4, "atol": 1e-5}  # a convolution need not add in the same order twice
    for now in (5, 6):
        how = plan(now)
        compose(patches, **how, size=SIZE, out=images)
        target.classes.random_(CLASSES)
        target.weights.uniform_()
        target.regions.copy_(how["regions"])
        epoch.fill_(now)
        graph.replay()
        loss_, soft_, gradients_ = step(tables[1])
        torch.testing.assert_close(loss, loss_, **close)
        assert torch.equal(soft, soft_)
        torch.testing.assert_close(gradients, gradients_, **close)
        torch.testing.assert_close(tables[0].losses, tables[1].losses, **close)
        assert (tables[0].epochs == now).all()
