import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mixpipe import cli
from mixpipe.bench import plan
from mixpipe.plan import Plain, Policy, plan_batch


class Hungry(Plain):
    """Keeps 3 bytes a sample, and for a moment takes 5 more beside the plan's own."""

    def plan(self, table, epoch, seed):
        object.__setattr__(self, "kept", np.zeros(3 * len(table), np.uint8))
        made = super().plan(table, epoch, seed)
        return made, np.zeros(5 * len(table), np.uint8)


def test_peak_bytes_count_state_and_temporaries_but_not_the_table():
    size = 200_000
    policies = {"plain": lambda _: Plain(), "hungry": lambda _: Hungry(shuffle=False)}
    plain, hungry = plan.run_plans([size], policies, repeats=1, progress=False)
    # Without a shuffle a plain plan holds ids and offsets of 4 bytes each, and nothing on the way.
    assert hungry["peak_bytes_per_sample"] == pytest.approx(3 + 4 + 4 + 5, abs=0.2)
    assert plain["peak_bytes_per_sample"] > 8
    assert plain["samples"] == size
    assert plain["nanoseconds_per_sample"] == pytest.approx(1e9 * plain["seconds"] / size)


@pytest.mark.parametrize("name", plan.POLICIES)
def test_every_policy_plans_something_of_its_own(name):
    policy = plan.POLICIES[name](np.arange(1000) % 10)
    assert isinstance(policy, Policy)
    made = policy.plan(plan.loss_table(1000, 0), 5, 0)
    ordinary = made.num_composites == made.num_constituents == 1000
    assert ordinary == (name == "Plain")


def test_sizes_rise_to_the_largest():
    assert plan.sizes_up_to(500) == [500]
    assert plan.sizes_up_to(10**6) == [10**4, 10**5, 10**6]
    assert plan.sizes_up_to(2 * 10**7) == [10**4, 10**5, 10**6, plan.IMAGENET, 10**7, 2 * 10**7]
    with pytest.raises(ValueError, match="largest: got 0"):
        plan.sizes_up_to(0)


def test_sizes_that_memory_does_not_hold_are_left_out(monkeypatch):
    monkeypatch.setattr(plan, "free_bytes", lambda: 100_000)
    rows = plan.run_plans([1000, 10_000], {"plain": lambda _: Plain()}, repeats=1, progress=False)
    assert [row["samples"] for row in rows] == [1000]


def test_figures_take_the_worst_policy():
    def row(policy, samples, seconds, peak):
        return {
            "policy": policy,
            "samples": samples,
            "seconds": seconds,
            "cpu_seconds": seconds,
            "peak_bytes_per_sample": peak,
        }

    rows = [
        row("a", 10**6, 0.1, 20.0),
        row("b", 10**6, 0.2, 30.0),
        row("a", plan.IMAGENET, 0.3, 20.0),
        row("b", plan.IMAGENET, 0.2, 20.0),
        row("a", 10**7, 3.0, 20.0),
        row("b", 10**7, 1.0, 41.0),
    ]
    seconds, growth, peak = plan.plan_figures(rows)
    assert (seconds.value, seconds.met) == (0.3, True)
    assert growth.value == pytest.approx(3.0)
    assert growth.met is False
    assert (peak.value, peak.met) == (41.0, False)
    assert plan.plan_figures([]) == []


def test_batches_are_of_so_many_composites(monkeypatch):
    seen = []

    def watched(made, composites, *rest):
        batch = plan_batch(made, composites, *rest)
        seen.append(batch.ids.shape)
        return batch

    monkeypatch.setattr(plan, "plan_batch", watched)
    rows = plan.time_batches(400, composites=8, repeats=2)
    assert seen == [(8, 2)] * 4 + [(8, 4)] * 2
    assert rows[0]["batch"] == "8 composites of 2, split"


def test_the_command_writes_the_form(tmp_path):
    report = tmp_path / "plan.json"
    arguments = ["bench", "plan", "--largest", "2000", "--json", str(report)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(report.read_text())
    assert set(written) == {"meta", "rows", "figures"}
    assert {row["policy"] for row in written["rows"] if "policy" in row} == set(plan.POLICIES)
    assert "plan_batch" in result.output
