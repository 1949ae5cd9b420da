"""The device's selection, by its reference on the CPU, against the host's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixpipe.plan import Adaptive, LossTable, MeanRule, MixTrain, QuantileRule, RandomRule, Tier
from mixpipe.plan.on_device import company_on_device, has_device_rule


def table_of(size, seed, unseen=0.1):
    random = np.random.default_rng(seed)
    table = LossTable(size)
    table.losses[:] = torch.from_numpy(random.exponential(size=size).astype(np.float32))
    table.epochs[:] = 0
    hidden = torch.from_numpy(random.random(size) < unseen)
    table.losses[hidden], table.epochs[hidden] = float("nan"), -1
    return table


def company_of(plan):
    company = np.zeros(plan.num_samples, int)
    sizes = np.diff(plan.offsets)
    company[plan.ids] = np.repeat(sizes, sizes)
    return company


TIERS = {
    "mean": [Tier(2, MeanRule(0.9))],
    "tiers": [Tier(2, MeanRule(1.0)), Tier(4, MeanRule(0.3))],
    "tiers the wrong way round": [Tier(2, MeanRule(0.2)), Tier(3, MeanRule(0.6))],
    "quantiles": [Tier(2, QuantileRule(0.8)), Tier(4, QuantileRule(0.3))],
}


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(sorted(TIERS)), size=st.integers(1, 400), seed=st.integers(0, 99))
def test_takes_whom_the_host_takes(name, size, seed):
    """Losses are all different here. What does not fill a composite goes plain on the host."""
    table, tiers = table_of(size, seed), TIERS[name]
    device = company_on_device(table, tiers, None, seed=3, epoch=1)
    host = company_of(MixTrain(tiers=tiers).plan(table, 1, 3))
    differs = device != host
    assert (host[differs] == 1).all()
    for tier in tiers:
        assert (differs & (device == tier.k)).sum() == (device == tier.k).sum() % tier.k


@settings(deadline=None, max_examples=40)
@given(size=st.integers(50, 400), seed=st.integers(0, 99), speedup=st.floats(1.05, 1.9))
def test_a_budget_is_kept_to_one_sample(size, seed, speedup):
    table = table_of(size, seed, unseen=0.0)
    savings = size - size / speedup
    tiers = TIERS["tiers"]
    company = company_on_device(table, tiers, savings, seed=3, epoch=1)
    saved = size - (1.0 / company).sum()
    assert savings - 0.5 <= saved <= savings + 1e-3  # the next sample would save up to a half


def test_what_the_device_cannot_do_stays_on_the_host():
    assert has_device_rule(TIERS["tiers"], budget=True)
    assert has_device_rule(TIERS["quantiles"], budget=False)
    assert not has_device_rule(TIERS["quantiles"], budget=True)
    assert not has_device_rule([Tier(2, RandomRule(0.5))], budget=False)
    assert MixTrain()._needs_no_losses
    assert not MixTrain(adaptive=Adaptive())._needs_no_losses


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", TIERS)
def test_a_table_on_a_gpu_makes_the_same_plan(name):
    table = table_of(10_000, 0)
    there = LossTable(10_000, "cuda")
    there.load_state_dict(table.state_dict())
    policy = MixTrain(tiers=TIERS[name])
    assert np.array_equal(policy.plan(there, 1, 3).ids, policy.plan(table, 1, 3).ids)
