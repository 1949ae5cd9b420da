"""Batches made one ahead of the one in use: by a thread, on a GPU on a stream of their own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(make: Callable[[], T | None], device: torch.device) -> Generator[T, None, None]:
    """Iterate over what ``make`` gives, until it gives None.

    The next item is asked for before the current one is handed out. On a CPU a thread makes it.
    On a GPU it is issued on a side stream, so that its kernels run beside the caller's. The
    caller's current stream waits for the item's, without the host, and the caching allocator learns
    that both use its tensors. An error in making an item comes when that item is asked for. Closing
    the iterator waits for the item in the making.

    Args:
        make: gives the next item, a pytree of tensors on ``device``, or None at the end.
        device: where the tensors are.
    """
    if device.type != "cuda":
        yield from _by_a_thread(make)
        return
    # Only a GPU runs the lines below.
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def issue() -> tuple[T, torch.cuda.Event] | None:
        with torch.cuda.stream(side):
            item = make()
            return None if item is None else (item, side.record_event())

    coming = issue()
    while coming is not None:
        item, ready = coming
        coming = issue()
        current = torch.cuda.current_stream(device)
        current.wait_event(ready)
        for leaf in pytree.tree_leaves(item):
            if isinstance(leaf, Tensor):
                leaf.record_stream(current)
        yield item


def _by_a_thread(make: Callable[[], T | None]) -> Generator[T, None, None]:
    with ThreadPoolExecutor(1, thread_name_prefix="mixpipe-ahead") as pool:
        coming = pool.submit(make)
        while (item := coming.result()) is not None:
            coming = pool.submit(make)
            yield item
