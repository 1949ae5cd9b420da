"""Orders and their pieces against plain definitions of the same."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpipe.plan.arrays import gathered
from mixpipe.plan.order import earliest, interleaved, shuffled
from mixpipe.plan.random import Draw


@given(st.lists(st.integers(0, 25), min_size=1, max_size=4))
def test_interleaved_sorts_by_the_way_gone_and_then_by_order(lengths):
    points = sorted(
        (Fraction(2 * j + 1, 2 * length), i, j)
        for i, length in enumerate(lengths)
        for j in range(length)
    )
    expected = [[place for place, p in enumerate(points) if p[1] == i] for i in range(len(lengths))]
    assert [place.tolist() for place in interleaved(lengths)] == expected


@given(
    st.lists(st.integers(0, 10**6), max_size=200, unique=True),
    st.integers(0, 200),
    st.integers(0, 99),
)
def test_earliest_are_the_first_of_the_shuffled(numbers, count, seed):
    ids = np.array(numbers, np.int32)
    mask = earliest(ids, count, seed=seed, epoch=3, draw=Draw.DROP)
    order = shuffled(ids, seed=seed, epoch=3, draw=Draw.DROP)
    assert set(ids[mask].tolist()) == set(order[:count].tolist())


@pytest.mark.parametrize("shape", [(500,), (500, 3)])
@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float32])
@pytest.mark.parametrize("count", [0, 1, 70_000])  # more than a piece
def test_gathered_is_indexing(shape, dtype, count):
    random = np.random.default_rng(0)
    values = random.integers(0, 100, shape).astype(dtype)
    ids = random.integers(0, 500, count).astype(np.int32)
    found = gathered(values, ids)
    assert found.dtype == dtype
    assert np.array_equal(found, values[ids])
