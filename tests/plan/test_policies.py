"""Policies: who is in an epoch, how often, with whom, and at what price."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import DROPPING, LABELS, ONCE, PAIRED, POLICIES, loss_table, loss_tables

from mixpipe.plan import (
    Adaptive,
    Blend,
    Budget,
    ByClass,
    BySimilarLoss,
    CutMix,
    CutMixBox,
    Drop,
    Grid,
    Hysteresis,
    InfoBatch,
    MeanRule,
    MixTrain,
    MixUp,
    Plain,
    QuantileRule,
    RandomRule,
    SelectiveBackprop,
    Split,
    Tier,
)
from mixpipe.plan.schedule import Schedule

ALL = QuantileRule(1.0)
seeds = st.integers(0, 2**40)


def composites(plan):
    return [
        plan.ids[a:b].tolist() for a, b in zip(plan.offsets[:-1], plan.offsets[1:], strict=True)
    ]


def company(plan):
    """Number of constituents of each sample's composite; 0: dropped."""
    out = np.zeros(plan.num_samples, int)
    for members in composites(plan):
        out[members] = len(members)
    return out


def same_plan(a, b):
    return all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def exponential(n, seed=0):
    return loss_table(np.random.default_rng(seed).exponential(1.0, n).tolist())


# Who is in an epoch.


@pytest.mark.parametrize("name", ONCE)
@given(table=loss_tables(), epoch=st.integers(0, 3), seed=seeds)
def test_every_sample_appears_exactly_once(name, table, epoch, seed):
    plan = deepcopy(ONCE[name]).plan(table, epoch, seed)
    assert sorted(plan.ids.tolist()) == list(range(len(table)))
    assert plan.offsets[0] == 0
    assert plan.offsets[-1] == plan.num_constituents
    sizes = np.diff(plan.offsets)
    assert set(sizes.tolist()) <= set(plan.layouts)
    assert plan.max_constituents == sizes.max()


@pytest.mark.parametrize("name", DROPPING)
@given(table=loss_tables(), epoch=st.integers(0, 3), seed=seeds)
def test_no_sample_appears_twice_and_unseen_ones_are_never_dropped(name, table, epoch, seed):
    plan = DROPPING[name].plan(table, epoch, seed)
    assert len(set(plan.ids.tolist())) == plan.num_constituents > 0
    losses, epochs = table.snapshot()
    keep = np.flatnonzero((epochs < 0) | ~np.isfinite(losses))
    assert set(keep.tolist()) <= set(plan.ids.tolist())


@pytest.mark.parametrize("name", PAIRED)
@given(n=st.integers(1, 60), seed=seeds)
def test_neighbours_mix_with_each_other(name, n, seed):
    plan = PAIRED[name].plan(loss_table([1.0] * n), 0, seed)
    order = Plain().plan(loss_table([1.0] * n), 0, seed).ids.tolist()
    expected = [[order[i], order[i ^ 1]] if i ^ 1 < n else [order[i]] for i in range(n)]
    assert composites(plan) == expected
    assert plan.offsets[-1] == plan.num_constituents
    assert plan.shared


@given(table=loss_tables(), seed=seeds)
def test_plans_are_of_table_epoch_and_seed_alone(table, seed):
    before = table.state_dict()
    for name, policy in deepcopy(POLICIES).items():
        plan = policy.plan(table, 1, seed)
        assert same_plan(policy.plan(table, 1, seed), plan)
        if name != "in order" and plan.num_composites > 20:
            assert not np.array_equal(policy.plan(table, 1, seed + 1).ids, plan.ids)
            assert not np.array_equal(policy.plan(table, 2, seed).ids, plan.ids)
    for name, value in table.state_dict().items():
        assert torch.equal(value.nan_to_num(-7.0), before[name].nan_to_num(-7.0))


def test_plain_in_order_is_in_order():
    assert Plain(shuffle=False).plan(loss_table([1.0] * 7), 3, 5).ids.tolist() == list(range(7))


# Rules.


@given(loss_tables(), st.floats(0.1, 3.0), seeds)
def test_the_mean_rule(table, tau, seed):
    mixed = company(MixTrain(rule=MeanRule(tau)).plan(table, 1, seed)) == 2
    losses, epochs = table.snapshot()
    known = (epochs >= 0) & np.isfinite(losses)
    mean = losses[known].mean(dtype=np.float64) if known.any() else 0.0
    allowed = known & (losses <= np.float32(tau * mean))
    assert not (mixed & ~allowed).any()
    assert mixed.sum() == allowed.sum() // 2 * 2


def test_what_rounding_left_below_zero_counts_as_zero():
    plan = MixTrain().plan(loss_table([-1e-6, 0.0, 0.0, 0.0]), 1, 0)
    assert company(plan).tolist() == [2, 2, 2, 2]


def test_a_sample_without_an_epoch_is_unseen_whatever_its_loss():
    table = loss_table([1.0] * 8)
    table.losses[:4] = 0.0
    table.epochs[:4] = -1
    assert company(MixTrain(rule=ALL).plan(table, 1, 0)).tolist() == [1] * 4 + [2] * 4


@given(loss_tables(), st.floats(0.05, 1.0), st.sampled_from([2, 3, 4]), seeds)
def test_the_quantile_rule(table, q, k, seed):
    mixed = company(MixTrain(rule=QuantileRule(q), k=k).plan(table, 1, seed)) == k
    losses, epochs = table.snapshot()
    known = (epochs >= 0) & np.isfinite(losses)
    assert not (mixed & ~known).any()
    count = round(q * known.sum())
    assert mixed.sum() == count // k * k
    if mixed.any():  # nobody above the threshold is mixed
        assert losses[mixed].max() <= np.sort(losses[known])[count - 1]


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_the_random_rule_does_not_look_at_losses(fraction):
    policy = MixTrain(rule=RandomRule(fraction), warmup=0)
    plan = policy.plan(exponential(1000), 1, 3)
    assert same_plan(plan, policy.plan(exponential(1000, seed=1), 1, 3))
    assert same_plan(plan, policy.plan(loss_table([1.0] * 1000, unseen=range(1000)), 1, 3))
    mixed = company(plan) == 2
    assert mixed.sum() == fraction * 1000
    assert not np.array_equal(mixed, company(policy.plan(exponential(1000), 2, 3)) == 2) or (
        fraction == 1.0
    )


def test_ties_are_broken_anew_every_epoch():
    policy = MixTrain(rule=QuantileRule(0.5))
    table = loss_table([0.0] * 1000)
    first, second = (company(policy.plan(table, epoch, 0)) == 2 for epoch in (1, 2))
    assert first.sum() == second.sum() == 500
    assert 200 < (first & second).sum() < 300
    assert 200 < first[:500].sum() < 300


def test_hysteresis_keeps_until_the_plain_mean_and_lets_in_at_the_threshold():
    policy = MixTrain(rule=Hysteresis(enter=MeanRule(0.5), leave=1.0))
    losses = [0.1, 0.2, 0.1, 0.2, 2.0, 3.0, 4.0, 4.0]
    assert company(policy.plan(loss_table(losses), 1, 0)).tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    # The plain mean is 3.25, that of all 4.0: 0 stays below it, though above the threshold of 2.0;
    # 1, 2 and 3 leave; 4 enters.
    losses = [3.0, 3.5, 3.5, 9.0, 0.1, 4.9, 4.0, 4.0]
    assert company(policy.plan(loss_table(losses), 2, 0)).tolist() == [2, 1, 1, 1, 2, 1, 1, 1]
    # Far below the plain mean again, 1 has yet to fall to the threshold, now 1.94.
    losses[1] = 2.5
    assert company(policy.plan(loss_table(losses), 3, 0)).tolist() == [2, 1, 1, 1, 2, 1, 1, 1]
    losses[1] = losses[2] = 1.0
    assert company(policy.plan(loss_table(losses), 4, 0)).tolist() == [2, 2, 2, 1, 2, 1, 1, 1]


@given(seeds)
def test_hysteresis_can_be_stopped_anywhere(seed):
    tables = [exponential(60, seed=s) for s in range(4)]
    policy = MixTrain(rule=Hysteresis(MeanRule(0.3), leave=0.6))
    whole = [policy.plan(table, epoch + 1, seed) for epoch, table in enumerate(tables)]
    assert len({tuple(company(plan).tolist()) for plan in whole}) > 1
    for cut in range(1, 4):
        first = MixTrain(rule=Hysteresis(MeanRule(0.3), leave=0.6))
        for epoch in range(cut):
            first.plan(tables[epoch], epoch + 1, seed)
        second = MixTrain(rule=Hysteresis(MeanRule(0.3), leave=0.6))
        second.load_state_dict(first.state_dict())
        # The epoch that was running may be planned again, then the next ones.
        for epoch in range(cut - 1, 4):
            assert same_plan(second.plan(tables[epoch], epoch + 1, seed), whole[epoch])


def test_hysteresis_plans_an_epoch_again_as_before():
    policy = MixTrain(rule=Hysteresis(MeanRule(0.1), leave=0.5))
    policy.plan(loss_table([0.01] * 4 + [4.0] * 4), 1, 0)
    # Half of the plain mean is 2.0; with 2 and 3 among the plain it would be 1.7.
    table = loss_table([1.9, 1.9, 2.1, 2.1] + [4.0] * 4)
    for _ in range(2):
        assert company(policy.plan(table, 2, 0)).tolist() == [2, 2, 1, 1, 1, 1, 1, 1]


def test_hysteresis_forgets_another_run_and_refuses_another_data_set():
    policy, table = MixTrain(rule=Hysteresis()), exponential(60)
    fresh = policy.plan(table, 1, 0)
    for epoch in range(2, 5):
        policy.plan(exponential(60, seed=epoch), epoch, 0)
    assert same_plan(policy.plan(table, 1, 0), fresh)
    with pytest.raises(ValueError, match="table: got 59 samples, expected 60"):
        policy.plan(exponential(59), 2, 0)


# Tiers and budgets.


@given(loss_tables(), seeds)
def test_lower_losses_get_more_company(table, seed):
    tiers = [Tier(2, QuantileRule(0.8)), Tier(4, QuantileRule(0.4))]
    plan = MixTrain(tiers=tiers).plan(table, 1, seed)
    losses, sizes = table.snapshot().losses, company(plan)
    if (sizes == 4).any() and (sizes == 2).any():
        # But for ties and the few that do not fill a composite.
        assert np.sort(losses[sizes == 4])[-1] <= np.sort(losses[sizes == 2])[0]
    known = (table.snapshot().epochs >= 0) & np.isfinite(losses)
    four, two = round(0.4 * known.sum()), round(0.8 * known.sum())
    assert (sizes == 4).sum() == four // 4 * 4
    assert (sizes == 2).sum() == (two - four) // 2 * 2


BUDGETS = [
    {"k": 2},
    {"k": 3},
    {"k": 4, "rule": QuantileRule(0.1)},
    {"rule": RandomRule()},
    {"tiers": [Tier(2, MeanRule(1.0)), Tier(4, MeanRule(0.3))]},
    {"tiers": [Tier(2, QuantileRule(0.2)), Tier(3, QuantileRule(0.1))]},
    {"tiers": [Tier(2, QuantileRule(0.1)), Tier(4, QuantileRule(0.3))]},
    {"drop": Drop(0.3, 0.4)},
    {"drop": Drop(0.3, 0.4), "k": 4, "rule": RandomRule()},
]


@pytest.mark.parametrize("options", BUDGETS, ids=str)
@pytest.mark.parametrize("speedup", [1.15, 1.6, 1.95])
@pytest.mark.parametrize("ties", [False, True])
def test_a_budget_is_kept(options, speedup, ties):
    n = 6000
    losses = np.random.default_rng(5).exponential(1.0, n)
    table = loss_table((np.round(losses) if ties else losses).tolist())
    plan = MixTrain(speedup=speedup, **options).plan(table, 1, 0)
    # To what does not fill a composite, and to the rounding of counts.
    assert abs(plan.num_composites - n / speedup) <= 4


@pytest.mark.parametrize(("warmup", "final"), [(0, 0.0), (1, 0.15), (3, 0.2)])
@pytest.mark.parametrize(
    "make", [MixTrain, partial(MixTrain, rule=RandomRule()), InfoBatch, SelectiveBackprop]
)
def test_a_budget_of_the_whole_run_makes_up_for_plain_epochs(make, warmup, final):
    n, epochs, speedup = 1500, 20, 1.4
    options = {"speedup": speedup, "epochs": epochs, "final": final}
    if make is not InfoBatch:
        options["warmup"] = warmup
    else:
        options["rate"] = 0.6
    policy = make(**options)
    table, inputs = loss_table([1.0] * n, unseen=range(n)), 0
    for epoch in range(epochs):
        plan = policy.plan(table, epoch, 0)
        inputs += plan.num_composites
        if epoch < warmup or epoch >= epochs - round(final * epochs):
            assert plan.num_composites == n or make is InfoBatch
        table.update(torch.arange(n), torch.rand(n), epoch)
    # Selective-Backprop draws its samples one by one: 4 standard deviations.
    slack = 0.016 if make is SelectiveBackprop else 0.002
    assert abs(n * epochs / inputs - speedup) < slack * speedup


def test_a_budget_rule_is_the_same_as_a_speedup():
    table = exponential(500)
    a = MixTrain(rule=Budget(1.5, of=QuantileRule(0.2)), epochs=30).plan(table, 3, 0)
    b = MixTrain(speedup=1.5, rule=QuantileRule(0.2), epochs=30).plan(table, 3, 0)
    assert same_plan(a, b)


@pytest.mark.parametrize(
    ("make", "largest"),
    [
        (lambda s: MixTrain(speedup=s), 4.0),
        (lambda s: MixTrain(speedup=s, k=3), 3.0),
        (lambda s: MixTrain(speedup=s, tiers=[Tier(2), Tier(4)]), 4.0),
        # 10 epochs of which 1 and 2 are plain: 10 / (3 + 7 / 2)
        (lambda s: MixTrain(speedup=s, k=2, epochs=10, final=0.2), 10 / 6.5),
        (lambda s: MixTrain(speedup=s, k=2, epochs=10, warmup=0, final=0.0), 10 / (1 + 9 / 2)),
        (lambda s: MixTrain(speedup=s, epochs=10), 10 / (1 + 9 / 4)),
        (lambda s: MixTrain(speedup=s, k=2, drop=Drop(0.5, 0.4)), 2 / 0.8),
        (lambda s: InfoBatch(speedup=s, epochs=10, final=0.0), 10 / (1 + 9 / 2)),
        (lambda s: SelectiveBackprop(speedup=s), 20.0),
    ],
)
def test_a_budget_out_of_reach_names_the_largest_within(make, largest):
    make(largest)
    with pytest.raises(ValueError, match=f"speedup: got .* largest attainable is {largest:.3f}"):
        make(largest * 1.01)


@given(loss_tables(), st.floats(1.01, 3.9), seeds)
def test_a_budget_never_costs_a_sample(table, speedup, seed):
    tiers = [Tier(2), Tier(4, MeanRule(0.2))]
    plan = MixTrain(tiers=tiers, speedup=speedup, warmup=0).plan(table, 1, seed)
    assert sorted(plan.ids.tolist()) == list(range(len(table)))
    # It never goes further than asked, but for interpolated counts at ties.
    assert plan.num_composites >= len(table) / speedup - 2


# Schedule.


def test_nothing_is_mixed_at_the_beginning_and_the_end():
    policy = MixTrain(rule=ALL, warmup=2, epochs=10, final=0.25, drop=Drop())
    for epoch in range(12):
        plan = policy.plan(exponential(40), epoch, 0)
        assert (plan.num_composites < 40) == (2 <= epoch < 8), epoch
        if not 2 <= epoch < 8:
            assert same_plan(plan, Plain().plan(exponential(40), epoch, 0))


@given(
    epochs=st.integers(8, 60),
    final=st.floats(0.0, 0.4),
    taper=st.floats(0.0, 0.6),
    effort=st.floats(0.05, 1.0),
    least=st.floats(0.2, 0.6),
)
def test_a_taper_keeps_the_budget_and_fades_out(epochs, final, taper, effort, least):
    schedule = Schedule(1, epochs, final, taper)
    acting = [e for e in range(epochs) if schedule.acts(e)]
    largest = epochs / (epochs - (1.0 - least) * len(acting))
    speedup = 1.0 + effort * (largest - 1.0)
    saved = [1.0 - schedule.cost(speedup, least, e) for e in range(epochs)]
    assert sum(saved) == pytest.approx(epochs * (1.0 - 1.0 / speedup))
    assert all(saved[e] == 0.0 for e in range(epochs) if e not in acting)
    assert max(saved) <= 1.0 - least + 1e-9
    # It never rises, and falls in even steps where an epoch does not save all it can.
    saved = [saved[e] for e in acting]
    falling = saved[len(saved) - round(taper * epochs) :]
    assert saved == sorted(saved, reverse=True)
    below = [s for s in falling if s < 1.0 - least - 1e-9]
    steps = np.diff([*below, 0.0])
    assert np.allclose(steps, steps[-1:])


def test_a_speedup_alone_takes_the_defaults_that_the_docs_name():
    bare, full = (
        MixTrain(speedup=1.8, epochs=30),
        MixTrain(
            speedup=1.8,
            epochs=30,
            tiers=[Tier(2, MeanRule(1.0)), Tier(4, MeanRule(0.3))],
            final=0.0,
            taper=0.0,
        ),
    )
    assert repr(bare) == repr(full)
    assert MixTrain(speedup=1.8).schedule == MixTrain().schedule == Schedule(1, None, 0.0, 0.0)
    # As much is saved in every epoch after the first.
    saved = [bare.schedule.cost(1.8, 0.25, epoch) for epoch in range(30)]
    assert saved[0] == 1.0
    assert len(set(saved[1:])) == 1
    assert MixTrain(speedup=1.8, epochs=30, k=4).max_constituents == 4
    assert MixTrain(speedup=1.8, k=3).layouts.keys() == {3}


def test_a_tapered_run_mixes_less_and_less():
    n, epochs = 3000, 20
    policy = MixTrain(speedup=1.5, epochs=epochs, taper=0.5, final=0.1)
    table = exponential(n)
    counts = [policy.plan(table, epoch, 0).num_composites for epoch in range(epochs)]
    assert abs(sum(counts) - n * epochs / 1.5) < 40
    assert counts[1] < counts[10] < counts[17] < n == counts[18] == counts[0]


@pytest.mark.parametrize("make", [CutMix, MixUp])
def test_augmentation_can_end(make):
    policy = make(plain_from=2)
    assert policy.plan(exponential(10), 1, 0).shared
    assert same_plan(policy.plan(exponential(10), 2, 0), Plain().plan(exponential(10), 2, 0))


# Pairing.


def test_random_pairs_are_anybody():
    partners = []
    for epoch in range(300):
        plan = MixTrain(rule=ALL).plan(exponential(6), epoch + 1, 0)
        partners += [pair[1 - pair.index(0)] for pair in composites(plan) if 0 in pair]
    counts = np.bincount(partners, minlength=6)
    assert counts[0] == 0
    assert ((counts[1:] > 30) & (counts[1:] < 90)).all()  # 60 each, 4 standard deviations


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.sampled_from([2, 3, 4]), seeds)
def test_different_classes_wherever_it_can_be(labels, k, seed):
    labels = np.array(labels, np.int32)
    table = exponential(len(labels))
    plan = MixTrain(rule=ALL, k=k, pairing=ByClass(labels)).plan(table, 1, seed)
    groups = [g for g in composites(plan) if len(g) == k]
    mixed = labels[[i for g in groups for i in g]]
    if len(groups) and np.bincount(mixed).max() <= len(groups):
        assert all(len(set(labels[g].tolist())) == k for g in groups)


def test_different_classes_are_not_always_the_same_two():
    # Every group comes with twins, so all are dealt anew, class by class.
    labels, ids = np.arange(40, dtype=np.int32) // 10, np.arange(40, dtype=np.int32)
    met = set()
    for epoch in range(20):
        groups = ByClass(labels).groups(ids, 2, np.zeros(40, np.float32), seed=0, epoch=epoch)
        met |= {frozenset(labels[group].tolist()) for group in groups}
    assert len(met) == 6


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.sampled_from([2, 3, 4]), seeds)
def test_same_class_but_for_the_last_few_of_a_class(labels, k, seed):
    labels = np.array(labels, np.int32)
    pairing = ByClass(labels, same=True)
    plan = MixTrain(rule=ALL, k=k, pairing=pairing).plan(exponential(len(labels)), 1, seed)
    groups = [g for g in composites(plan) if len(g) == k]
    assert sum(len(set(labels[g].tolist())) > 1 for g in groups) <= 3


def test_similar_losses_meet():
    table = exponential(500)
    plan = MixTrain(rule=ALL, pairing=BySimilarLoss()).plan(table, 1, 0)
    ranks = np.argsort(np.argsort(table.snapshot().losses))
    assert all(abs(ranks[a] - ranks[b]) == 1 for a, b in composites(plan))


def test_equal_losses_meet_at_random():
    policy = MixTrain(rule=ALL, pairing=BySimilarLoss())
    table = loss_table([0.5] * 100)
    pairs = [{frozenset(g) for g in composites(policy.plan(table, e, 0))} for e in (1, 2)]
    assert len(pairs[0] & pairs[1]) < 10


# Shares.


@given(loss_tables(), st.floats(0.2, 4.0), st.floats(0.05, 1.0), st.sampled_from([2, 3, 4]), seeds)
def test_higher_losses_get_larger_shares_within_bounds(table, exponent, min_share, k, seed):
    adaptive = Adaptive(exponent, min_share)
    policy = MixTrain(rule=RandomRule(1.0), k=k, adaptive=adaptive, warmup=0)
    plan = policy.plan(table, 1, seed)
    losses, epochs = table.snapshot()
    known = (epochs >= 0) & np.isfinite(losses)
    usual = losses[known].mean(dtype=np.float64) if known.any() else 1.0
    for a, b in zip(plan.offsets[:-1], plan.offsets[1:], strict=True):
        shares, ids = plan.shares[a:b], plan.ids[a:b]
        n = b - a
        np.testing.assert_allclose(shares.sum(), 1.0, rtol=1e-5)
        assert (shares >= min_share / n * (1 - 1e-5)).all()
        values = np.where(known[ids], losses[ids], usual).astype(np.float64)
        if values.max() > 0:
            powers = (values / values.max()) ** exponent
            expected = min_share / n + (1 - min_share) * powers / powers.sum()
            np.testing.assert_allclose(shares, expected, rtol=1e-4)
        else:
            np.testing.assert_allclose(shares, 1 / n, rtol=1e-5)


# Dropping.


@given(loss_tables(), st.floats(0.05, 0.95), st.floats(0.05, 1.0), seeds)
def test_dropping_the_easiest_keeps_the_mean_of_the_loss(table, rate, easiest, seed):
    plan = MixTrain(rule=ALL, drop=Drop(rate, easiest)).plan(table, 1, seed)
    losses, epochs = table.snapshot()
    known = (epochs >= 0) & np.isfinite(losses)
    easy = round(easiest * known.sum())
    dropped = np.setdiff1d(np.arange(len(table)), plan.ids)
    assert len(dropped) == int(rate * easy)
    if len(dropped):
        assert losses[dropped].max() <= np.sort(losses[known])[easy - 1]
    raised = plan.scales != 1.0
    assert raised.sum() == easy - len(dropped)
    np.testing.assert_allclose(plan.scales[raised], 1 / (1 - rate), rtol=1e-6)
    assert known[plan.ids[raised]].all()


@given(loss_tables(), st.floats(0.05, 0.95), seeds)
def test_infobatch_drops_below_the_mean_and_rescales(table, rate, seed):
    plan = InfoBatch(epochs=10, rate=rate).plan(table, 3, seed)
    losses, epochs = table.snapshot()
    known = (epochs >= 0) & np.isfinite(losses)
    mean = losses[known].mean(dtype=np.float64) if known.any() else 0.0
    easy = known & (losses <= np.float32(mean))
    dropped = np.setdiff1d(np.arange(len(table)), plan.ids)
    assert easy[dropped].all()
    assert len(dropped) == int(rate * easy.sum())
    expected = np.where(easy[plan.ids], 1 / (1 - rate), 1.0)
    np.testing.assert_allclose(plan.scales, expected, rtol=1e-6)


def test_infobatch_ends_with_full_epochs():
    policy = InfoBatch(epochs=16)
    for epoch in range(16):
        plan = policy.plan(exponential(100), epoch, 0)
        assert (plan.num_composites == 100) == (epoch >= 14)


def test_whom_infobatch_drops_changes_every_epoch():
    policy, table = InfoBatch(epochs=16), exponential(1000)
    kept = [set(policy.plan(table, epoch, 0).ids.tolist()) for epoch in (1, 2)]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_selective_backprop_keeps_by_percentile(beta):
    n, times = 2000, 60
    table = exponential(n)
    ranks = np.argsort(np.argsort(table.snapshot().losses))
    kept = np.zeros(n)
    for epoch in range(times):
        kept[ranks[SelectiveBackprop(beta=beta).plan(table, epoch + 1, 0).ids]] += 1 / times
    chances = ((np.arange(n) + 1) / n) ** beta
    blocks = kept.reshape(10, -1).mean(axis=1)
    # A tenth's mean is off by at most 4 standard deviations of 200 * 60 draws.
    np.testing.assert_allclose(blocks, chances.reshape(10, -1).mean(axis=1), atol=0.02)


def test_selective_backprop_ranks_equal_losses_at_random():
    kept = np.zeros(1000)
    for epoch in range(40):
        kept[SelectiveBackprop().plan(loss_table([0.0] * 1000), epoch + 1, 0).ids] += 1 / 40
    assert abs(kept[:500].mean() - kept[500:].mean()) < 0.03
    # Anew every epoch: each is kept in half of them, with the spread of 40 throws of a coin.
    assert abs(kept.mean() - 0.5) < 0.03
    assert kept.std() < 1.3 * 0.5 / np.sqrt(40)


# Settings.


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: MixTrain(k=1), "k: got 1, expected 2 to 4"),
        (lambda: MixTrain(k=5), "k: got 5"),
        (lambda: MixTrain(k=3, layout=Split()), "cannot place 3 constituents, only 2"),
        (lambda: MixTrain(k=3, layout=Blend(0.2)), "layout.*alpha=None"),
        (lambda: MixTrain(layout=Grid()), "layout"),
        (lambda: MixTrain(speedup=0.9), "speedup: got 0.9"),
        (lambda: Budget(1.0), "speedup: got 1.0"),
        (lambda: MixTrain(speedup=1.2, rule=Budget(1.3)), "speedup: got 1.2 beside"),
        (lambda: MixTrain(speedup=1.2, rule=Hysteresis()), "Hysteresis"),
        (lambda: MixTrain(tiers=[]), "tiers"),
        (lambda: MixTrain(tiers=[Tier(2), Tier(2)]), "each of another k"),
        (lambda: MixTrain(tiers=[Tier(2)], k=2), "tiers: given beside"),
        (lambda: MixTrain(tiers=[Tier(2, RandomRule()), Tier(3)]), "RandomRule beside"),
        (lambda: MixTrain(tiers=[Tier(2, Hysteresis()), Tier(3)]), "Hysteresis"),
        (lambda: MixTrain(tiers=[Tier(2, layout=Blend()), Tier(4)]), "Blend beside"),
        (lambda: MixTrain(adaptive=Adaptive(), layout=CutMixBox(1.0)), "adaptive: has no effect"),
        (lambda: MixTrain(warmup=-1), "warmup: got -1"),
        (lambda: MixTrain(final=0.1), "epochs: got None"),
        (lambda: MixTrain(epochs=10, final=1.0), "final: got 1.0"),
        (lambda: MixTrain(epochs=0), "epochs: got 0"),
        (lambda: MixTrain(taper=0.5, epochs=10), "taper: got 0.5 without speedup"),
        (lambda: MixTrain(speedup=1.5, taper=0.5), "taper=0.5 are shares of them"),
        (lambda: MixTrain(speedup=1.5, taper=0.9, final=0.2, epochs=10), "taper: got 0.9, expec"),
        (lambda: MixTrain(weighting="none"), "weighting: got 'none'"),
        (lambda: MixTrain(batch_by="samples"), "batch_by: got 'samples'"),
        (lambda: MeanRule(0.0), "tau: got 0.0"),
        (lambda: QuantileRule(1.1), "q: got 1.1"),
        (lambda: RandomRule(0.0), "fraction: got 0.0"),
        (lambda: Hysteresis(leave=0), "leave: got 0"),
        (lambda: Adaptive(exponent=0), "exponent: got 0"),
        (lambda: Adaptive(min_share=1.5), "min_share: got 1.5"),
        (lambda: Drop(rate=1.0), "rate: got 1.0"),
        (lambda: Drop(easiest=0.0), "easiest: got 0.0"),
        (lambda: InfoBatch(epochs=10, rate=0.0), "rate: got 0.0"),
        (lambda: InfoBatch(epochs=10, speedup=1.0), "speedup: got 1.0"),
        (lambda: SelectiveBackprop(beta=0.0), "beta: got 0.0"),
        (lambda: CutMix(alpha=0.0), "alpha: got 0.0"),
        (lambda: Plain().load_state_dict({"epoch": 1}), "state.*Plain keeps no state"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Tier(2, Budget(1.5)), "rule: got Budget"),
        (lambda: Hysteresis(enter=RandomRule()), "enter: got RandomRule"),
        (lambda: Budget(1.5, of=Hysteresis()), "of: got Hysteresis"),
        (lambda: InfoBatch(), "epochs"),
    ],
)
def test_wrong_kinds_are_named(make, named):
    with pytest.raises(TypeError, match=named):
        make()


def test_settings_can_be_read():
    text = repr(MixTrain(speedup=1.6, epochs=90, final=0.1, pairing=ByClass(LABELS)))
    for part in (
        "speedup=1.6",
        "MeanRule(tau=1.0)",
        "epochs=90",
        "final=0.1",
        "ByClass(same=False)",
    ):
        assert part in text
    assert replace(InfoBatch(epochs=9), rate=0.2).rate == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 0.5}, "drop: got 0.5, expected a mixpipe.Drop"),
        ({"adaptive": True}, "adaptive: got True, expected a mixpipe.Adaptive"),
        ({"pairing": "random"}, "pairing: got 'random', expected a mixpipe.Pairing"),
        ({"tiers": [2, 4]}, r"tiers: got 2 among them, expected Tier\(k, rule\)"),
        ({"layout": Split}, "layout: got <class .*Split'>, expected a layout such as"),
    ],
)
def test_arguments_of_another_kind_are_named_at_once(options, message):
    with pytest.raises(TypeError, match=message):
        MixTrain(**options)


def test_a_number_of_constituents_is_whole():
    with pytest.raises(ValueError, match=r"k: got 2.0, expected 2 to 4"):
        MixTrain(k=2.0)
    assert MixTrain(k=np.int64(2)).max_constituents == 2
