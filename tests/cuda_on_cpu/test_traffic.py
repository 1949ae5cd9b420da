"""Kernels move little more than they must; what that is, traffic.py says."""

import pytest
import torch
from device import unwritten
from traffic import SECTOR, compose_traffic, moved, resample_traffic, traced


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_compose_moves_little_more_than_it_must(dtype, channels_last, k):
    assert compose_traffic(dtype, channels_last, k).ratio <= 1.05


@pytest.mark.parametrize("scale", [1.0, 1.7, 3.0])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resampling_in_compose_moves_less_than_resampling_first(channels_last, scale):
    count, in_two_steps = resample_traffic(torch.float16, channels_last, scale)
    assert count.distinct <= 1.02 * count.must < in_two_steps
    assert count.ratio <= 1.35  # tiles overlap by the reach of the filter


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("classes", [1000, 21841])
def test_cross_entropy_reads_logits_once_and_writes_the_gradient_once(dtype, multi_label, classes):
    batch, k = 3, 2
    logits = torch.randn(batch, k, classes).to(dtype)
    if multi_label:
        targets = torch.rand(batch, k, classes)
    else:
        targets = torch.randint(0, classes, (batch, k))
    size = logits.numel() * logits.element_size()
    gradient = f"{dtype}{[batch, k, classes]}"  # made by the launcher
    for name, direction in (("logits", 0), (gradient, 1)):
        device = traced(name)
        device.cross_entropy(logits, targets, torch.rand(batch, k))
        (kernel,) = (kernel for kernel in device.traffic if "cross_entropy" in kernel)
        used, unused = device.traffic[kernel][direction], device.traffic[kernel][1 - direction]
        assert used.accessed == used.bytes == size
        assert unused.accessed == 0
        # Rows do not start at sectors: each shares its first and last with its neighbours.
        assert SECTOR * used.block_sectors <= size + 2 * SECTOR * batch * k


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_swap_moves_only_the_box(dtype, channels_last):
    """Of 4 images in a cycle, 64 x 96 pixels of 128 x 128 each: read once, written once."""
    images = torch.randn(4, 3, 128, 128).to(dtype)
    images = unwritten((4, 3, 128, 128), dtype, channels_last).copy_(images)
    box = torch.tensor([[32, 16, 96, 112]] * 4).int()
    device = traced()
    device.mix_(images, regions=box, partners=torch.tensor([1, 2, 3, 0]))
    must = 2 * 4 * 3 * 64 * 96 * images.element_size()
    ((_, writes),) = device.traffic.values()
    assert writes.bytes == must // 2
    assert moved(device) <= 1.1 * must


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_dense_targets_writes_each_byte_once(dtype):
    device = traced()
    device.dense_targets(torch.randint(0, 1000, (8, 2)), torch.rand(8, 2), 1000, dtype=dtype)
    size = 8 * 1000 * dtype.itemsize
    ((_, writes),) = device.traffic.values()
    assert writes.bytes == size
    assert SECTOR * writes.request_sectors <= 1.05 * size
