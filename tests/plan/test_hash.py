"""The counter-based random numbers and the orders made of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import ks_bound, ks_distance

from mixpipe.plan import Draw, hashes, uniforms
from mixpipe.plan.order import by_loss, random_order, shuffled
from mixpipe.plan.random import GOLDEN, _mix, _mix_int, stream_key

KEY = {"seed": 3, "epoch": 5, "draw": Draw.CROP}


def test_the_finaliser_is_splitmix64():
    # The first outputs of SplitMix64 with state 1234567, as published with the generator.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = [(1234567 + GOLDEN * (i + 1)) % 2**64 for i in range(5)]
    assert [_mix_int(s) for s in states] == expected
    x = np.array(states, np.uint64)
    _mix(x)
    assert x.tolist() == expected


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40), st.integers(0, 2**64))
def test_a_number_is_of_its_sample_alone(ids, seed):
    key = {"seed": seed, "epoch": 1, "draw": Draw.FLIP}
    expected = [_mix_int(stream_key(seed, 1, Draw.FLIP) + GOLDEN * i) for i in ids]
    assert hashes(np.array(ids, np.int32), **key).tolist() == expected
    assert hashes(np.array(ids, np.int64)[::-1], **key).tolist() == expected[::-1]
    numbers = uniforms(np.array(ids, np.int64), 3, **key)
    assert numbers[0].tolist() == [(h >> 11) / 2**53 for h in expected]
    assert np.array_equal(numbers[:2], uniforms(np.array(ids, np.int64), 2, **key))


def test_pieces_make_no_difference():
    ids = np.arange(100_000, dtype=np.int32)
    some = np.array([0, 32767, 32768, 65536, 99_999])
    assert np.array_equal(hashes(ids, **KEY)[some], hashes(some, **KEY))


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 6}, {"draw": Draw.FLIP}, {"index": 1}])
def test_every_part_of_the_key_matters(change):
    ids = np.arange(20_000)
    a = hashes(ids, **KEY).astype(np.float64) / 2**64
    b = hashes(ids, **{**KEY, **change}).astype(np.float64) / 2**64
    assert (a == b).sum() == 0
    # Correlation of independent numbers: within 4 standard deviations of 0.
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(ids))


def test_numbers_are_uniform_and_independent_of_their_neighbours():
    numbers = uniforms(np.arange(20_000), 4, **KEY)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    even = (np.arange(20_000) + 0.5) / 20_000
    for row in numbers:
        assert ks_distance(row, even) < ks_bound(20_000, 10**9)
        assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 4 / np.sqrt(len(row))


@given(st.sets(st.integers(0, 10**6), max_size=60), st.sets(st.integers(0, 10**6), max_size=60))
def test_the_order_of_a_subset_is_that_of_the_whole(some, others):
    both = np.array(sorted(some | others), np.int32)
    mixed = shuffled(both, **KEY)
    assert sorted(mixed.tolist()) == both.tolist()
    assert mixed.dtype == np.int32
    left = [i for i in mixed.tolist() if i in some]
    assert left == shuffled(np.array(sorted(some), np.int32), **KEY).tolist()


@given(st.lists(st.integers(0, 50), max_size=60))
def test_positions_give_the_same_order(ids):
    ids = np.array(ids, np.int32)
    positions = random_order(ids, **KEY)
    assert sorted(positions.tolist()) == list(range(len(ids)))
    assert ids[positions].tolist() == shuffled(ids, **KEY).tolist()


def test_all_orders_are_equally_frequent():
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    trials = 2400
    for seed in range(trials):
        order = shuffled(np.arange(4), seed=seed, epoch=0, draw=Draw.ORDER)
        counts[tuple(order.tolist())] += 1
    expected = trials / 24
    chi2 = sum((c - expected) ** 2 / expected for c in counts.values())
    assert chi2 < 58.6  # exceeded once in 10,000 times, 23 degrees of freedom


# Neighbouring floats among them.
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1 + 2**-23, 1e-30, 3e38, -1e-8, -0.0]), max_size=40)
)
def test_by_loss_sorts_by_loss(losses):
    values = np.array(losses, np.float32)
    ids = by_loss(np.arange(len(losses), dtype=np.int32), values, seed=0, epoch=0)
    assert sorted(ids.tolist()) == list(range(len(losses)))
    # What rounding left below zero counts as zero.
    assert np.maximum(values[ids], 0.0).tolist() == sorted(np.maximum(values, 0.0).tolist())


def test_equal_losses_come_in_random_order():
    values = np.zeros(20_000, np.float32)
    ids = np.arange(20_000, dtype=np.int32)
    first, second = (by_loss(ids, values, seed=0, epoch=epoch) for epoch in (1, 2))
    for order in (first, second):
        assert abs(np.corrcoef(order, ids)[0, 1]) < 4 / np.sqrt(len(ids))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(ids))
