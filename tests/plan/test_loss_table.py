"""LossTable: what is written, what unseen means, and the reduction over ranks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixpipe.plan import LossTable


def test_unseen_is_not_zero():
    losses, epochs = LossTable(3).snapshot()
    assert np.isnan(losses).all()
    assert (epochs == -1).all()
    assert losses.dtype == np.float32
    assert epochs.dtype == np.int32


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-1, 9), st.floats(0, 9, width=32)), max_size=30), max_size=4
    )
)
def test_the_last_entry_of_a_sample_counts(epochs):
    table = LossTable(10)
    expected = {}
    for epoch, entries in enumerate(epochs):
        ids = torch.tensor([i for i, _ in entries], dtype=torch.int64)
        losses = torch.tensor([x for _, x in entries], dtype=torch.float32)
        table.update(ids, losses, epoch)
        expected.update({i: (x, epoch) for i, x in entries if i >= 0})
    seen = {
        i: (loss.item(), epoch.item())
        for i, (loss, epoch) in enumerate(zip(table.losses, table.epochs, strict=True))
        if epoch >= 0
    }
    assert seen == expected
    assert all(math.isnan(table.losses[i]) for i in range(10) if i not in expected)


def test_update_takes_batches_of_any_shape_and_precision():
    table = LossTable(8)
    table.update(torch.tensor([[1, -1], [2, 3]], dtype=torch.int32), torch.ones(2, 2).half(), 4)
    assert table.epochs.tolist() == [-1, 4, 4, 4, -1, -1, -1, -1]
    assert table.losses[1:4].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("ids", "losses", "epoch", "error", "named"),
    [
        ([1, 2], [1.0], 0, ValueError, "ids and losses"),
        ([8], [1.0], 0, IndexError, "ids: got values from 8 to 8"),
        ([-2], [1.0], 0, IndexError, "ids"),
        ([1.0], [1.0], 0, TypeError, "ids and losses"),
        ([1], [1], 0, TypeError, "ids and losses"),
        ([1], [1.0], -1, ValueError, "epoch"),
    ],
)
def test_wrong_entries_are_named(ids, losses, epoch, error, named):
    with pytest.raises(error, match=named):
        LossTable(8).update(torch.tensor(ids), torch.tensor(losses), epoch)


def test_a_table_needs_samples():
    with pytest.raises(ValueError, match="num_samples: got 0"):
        LossTable(0)


def test_a_state_is_a_copy_and_restores():
    table = LossTable(4)
    table.update(torch.tensor([1, 3]), torch.tensor([0.5, 2.0]), 7)
    state = table.state_dict()
    table.update(torch.tensor([1]), torch.tensor([9.0]), 8)
    other = LossTable(4)
    other.load_state_dict(state)
    assert other.epochs.tolist() == [-1, 7, -1, 7]
    assert other.losses[[1, 3]].tolist() == [0.5, 2.0]


def test_the_state_of_another_data_set_is_refused():
    with pytest.raises(ValueError, match="another data set"):
        LossTable(4).load_state_dict(LossTable(5).state_dict())
    with pytest.raises(KeyError, match="epochs"):
        LossTable(4).load_state_dict({"losses": torch.zeros(4)})


def test_without_ranks_the_reduction_changes_nothing():
    table = LossTable(4)
    table.all_reduce()
    assert (table.epochs == -1).all()


# What two ranks saw of five samples: (loss, epoch), None unseen; and what both shall know.
SEEN = [
    [(0.25, 3), (1.0, 2), None, None, (7.0, 1)],
    [(9.0, 2), (0.5, 4), (0.125, 0), None, (3.0, 1)],
]
KNOWN = [(0.25, 3), (0.5, 4), (0.125, 0), None, (7.0, 1)]


def _reduce(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2
    )
    table = LossTable(5)
    for i, entry in enumerate(SEEN[rank]):
        if entry is not None:
            table.update(torch.tensor([i]), torch.tensor([entry[0]]), entry[1])
    table.all_reduce()
    torch.save(table.state_dict(), f"{folder}/table{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_agree_on_the_newest(tmp_path):
    torch.multiprocessing.spawn(_reduce, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        state = torch.load(tmp_path / f"table{rank}.pt", weights_only=True)
        assert state["epochs"].tolist() == [-1 if k is None else k[1] for k in KNOWN]
        for loss, known in zip(state["losses"].tolist(), KNOWN, strict=True):
            assert math.isnan(loss) if known is None else loss == known[0]
