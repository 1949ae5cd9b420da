import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from mixpipe.plan import (
    Adaptive,
    Blend,
    ByClass,
    BySimilarLoss,
    CenterCrop,
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
    Strips,
    Tier,
)
from mixpipe.train import PolicyOptions, TrainConfig, make_policy
from mixpipe.train.config import learning_rate, make_optimizer, peak_rate
from mixpipe.train.models import build_model
from mixpipe.train.policies import LAYOUTS


def test_the_rate_rises_then_falls_to_zero():
    config = TrainConfig(warmup=0.25)
    rates = [learning_rate(config, i / 100) for i in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == peak_rate(config)
    assert all(a <= b for a, b in pairwise(rates[:26]))
    assert all(a >= b for a, b in pairwise(rates[25:]))
    assert math.isclose(rates[100], 0, abs_tol=1e-9)


def test_a_decoding_device_that_is_none_is_named():
    with pytest.raises(ValueError, match="decode_device: expected cpu, cuda or cuda:N, got 'gpu'"):
        TrainConfig(decode_device="gpu").require_device()


def test_the_default_rate_follows_the_batch_size():
    assert peak_rate(TrainConfig(batch_size=256)) == 2 * peak_rate(TrainConfig(batch_size=128))
    assert peak_rate(TrainConfig(lr=0.3, batch_size=256)) == 0.3


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_every_optimizer_decays_weights_and_spares_biases_and_norms(name):
    model = build_model("resnet8", 3, 28)
    optimizer = make_optimizer(TrainConfig(optimizer=name, weight_decay=0.1), model)
    assert name in type(optimizer).__name__.lower()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
    held = sum(len(group["params"]) for group in optimizer.param_groups)
    assert held == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_first_step_that_overflows_in_float16_changes_nothing(name):
    model = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(TrainConfig(optimizer=name, precision="float16"), model)
    scaler = torch.amp.GradScaler("cpu")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for factor in (math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * model(torch.ones(4, 3)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        changes = [(a - b).abs().max() for a, b in zip(before, model.parameters(), strict=True)]
        if factor == math.inf:
            assert max(changes) == 0
            # What no step has written must not be what the next one starts with.
            held = [v for state in optimizer.state.values() for v in state.values()]
            assert all(v is None or not v.any() for v in held)
    assert 0 < max(changes) < 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 1}, "batch_size: expected at least 2, got 1"),
        ({"optimizer": "lion"}, "optimizer: expected one of .*got lion"),
        ({"precision": "int8"}, "precision: expected one of"),
        ({"warmup": 1.0}, "warmup: expected 0 <= value < 1"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the device exists")
def test_a_missing_gpu_is_said_at_once():
    with pytest.raises(ValueError, match="device: 'cuda' needs a CUDA device.*mixpipe doctor"):
        TrainConfig(device="cuda").train_loader(make_policy(PolicyOptions("plain"), 1))


def test_a_folder_without_splits_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"/train: there is no such folder; expected"):
        TrainConfig(data=str(tmp_path)).train_loader(make_policy(PolicyOptions("plain"), 1))
    with pytest.raises(FileNotFoundError, match=r"data: .*nowhere is not there; expected"):
        TrainConfig(data=str(tmp_path / "nowhere")).train_loader(
            make_policy(PolicyOptions("plain"), 1)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "magic"}, "policy: expected one of mixtrain, plain"),
        ({"rule": "best"}, "rule: expected one of mean"),
        ({"layout": "spiral"}, "layout: expected one of default"),
        ({"layout": "grid"}, r"layout: Grid.* cannot place 2 constituents, only 3 or 4"),
        ({"window": "shrink"}, "window: got 'shrink', expected 'cut' or 'fit'"),
        ({"spread": 0.7}, "spread: got 0.7, expected a share from 0 to 0.5"),
        ({"rule": "hysteresis", "leave": 0.0}, "leave: got 0.0, expected a factor"),
        ({"adaptive": True, "min_share": 0.0}, "min_share: got 0.0, expected a part"),
        ({"drop": 0.5, "easiest": 1.5}, "easiest: got 1.5, expected a share"),
        ({"pairing": "friends"}, "pairing: expected one of random, similar, different-class"),
        ({"pairing": "same-class"}, "labels: got None, expected .* for pairing='same-class'"),
        ({"k": 5}, "k: got 5, expected 2 to 4"),
        ({"name": "mixup", "final": 1.5}, "final: got 1.5, expected a share"),
        ({"speedup": 3.9}, "largest attainable"),
    ],
)
def test_policy_options_that_cannot_work_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(PolicyOptions(**options), epochs=16)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mixtrain", MixTrain),
        ("plain", Plain),
        ("mixup", MixUp),
        ("cutmix", CutMix),
        ("infobatch", InfoBatch),
        ("selective", SelectiveBackprop),
    ],
)
def test_every_policy_can_be_made(name, kind):
    assert type(make_policy(PolicyOptions(name), epochs=8)) is kind


@pytest.mark.parametrize("rule", ["mean", "quantile", "random", "hysteresis"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rule_and_layout_can_be_made(rule, layout):
    k = 3 if layout == "grid" else 2
    options = PolicyOptions(rule=rule, layout=layout, k=k, threshold=0.5, final=0.1)
    (tier,) = make_policy(options, epochs=8).tiers
    assert (
        type(tier.rule)
        is {
            "mean": MeanRule,
            "quantile": QuantileRule,
            "random": RandomRule,
            "hysteresis": Hysteresis,
        }[rule]
    )
    assert tier.k == k
    kinds = {"split": Split, "strips": Strips, "grid": Grid, "cutmix": CutMixBox, "mixup": Blend}
    assert type(tier.layout) is kinds.get(layout, type(None))


def test_images_are_evaluated_whole_whatever_their_split_is_called():
    """Also those of the training split, to see how well a network knows them."""
    config = TrainConfig(val_split="train", size=96)
    loader = config.val_loader(config.train_loader(Plain()).classes)
    assert not loader.train
    assert isinstance(loader.crop, CenterCrop)


TWO_AND_FOUR = ((2, 1.0), (4, 0.3))


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"layout": "split"}, "tiers", (Tier(2, layout=Split()),)),
        ({"layout": "strips", "k": 4}, "tiers", (Tier(4, layout=Strips()),)),
        ({"layout": "grid", "k": 3}, "tiers", (Tier(3, layout=Grid()),)),
        ({"window": "fit"}, "tiers", (Tier(2, layout=Split("fit")),)),
        ({"window": "fit", "layout": "cutmix"}, "tiers", (Tier(2, layout=CutMixBox(None, "fit")),)),
        (
            {"window": "cut", "tiers": TWO_AND_FOUR},
            "tiers",
            (Tier(2, layout=Split("cut")), Tier(4, MeanRule(0.3), Grid("cut"))),
        ),
        (
            {"spread": 0.2, "tiers": TWO_AND_FOUR},
            "tiers",
            (Tier(2, layout=Split(spread=0.2)), Tier(4, MeanRule(0.3))),
        ),
        (
            {"spread": 0.2, "window": "fit", "layout": "split"},
            "tiers",
            (Tier(2, layout=Split("fit", 0.2)),),
        ),
        ({"rule": "hysteresis"}, "tiers", (Tier(2, Hysteresis()),)),
        ({"rule": "hysteresis", "leave": 1.5}, "tiers", (Tier(2, Hysteresis(leave=1.5)),)),
        ({"adaptive": True}, "adaptive", Adaptive()),
        ({"adaptive": True, "exponent": 2.0}, "adaptive", Adaptive(exponent=2.0)),
        ({"adaptive": True, "min_share": 0.2}, "adaptive", Adaptive(min_share=0.2)),
        ({"drop": 0.4}, "drop", Drop(0.4)),
        ({"drop": 0.4, "easiest": 0.6}, "drop", Drop(0.4, easiest=0.6)),
        ({"pairing": "similar"}, "pairing", BySimilarLoss()),
        ({"pairing": "same-class"}, "pairing", ByClass(np.arange(3), same=True)),
        ({"pairing": "different-class"}, "pairing", ByClass(np.arange(3), same=False)),
    ],
)
def test_settings_reach_the_policy(options, name, expected):
    policy = make_policy(PolicyOptions(**options), 8, lambda: np.arange(3))
    assert getattr(policy, name) == expected


def test_without_settings_the_policy_has_its_own():
    expected = MixTrain(speedup=1.6, epochs=8)
    assert repr(make_policy(PolicyOptions(speedup=1.6), 8)) == repr(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leave": 2.0}, "leave: got 2.0, expected it only with rule 'hysteresis'"),
        ({"window": "fit", "layout": "mixup"}, "window: got 'fit', .* another layout than 'mixup'"),
        ({"spread": 0.2, "layout": "strips"}, "spread: got 0.2, expected it only with layout"),
        ({"spread": 0.2, "layout": "cutmix"}, "spread: got 0.2, expected it only with layout"),
        ({"spread": 0.2, "k": 3}, "spread: got 0.2, .* or 'default' with k or a tier of 2"),
        ({"spread": 0.2, "tiers": ((4, 1.0),)}, "spread: got 0.2, .* k or a tier of 2"),
        ({"exponent": 2.0}, "exponent: got 2.0, expected it only with adaptive"),
        ({"min_share": 0.2}, "min_share: got 0.2, expected it only with adaptive"),
        ({"easiest": 0.5}, "easiest: got 0.5, expected it only with drop"),
        (
            {"name": "infobatch", "drop": 0.5, "easiest": 0.5},
            "easiest: the policy 'infobatch' takes only speedup, final, drop",
        ),
    ],
)
def test_settings_that_nobody_looks_at_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(PolicyOptions(**options), epochs=8)


@pytest.mark.parametrize("pairing", ["same-class", "different-class"])
def test_pairings_by_class_have_the_data_s_labels(folder, pairing):
    config = TrainConfig(data=str(folder), size=28, batch_size=16, threads=1)
    options = PolicyOptions(rule="random", threshold=1.0, warmup_epochs=0, pairing=pairing)
    loader = config.train_loader(make_policy(options, 1, config.train_labels))
    pairs = loader.store.index.labels[loader.plan.ids].reshape(-1, 2)
    assert len(pairs) == 48
    assert ((pairs[:, 0] == pairs[:, 1]) == (pairing == "same-class")).all()


def test_unknown_models_are_named():
    with pytest.raises(ValueError, match="model: no model 'resnet9000'; expected one of resnet8"):
        build_model("resnet9000", 10, 28)
    with pytest.raises(ValueError, match="depth: expected 6 n"):
        from mixpipe.train.models import SmallResNet

        SmallResNet(10, 10)


def test_small_data_is_cached(folder, monkeypatch):
    """And more of it where the user says so."""
    policy = make_policy(PolicyOptions("plain"), 1)

    def cached(**settings):
        return TrainConfig(data=str(folder), **settings).train_loader(policy).cache

    assert cached()
    assert not cached(cache=False)
    monkeypatch.setattr("mixpipe.train.config.CACHED_UP_TO", 100)
    assert not cached()
    assert cached(cache=True)
