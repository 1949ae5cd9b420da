"""Batches made on a stream of their own, one ahead of the one in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(make: Callable[[], T | None], device: torch.device) -> Iterator[T]:
    """Iterate over what ``make`` gives, until it gives None.

    On a GPU the next item is asked for before the current one is handed out, and both are made on
    a side stream, so that its kernels run beside the caller's. The caller's current stream waits
    for the item's, without the host, and the caching allocator learns that both use its tensors.
    On a CPU items are made when asked for.

    Args:
        make: gives the next item, a pytree of tensors on ``device``, or None at the end.
        device: where the tensors are.
    """
    if device.type != "cuda":
        yield from iter(make, None)
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
