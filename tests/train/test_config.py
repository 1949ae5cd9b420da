import math
from itertools import pairwise

import pytest
import torch

from mixpipe.train import PolicyOptions, TrainConfig, make_policy
from mixpipe.train.config import learning_rate, make_optimizer, peak_rate
from mixpipe.train.models import build_model


def test_the_rate_rises_then_falls_to_zero():
    config = TrainConfig(warmup=0.25)
    rates = [learning_rate(config, i / 100) for i in range(101)]
    assert rates[0] == 0
    assert max(rates) == rates[25] == peak_rate(config)
    assert all(a <= b for a, b in pairwise(rates[:26]))
    assert all(a >= b for a, b in pairwise(rates[25:]))
    assert math.isclose(rates[100], 0, abs_tol=1e-9)


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
        ({"k": 5}, "k: got 5, expected 2 to 4"),
        ({"speedup": 3.0}, "largest attainable"),
    ],
)
def test_policy_options_that_cannot_work_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(PolicyOptions(**options), epochs=16)


@pytest.mark.parametrize("name", ["mixtrain", "plain", "mixup", "cutmix", "infobatch", "selective"])
def test_every_policy_can_be_made(name):
    assert make_policy(PolicyOptions(name), epochs=8)


@pytest.mark.parametrize("rule", ["mean", "quantile", "random", "hysteresis"])
@pytest.mark.parametrize("layout", ["default", "cutmix", "mixup"])
def test_every_rule_and_layout_can_be_made(rule, layout):
    options = PolicyOptions(rule=rule, layout=layout, threshold=0.5, final=0.1)
    assert make_policy(options, epochs=8)


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
