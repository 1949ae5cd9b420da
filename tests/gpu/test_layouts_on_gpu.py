"""Layouts of one's own on a real device: filled there by numba, and the loader's maps."""

import itertools
import math

import numpy as np
import pytest
import torch

import mixpipe
from mixpipe.kernels import compose, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@mixpipe.layout
def circle(y, x, height, width, ratio, u0, u1):
    radius = math.sqrt((1 - ratio) * height * width / math.pi)
    centre_y, centre_x = height * (0.3 + 0.4 * u0), width * (0.3 + 0.4 * u1)
    return (y + 0.5 - centre_y) ** 2 + (x + 0.5 - centre_x) ** 2 < radius**2


@mixpipe.layout(k=3)
def stripes(y, x, height, width, ratio, u0, u1):
    return (y + int(u0 * 12) + (x + int(u1 * 12)) // 2) // 4 % 3


@mixpipe.layout
def first_row_out_of_range(y, x, height, width, ratio, u0, u1):
    return -1 if y == 0 else x % 2


def filled(layout, device, size=(61, 70), count=16):
    random = np.random.default_rng(0)
    numbers = [random.uniform(0.1, 0.9, count) for _ in range(3)]
    return layout.index_map(*numbers, size=size, device=device)


def test_integers_are_filled_as_on_the_cpu():
    assert torch.equal(filled(stripes, "cuda").cpu(), filled(stripes, "cpu"))


def test_only_pixels_on_an_edge_may_differ():
    """Multiply-adds are fused on the GPU."""
    different = filled(circle, "cuda").cpu() != filled(circle, "cpu")
    assert different.float().mean() < 1e-3


def test_an_index_out_of_range_shows_nobody():
    index_map = filled(first_row_out_of_range, "cuda").cpu()
    assert (index_map[:, 0] == 255).all()
    assert (index_map[:, 1:] <= 1).all()


def test_it_is_filled_on_the_current_stream_and_read_by_compose():
    count, size = 16, (61, 70)
    patches = [
        torch.randint(0, 256, (*size, 3), dtype=torch.uint8, device="cuda")
        for _ in range(3 * count)
    ]
    how = {
        "source": torch.arange(3 * count).view(count, 3).int(),
        "regions": torch.tensor([0, 0, *size]).int().expand(count, 3, 4).contiguous(),
        "size": size,
    }
    with torch.cuda.stream(torch.cuda.Stream()):
        images = compose(patches, index_map=filled(stripes, "cuda", size, count), **how).cpu()
    on_host = [patch.cpu() for patch in patches]
    want = reference.compose(on_host, index_map=filled(stripes, "cpu", size, count), **how)
    assert torch.equal(images, want)


def test_the_loader_uses_the_plans_maps():
    """The very maps that the labels were counted in, on every device."""
    tiers = [mixpipe.Tier(2, mixpipe.RandomRule(0.8), layout=circle)]
    policy = mixpipe.MixTrain(tiers=tiers, warmup=0)

    def loader(device):
        return mixpipe.MixLoader(
            mixpipe.embedded("train"), batch_size=32, size=28, policy=policy, device=device
        )

    batches = zip(loader("cuda"), loader("cpu"), strict=True)
    for (images, target), (want, want_target) in itertools.islice(batches, 5):
        assert target.index_map.is_cuda
        assert torch.equal(target.index_map.cpu(), want_target.index_map)
        assert (images.cpu() - want).abs().max() <= 2.01 / 255 / 0.224
