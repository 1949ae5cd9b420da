"""EpochPlan: batches over any number of ranks, and checkpoints."""

import io
from copy import deepcopy
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import POLICIES, loss_table, loss_tables

from mixpipe.plan import EpochPlan, MixTrain, Plain, QuantileRule, Tier
from mixpipe.plan.epoch import assemble
from mixpipe.plan.order import interleaved


@st.composite
def plans(draw, max_samples=120):
    table = draw(loss_tables(max_samples))
    policy = deepcopy(POLICIES[draw(st.sampled_from(sorted(POLICIES)))])
    return policy.plan(table, 1, draw(st.integers(0, 9)))


def all_batches(plan, batch_size, *, world_size=1, **options):
    return [
        plan.batches(batch_size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


@given(
    plans(), st.integers(1, 20), st.integers(1, 5), st.sampled_from(["composites", "constituents"])
)
def test_ranks_share_out_the_epoch(plan, batch_size, world_size, by):
    if by == "constituents":
        batch_size += plan.max_constituents - 1
    ranks = all_batches(plan, batch_size, world_size=world_size, by=by)
    assert len({len(batches) for batches in ranks}) == 1
    # Rank by rank, batch by batch, every composite comes once, in the plan's order.
    dealt = [c for batch in zip(*ranks, strict=True) for part in batch for c in part]
    assert dealt == list(range(plan.num_composites))
    # A rank is left without a composite only for want of composites.
    for parts in zip(*ranks, strict=True):
        assert all(map(len, parts)) or 0 < sum(map(len, parts)) < world_size


@given(plans(), st.integers(1, 20), st.integers(1, 5))
def test_batches_count_composites(plan, batch_size, world_size):
    ranks = all_batches(plan, batch_size, world_size=world_size)
    assert len(ranks[0]) == -(-plan.num_composites // (batch_size * world_size))
    for batches in ranks:
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert len(batches[-1]) <= batch_size
    sizes = [len(batches[-1]) for batches in ranks]
    assert max(sizes) - min(sizes) <= 1


@given(plans(), st.integers(4, 20), st.integers(1, 5))
def test_batches_count_constituents(plan, batch_size, world_size):
    ranks = all_batches(plan, batch_size, world_size=world_size, by="constituents")
    # As many steps as plain training has.
    assert {len(batches) for batches in ranks} == {
        -(-plan.num_constituents // (batch_size * world_size))
    }
    for parts in zip(*ranks, strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    lengths = {sum(map(len, parts)) for parts in zip(*ranks, strict=True)}
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= batch_size * world_size


@given(
    plans(), st.integers(4, 12), st.integers(1, 4), st.sampled_from(["composites", "constituents"])
)
def test_a_step_is_the_same_however_many_ranks_share_it(plan, batch_size, world_size, by):
    ranks = all_batches(plan, batch_size, world_size=world_size, by=by)
    (alone,) = all_batches(plan, batch_size * world_size, by=by)
    assert [list(chain(*parts)) for parts in zip(*ranks, strict=True)] == [list(b) for b in alone]


@given(
    plans(), st.integers(4, 20), st.integers(1, 5), st.sampled_from(["composites", "constituents"])
)
def test_drop_last_leaves_full_batches(plan, batch_size, world_size, by):
    ranks = all_batches(plan, batch_size, world_size=world_size, by=by, drop_last=True)
    whole = batch_size * world_size
    total = plan.num_composites if by == "composites" else plan.num_constituents
    assert {len(batches) for batches in ranks} == {total // whole}
    taken = sum(map(len, chain(*ranks)))
    if by == "composites":
        assert taken == total // whole * whole
    else:  # of the composites as large a part
        assert taken == plan.num_composites * (total // whole * whole) // total


def test_batches_are_a_sequence():
    batches = Plain().plan(loss_table([1.0] * 10), 0, 0).batches(4)
    assert list(batches) == [range(4), range(4, 8), range(8, 10)]
    assert batches[-1] == range(8, 10)
    assert batches[1:] == [range(4, 8), range(8, 10)]
    with pytest.raises(IndexError):
        batches[3]


def test_large_numbers_of_ranks_and_batches_do_not_overflow():
    plan = Plain().plan(loss_table([1.0] * 10), 0, 0)
    assert plan.offsets.dtype == np.int32
    assert list(plan.batches(2**31, by="constituents")) == [range(10)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 3, "by": "constituents"}, "batch_size: got 3 constituents.*at least 4"),
        ({"batch_size": 4, "by": "pairs"}, "by: got 'pairs'"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank: got 2 of world_size 2"),
        ({"batch_size": 4, "rank": -1}, "rank"),
    ],
)
def test_wrong_batches_are_named(options, named):
    plan = MixTrain(rule=QuantileRule(1.0), k=4).plan(loss_table([1.0] * 16), 1, 0)
    with pytest.raises(ValueError, match=named):
        plan.batches(**options)


@given(plans())
def test_a_plan_survives_a_checkpoint(plan):
    file = io.BytesIO()
    torch.save(plan.state_dict(), file)
    file.seek(0)
    other = EpochPlan.from_state_dict(torch.load(file, weights_only=True))
    for name, value in vars(plan).items():
        restored = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == restored.dtype
            assert np.array_equal(value, restored)
        else:
            assert value == restored


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 30), min_size=4, max_size=4),
    st.integers(0, 99),
)
def test_assemble_keeps_composites_together(sizes, counts, seed):
    groups, start = [], 0
    for k, count in zip(sizes, counts, strict=False):
        groups.append(np.arange(start, start + k * count, dtype=np.int32).reshape(count, k))
        start += k * count
    ids, offsets = assemble(groups, epoch=0, seed=seed)
    found = {tuple(ids[a:b].tolist()) for a, b in pairwise(offsets)}
    assert found == {tuple(row.tolist()) for group in groups for row in group}
    assert len(offsets) - 1 == sum(map(len, groups))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.data())
def test_of_any_stretch_each_order_has_its_part(lengths, data):
    orders = [np.arange(n, dtype=np.int32) + 100 * i for i, n in enumerate(lengths)]
    places = interleaved(lengths)
    assert all(place.tolist() == sorted(place) for place in places)
    mixed = np.empty(sum(lengths), np.int32)
    mixed.fill(-1)
    for order, place in zip(orders, places, strict=True):
        mixed[place] = order
    assert mixed.min(initial=0) >= 0  # every place is taken
    start = data.draw(st.integers(0, len(mixed)))
    stop = data.draw(st.integers(start, len(mixed)))
    for i, length in enumerate(lengths):
        due = (stop - start) * length / max(len(mixed), 1)
        # Each of the others may be one ahead of its part, or one behind.
        off = abs(np.count_nonzero(mixed[start:stop] // 100 == i) - due)
        assert off <= max(1, len(lengths) - 1) + 1e-9


def test_batches_of_an_epoch_have_two_shapes():
    # About half of the samples in pairs, a quarter in fours.
    losses = loss_table(np.arange(4000.0).tolist())
    tiers = [Tier(2, QuantileRule(0.71)), Tier(4, QuantileRule(0.26))]
    for seed in range(5):
        plan = MixTrain(tiers=tiers).plan(losses, 1, seed)
        batches = plan.batches(128, by="constituents")
        lengths = {len(batch) for batch in batches}
        assert len(lengths) <= 2
        constituents = [plan.offsets[batch.stop] - plan.offsets[batch.start] for batch in batches]
        assert min(constituents) > 4000 / len(batches) - 8  # two of the largest
        assert max(constituents) < 4000 / len(batches) + 8
