"""Bytes moved, counted from the addresses that the emulated kernels touch.

Counted by 32-byte sector, each once a block: what a GPU moves between its L2 cache and a
multiprocessor whose L1 cache holds a block's working set, with nothing shared between blocks.
"""

import pytest
import torch
from device import Device, unwritten

SECTOR = 32
CUT = 97  # no multiple of any vector


def moved(device):
    """Bytes that the last launch moved."""
    reads, writes = list(device.traffic.values())[-1]
    return SECTOR * (reads.block_sectors + writes.block_sectors)


def traced(name=""):
    device = Device("checked")
    device.traced = name
    return device


def regions_of(k, size):
    """One region, a cut, three strips, a grid."""
    if k < 4:
        edges = [0, CUT, size] if k == 2 else [size * j // k for j in range(k + 1)]
        return [[0, edges[j], size, edges[j + 1]] for j in range(k)]
    return [
        [y0, x0, y1, x1] for y0, y1 in ((0, CUT), (CUT, size)) for x0, x1 in ((0, CUT), (CUT, size))
    ]


def compose_traffic(dtype, channels_last, k, *, flips=True, batch=2, size=224):
    """Bytes moved and bytes that must move: patches, parts and result once each."""
    boxes = regions_of(k, size)
    # Patches one after another in one buffer, as the decoder leaves them.
    shapes = [(y1 - y0, x1 - x0, 3) for y0, x0, y1, x1 in boxes * batch]
    buffer = torch.randint(0, 256, (sum(h * w * c for h, w, c in shapes),), dtype=torch.uint8)
    pieces = buffer.split([h * w * c for h, w, c in shapes])
    patches = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    out = unwritten((batch, 3, size, size), dtype, channels_last)
    device = traced()
    device.compose(
        patches,
        torch.arange(batch * k).view(batch, k).int(),
        torch.tensor([boxes] * batch).int(),
        size=(size, size),
        flips=torch.arange(batch * k).view(batch, k) % 2 == 1 if flips else None,
        out=out,
    )
    must = buffer.numel() + out.numel() * out.element_size() + 56 * batch * k
    ((reads, writes),) = device.traffic.values()
    assert writes.bytes == out.numel() * out.element_size()
    assert reads.bytes >= buffer.numel()
    return moved(device), must


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_compose_moves_little_more_than_it_must(dtype, channels_last, k):
    got, must = compose_traffic(dtype, channels_last, k)
    assert got <= 1.05 * must


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
