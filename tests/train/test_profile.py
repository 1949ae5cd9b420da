import pytest
import torch

from mixpipe import trace
from mixpipe.train import PolicyOptions, Profile, TrainConfig, Trainer, make_policy, profile


def test_a_profile_measures_every_part(folder):
    config = TrainConfig(data=str(folder), size=28, batch_size=16, threads=1)
    options = PolicyOptions(rule="random", threshold=1.0, warmup_epochs=0)
    result = profile(Trainer(config, make_policy(options, config.epochs)), batches=3)
    assert set(result.parts) == {"plan", "decode", "compose"}
    assert all(seconds > 0 for seconds in result.parts.values())
    assert result.batches == 3
    assert result.composites == 8
    assert result.constituents == 16
    assert result.bound in (*result.parts, "model")
    assert result.advice


@pytest.mark.parametrize(
    ("wait", "parts", "bound"),
    [
        (0.01, {"plan": 1, "decode": 2, "compose": 3}, "model"),
        (0.5, {"plan": 1, "decode": 3, "compose": 2}, "decode"),
        (0.5, {"plan": 1, "decode": 2, "compose": 3}, "compose"),
    ],
)
def test_what_bounds_a_run_is_what_it_waits_for(wait, parts, bound):
    result = Profile(1, 8, 16, parts, loader=1.0, step=1.0, together=1.0, wait=wait)
    assert result.bound == bound


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
