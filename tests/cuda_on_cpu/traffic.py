"""Bytes that kernels move, counted from the addresses that the emulated kernels touch.

Counted by 32-byte sector, each once a block: what a GPU moves between its L2 cache and a
multiprocessor whose L1 cache holds a block's working set, with nothing shared between blocks.
"""

from dataclasses import dataclass

import torch
from device import Device, unwritten

SECTOR = 32


def moved(device: Device) -> int:
    """Bytes that the last launch moved."""
    reads, writes = list(device.traffic.values())[-1]
    return SECTOR * (reads.block_sectors + writes.block_sectors)


def distinct(device: Device) -> int:
    """Bytes of the sectors that the last launch touched."""
    reads, writes = list(device.traffic.values())[-1]
    return SECTOR * (reads.sectors + writes.sectors)


def traced(name: str = "") -> Device:
    """A device that counts the traffic of one memory, or of all."""
    device = Device("checked")
    device.traced = name
    return device


def regions_of(k: int, size: int) -> list[list[int]]:
    """One region, a cut, a grid; cuts at no multiple of a vector."""
    cut = size * 97 // 224
    spans = [(0, cut), (cut, size)]
    rows = spans if k == 4 else [(0, size)]
    return [[y0, x0, y1, x1] for y0, y1 in rows for x0, x1 in (spans if k > 1 else [(0, size)])]


@dataclass(frozen=True)
class Count:
    """Bytes that a launch moved, and that it must: what it needs once, what it makes once.

    Between `distinct` and `moved` lies what neighbouring blocks both read: from memory once, if
    the L2 cache keeps it until then.
    """

    moved: int  # each sector once a block
    distinct: int  # each sector once
    must: int

    @property
    def ratio(self) -> float:
        """What is moved, of what must."""
        return self.moved / self.must


def pieces(shapes: list[tuple[int, int, int]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Images one after another in one buffer, as a decoder leaves them."""
    sizes = [height * width * channels for height, width, channels in shapes]
    buffer = torch.zeros(sum(sizes), dtype=torch.uint8)  # torch aligns to 64 bytes
    return buffer, [
        piece.view(shape) for piece, shape in zip(buffer.split(sizes), shapes, strict=True)
    ]


def compose_traffic(
    dtype: torch.dtype, channels_last: bool, k: int, *, batch: int = 2, size: int = 224
) -> Count:
    """compose, every second constituent mirrored."""
    boxes = regions_of(k, size)
    buffer, patches = pieces([(y1 - y0, x1 - x0, 3) for y0, x0, y1, x1 in boxes * batch])
    out = unwritten((batch, 3, size, size), dtype, channels_last)
    device = traced()
    device.compose(
        patches,
        torch.arange(batch * k).view(batch, k).int(),
        torch.tensor([boxes] * batch).int(),
        size=(size, size),
        flips=torch.arange(batch * k).view(batch, k) % 2 == 1,
        out=out,
    )
    ((reads, writes),) = device.traffic.values()
    assert writes.bytes == out.numel() * out.element_size()
    assert reads.bytes >= buffer.numel()
    parts = reads.bytes - buffer.numel()  # the constituents' addresses and regions
    return Count(moved(device), distinct(device), writes.bytes + buffer.numel() + parts)


def resample_traffic(
    dtype: torch.dtype, channels_last: bool, scale: float, *, batch: int = 1, size: int = 128
) -> tuple[Count, int]:
    """compose_resampled of a cut, each patch made of a rectangle `scale` times as large.

    Also the bytes that must move where patches are resampled first and composed then: written and
    read once more.
    """
    boxes = regions_of(2, size)
    shapes = [(y1 - y0, x1 - x0, 3) for y0, x0, y1, x1 in boxes * batch]
    large = [(round(scale * h), round(scale * w), c) for h, w, c in shapes]
    buffer, rectangles = pieces(large)
    out = unwritten((batch, 3, size, size), dtype, channels_last)
    device = traced()
    device.compose_resampled(
        rectangles,
        torch.tensor([[0.0, 0.0, h, w] for h, w, _ in large]),
        torch.tensor([[h, w] for h, w, _ in shapes]).int(),
        torch.arange(batch * 2).view(batch, 2).int(),
        torch.tensor([boxes] * batch).int(),
        size=(size, size),
        out=out,
    )
    ((_, writes),) = device.traffic.values()
    assert writes.bytes == out.numel() * out.element_size()
    must = writes.bytes + buffer.numel()
    return Count(moved(device), distinct(device), must), must + 2 * sum(
        h * w * c for h, w, c in shapes
    )
