import json
import time

import pytest
import torch
from typer.testing import CliRunner

from mixpipe import cli, trace
from mixpipe.train import PolicyOptions, Profile, TrainConfig, Trainer, make_policy, profile

STEP = ["forward", "loss", "backward", "optimizer"]
NAP = 0.1  # seconds: more than all else of a small batch takes


@pytest.fixture
def trainer(folder):
    config = TrainConfig(data=str(folder), size=28, batch_size=16, threads=1)
    options = PolicyOptions(rule="random", threshold=1.0, warmup_epochs=0)
    trainer = Trainer(config, make_policy(options, config.epochs))
    yield trainer
    trainer.close()


def slow_down(trainer, part, seconds=NAP):
    """Sleep in one part of the step."""

    def nap(*_):
        time.sleep(seconds)

    hook = {
        "forward": trainer.model.register_forward_pre_hook,
        "loss": trainer.loss.register_forward_pre_hook,
        "backward": next(trainer.model.parameters()).register_hook,
        "optimizer": trainer.optimizer.register_step_pre_hook,
    }
    hook[part](nap)


def test_a_profile_measures_every_part(trainer):
    result = profile(trainer, batches=3)
    assert set(result.parts) == {"plan", "decode", "compose"}
    assert list(result.step_parts) == STEP
    assert min(*result.parts.values(), *result.step_parts.values()) > 0
    assert sum(result.parts.values()) <= result.loader
    assert result.step / 2 < sum(result.step_parts.values()) <= result.step
    assert 0 < result.wait < result.together
    assert result.batches == 3
    assert result.composites == 8
    assert result.constituents == 16


@pytest.mark.parametrize("part", STEP)
def test_a_steps_seconds_go_to_the_part_that_took_them(trainer, part):
    images, target = next(iter(trainer.loader))
    trainer.step(images, target)  # warms up
    slow_down(trainer, part)
    seconds = {}
    begin = time.perf_counter()
    trainer.step(images, target, seconds)
    elapsed = time.perf_counter() - begin
    assert max(seconds, key=seconds.get) == part
    assert seconds[part] >= NAP
    assert sum(seconds.values()) <= elapsed


def test_a_slow_model_bounds_the_run(trainer):
    slow_down(trainer, "forward")
    result = profile(trainer, batches=6)
    assert result.bound == "model"
    assert result.advice.startswith("the loader keeps up")
    assert result.step > result.loader
    # A batch's seconds, not those of all.
    assert NAP <= result.step_parts["forward"] <= result.step < 6 * NAP
    assert max(result.step_parts, key=result.step_parts.get) == "forward"


def test_a_slow_decoder_bounds_the_run(trainer, monkeypatch):
    decode = trainer.loader._decoder.decode

    def slow(jobs):
        for batch in decode(jobs):
            time.sleep(NAP)
            yield batch

    monkeypatch.setattr(trainer.loader._decoder, "decode", slow)
    result = profile(trainer, batches=3)
    assert result.bound == "decode"
    assert "decod" in result.advice
    assert result.loader >= result.parts["decode"] >= NAP
    assert max(result.parts, key=result.parts.get) == "decode"
    assert result.wait > 0.1 * result.together


@pytest.mark.parametrize(
    ("wait", "parts", "bound"),
    [
        (0.01, {"plan": 1, "decode": 2, "compose": 3}, "model"),
        (0.5, {"plan": 1, "decode": 3, "compose": 2}, "decode"),
        (0.5, {"plan": 1, "decode": 2, "compose": 3}, "compose"),
        (0.5, {"plan": 3, "decode": 2, "compose": 1}, "plan"),
    ],
)
def test_what_bounds_a_run_is_what_it_waits_for(wait, parts, bound):
    result = Profile(1, 8, 16, parts, loader=1.0, step=1.0, step_parts={}, together=1.0, wait=wait)
    assert result.bound == bound
    assert result.advice


def test_the_report_has_a_share_of_the_whole_for_every_part():
    result = Profile(
        batches=1,
        composites=8,
        constituents=16,
        parts={"decode": 1.0, "compose": 3.0},
        loader=4.0,
        step=8.0,
        step_parts={"forward": 2.0, "backward": 4.0},
        together=10.0,
        wait=1.0,
    )
    assert result.rows == [
        ("loader: decode", 1.0, 0.25),
        ("loader: compose", 3.0, 0.75),
        ("loader alone", 4.0, 1.0),
        ("step: forward", 2.0, 0.25),
        ("step: backward", 4.0, 0.5),
        ("step: the rest", 2.0, 0.25),
        ("step alone", 8.0, 1.0),
        ("together", 10.0, 1.0),
        ("of that waiting for data", 1.0, 0.1),
    ]


def test_the_command_writes_the_parts_of_loader_and_step(folder, tmp_path):
    report = tmp_path / "profile.json"
    small = ["--size", "28", "--batch-size", "16", "--threads", "1", "--batches", "2"]
    result = CliRunner().invoke(cli.app, ["profile", str(folder), *small, "--json", str(report)])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(report.read_text())["rows"]
    assert list(row["step_parts"]) == STEP
    assert 0 < sum(row["step_parts"].values()) <= row["step"]
    assert set(row["parts"]) == {"plan", "decode", "compose"}
    assert row["bound"] in ("model", *row["parts"])


def test_parts_are_seen_by_torchs_profiler_and_timed():
    seconds = {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        with trace.part("plan", seconds):
            torch.ones(3).sum()
        with trace.part("plan", seconds):
            pass
    assert [event.count for event in profiler.key_averages() if event.key == "mixpipe.plan"] == [2]
    assert seconds["plan"] > 0


def test_a_part_that_fails_is_closed():
    seconds = {}
    with pytest.raises(KeyError), trace.part("plan", seconds):
        raise KeyError
    assert "plan" in seconds
