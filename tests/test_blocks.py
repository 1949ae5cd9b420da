"""Memory for batches that is used again, and never while anybody looks at it."""

import mmap
import os
import weakref

import pytest
import torch

from mixpipe.blocks import Blocks

SIZE = (4, 6)


def empty(blocks, batch):
    return blocks.empty(batch, SIZE, torch.float32, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_batches_are_those_of_torch_empty(dtype, channels_last, batch):
    ours = Blocks().empty(batch, SIZE, dtype, channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    theirs = torch.empty(batch, 3, *SIZE, dtype=dtype, memory_format=memory_format)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert ours.stride() == theirs.stride()
    assert ours.data_ptr() % 64 == 0
    assert not ours._is_view()
    assert len(ours.untyped_storage()) == len(theirs.untyped_storage())
    ours.fill_(1)
    assert ours.sum() == ours.numel()


def test_a_block_is_used_again():
    some = Blocks()
    first = empty(some, 3)
    address = first.data_ptr()
    del first
    assert empty(some, 2).data_ptr() == address  # a shorter batch too
    assert empty(some, 1).data_ptr() != address  # but not one that might keep much more than it is
    assert empty(some, 3).data_ptr() == address


@pytest.mark.parametrize(
    "look",
    [
        lambda batch: batch[1],
        lambda batch: batch.detach(),
        lambda batch: batch.numpy(),
        lambda batch: batch.untyped_storage(),
        lambda batch: torch.utils.dlpack.to_dlpack(batch),
        lambda batch: batch.clone().requires_grad_().mul(batch),  # saves it for the backward pass
    ],
    ids=["slice", "detached", "array", "storage", "dlpack", "graph"],
)
def test_not_while_anybody_looks_at_it(look):
    some = Blocks()
    batch = empty(some, 3)
    address = batch.data_ptr()
    kept = look(batch.fill_(7))
    del batch
    others = [empty(some, 3) for _ in range(4)]
    assert address not in {other.data_ptr() for other in others}
    del kept
    assert address in {other.data_ptr() for other in [*others, empty(some, 3)]}


def test_a_larger_batch_changes_the_size_of_all():
    some = Blocks()
    small, kept = empty(some, 2), empty(some, 2).fill_(7)
    del small
    large = empty(some, 3).fill_(8)
    address = large.data_ptr()
    assert kept.eq(7).all()
    del kept, large
    assert empty(some, 2).data_ptr() == address
    assert len(some._free) == 1  # the small ones are gone


def test_few_are_kept_when_many_were_in_use():
    some = Blocks()
    many = [empty(some, 3) for _ in range(20)]
    assert len({batch.data_ptr() for batch in many}) == 20
    many.clear()
    assert len(some._free) == 2


def test_batches_outlive_what_gave_them():
    some = Blocks()
    there = weakref.ref(some)
    batch = empty(some, 3).fill_(7)
    del some
    assert there() is None
    assert batch.eq(7).all()


def test_a_block_that_comes_back_while_they_grow_is_not_used():
    some = Blocks()
    small = mmap.mmap(-1, empty(some, 1).nbytes)
    assert empty(some, 3).nbytes == 3 * len(small)
    some._free.append(small)  # by another thread, after a look at the old size
    assert empty(some, 3).fill_(7).eq(7).all()


def test_a_forked_child_writes_into_its_own():
    batch = empty(Blocks(), 3).fill_(7)
    child = os.fork()
    if child == 0:
        try:
            batch.numpy()[:] = 8
        finally:
            os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert batch.eq(7).all()
