"""Memory for batches on a CPU: a few blocks, each used again once its batch is gone."""

from __future__ import annotations

import mmap
import weakref

import torch
from torch import Tensor

__all__ = ["Blocks"]

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # private: a forked child writes into its own
_MOST_FREE = 2  # of those that nobody uses; a loop over a loader has three in use


class Blocks:
    """Gives empty batches of images, whose memory is used again and again.

    A batch's block is free once its storage is gone, so once no tensor, view or array refers to it:
    batches that the caller keeps stay as they are, and others take new blocks. (What moves a
    storage elsewhere, as ``share_memory_`` does, lets go of the block.) All blocks are as large as
    the largest batch; one of less than half has one of its own. A batch cannot be resized in place.

    Not from the C library's heap, which is where torch.empty takes it from: there a small
    allocation falls into the gap that a freed batch leaves, the next batch no longer fits, and a
    loader of batches of 18 MiB grew from 0.7 to 1.1 GiB in 120 epochs, by one batch at a time.
    """

    def __init__(self) -> None:
        self._bytes = 0  # of a block
        self._free: list[mmap.mmap] = []

    def empty(
        self, batch: int, size: tuple[int, int], dtype: torch.dtype, channels_last: bool
    ) -> Tensor:
        """``[batch, 3, H, W]`` of ``dtype``, not initialised; ``size`` is (H, W)."""
        shape = (batch, *size, 3) if channels_last else (batch, 3, *size)
        count = 3 * batch * size[0] * size[1]
        block = self._take(count * dtype.itemsize)
        view = memoryview(block)  # the storage keeps it, and nobody else does
        weakref.finalize(view, _give_back, weakref.ref(self), block).atexit = False
        images = torch.frombuffer(view, dtype=dtype, count=count).view(shape)
        return (images.permute(0, 3, 1, 2) if channels_last else images).detach()  # no view

    def _take(self, needed: int) -> mmap.mmap:
        self._bytes = max(self._bytes, needed)
        if 2 * needed < self._bytes:
            return mmap.mmap(-1, needed, flags=_FLAGS)
        while self._free:
            block = self._free.pop()
            if len(block) == self._bytes:  # not one from before they grew
                return block
        return mmap.mmap(-1, self._bytes, flags=_FLAGS)

    def _take_back(self, block: mmap.mmap) -> None:
        if len(block) == self._bytes and len(self._free) < _MOST_FREE:
            self._free.append(block)


def _give_back(to: weakref.ref[Blocks], block: mmap.mmap) -> None:
    """Called wherever the last reference to a batch goes; a batch may outlive its blocks' owner."""
    blocks = to()
    if blocks is not None:
        blocks._take_back(block)
