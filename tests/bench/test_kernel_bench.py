import json
import logging
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mixpipe import cli
from mixpipe.bench import kernel_cases, kernels, rounds
from mixpipe.bench.kernel_cases import Spec

CPU = torch.device("cpu")
TINY = [
    Spec("compose", k=1, batch=2, size=16),
    Spec("compose", "bf16", "contiguous", k=4, batch=2, size=16),
    Spec("compose_resampled", "fp32", k=2, batch=2, size=16),
    *(Spec("mix_", "fp32", what=what, batch=4, size=16) for what in ("box", "whole", "blend")),
    Spec("dense_targets", "fp16", "", k=2, batch=4, classes=10),
    Spec("composite_cross_entropy", "fp32", "", k=3, batch=4, classes=10),
]


@pytest.mark.parametrize("spec", TINY, ids=str)
def test_every_way_makes_what_mixpipe_makes(spec, caplog):
    case = kernel_cases.make_case(spec, libraries=kernel_cases.installed())
    with caplog.at_level(logging.WARNING):
        rows = kernels._measure(case, rounds.Copy(CPU, 1 << 12), CPU, 1)
    assert not caplog.records
    copy = "copy of as many bytes"
    assert [row["way"] for row in rows] == [*(way.name for way in case.ways), copy]
    assert rows[0]["way"] == "mixpipe"
    assert rows[0]["ratio"]["median"] == 1.0


def test_a_way_with_another_result_is_left_out(caplog):
    case = kernel_cases.make_case(TINY[0])
    wrong = kernel_cases.Way("wrong", lambda: case.ways[0].run() + 0.1)

    def broken():
        raise RuntimeError("no such dtype")

    ways = (case.ways[0], wrong, kernel_cases.Way("broken", broken))
    spoilt = kernel_cases.Case(case.spec, case.bytes, ways, case.tolerance)
    with caplog.at_level(logging.WARNING):
        rows = kernels._measure(spoilt, rounds.Copy(CPU, 1 << 12), CPU, 1)
    assert [row["way"] for row in rows] == ["mixpipe", "copy of as many bytes"]
    assert "wrong is left out: its result is another" in caplog.text
    assert "broken is left out: no such dtype" in caplog.text


def test_bytes_counted_by_hand():
    # Halves of a 4 x 4 canvas, and a box of 2 x 2 over a base: 16 pixels are visible in both.
    halves = np.array([[[0, 0, 2, 4], [2, 0, 4, 4]], [[0, 0, 4, 4], [1, 1, 3, 3]]])
    assert kernel_cases.compose_bytes(halves, 4, 2) == 2 * (16 * 3 + 16 * 3 * 2)
    # A quarter is all that is shown; the whole result is written.
    quarter = np.array([[[0, 0, 2, 2]]])
    assert kernel_cases.compose_bytes(quarter, 4, 4) == 4 * 3 + 16 * 3 * 4
    # Two boxes of 2 x 3 in three channels of 4 bytes, read and written; the third stays at home.
    boxes = np.array([[0, 0, 2, 3], [1, 1, 3, 4], [0, 0, 4, 4]])
    assert kernel_cases.mix_bytes(boxes, np.array([1, 0, 2]), 3, 4) == 2 * 2 * 6 * 3 * 4
    assert kernel_cases.targets_bytes(5, 2, 10, 4) == 5 * (2 * 12 + 40)
    assert kernel_cases.loss_bytes(5, 2, 10, 2) == 5 * (2 * 20 + 2 * 32)
    rectangles = [torch.zeros(2, 3, 3, dtype=torch.uint8)] * 2
    assert kernel_cases.resampled_bytes(rectangles, 1, 4, 2) == 2 * 18 + 96


def test_mix_is_told_to_move_the_boxes_and_nothing_else():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.float16)
    regions = torch.tensor([[0, 0, 2, 3], [1, 1, 3, 4], [0, 0, 8, 8], [0, 0, 0, 0]]).int()
    partners = torch.tensor([1, 3, 2, 0])
    told = kernel_cases.box_bytes_launched(regions, partners, images)
    assert told == kernel_cases.mix_bytes(regions.numpy(), partners.numpy(), 3, 2) == 2 * 12 * 6


def test_rounds_take_turns_in_both_directions():
    seen = []
    ways = {name: lambda name=name: seen.append(name) for name in "ab"}
    costs = rounds.interleave(ways, rounds=2, device=CPU, seconds=0.0)
    assert "".join(seen[6:]) == "abba"
    assert [len(costs[name]) for name in "ab"] == [2, 2]
    assert rounds.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_work_that_cannot_be_replayed_has_no_time_on_the_gpu(monkeypatch):
    """Captured here by a stand-in: a call is its own replay."""
    ways = {"ours": lambda: time.sleep(0.001), "asks the device": lambda: None}
    monkeypatch.setattr(rounds, "_captured", lambda w: w if w is ways["ours"] else None)
    seconds = rounds.replay(ways, rounds=2, device=CPU)
    assert list(seconds) == ["ours"]
    assert len(seconds["ours"]) == 2
    assert min(seconds["ours"]) > 0.001
    case = kernel_cases.make_case(TINY[0])
    turns = [rounds.Cost(2.0, 1.0)] * 2
    row = kernels._row(case, "asks the device", turns, turns, None, [1e9, 1e9])
    assert (row["gb_per_s"], row["copy_share"]) == (None, None)
    row = kernels._row(case, "ours", turns, turns, [1e-3 * case.bytes] * 2, [1e3, 1e3])
    assert row["wall_ms"]["median"] == 2000
    assert row["copy_share"]["median"] == pytest.approx(1.0)


def test_what_is_slow_has_three_turns(monkeypatch):
    monkeypatch.setattr(rounds, "SLOW_SECONDS", -1.0)
    assert len(rounds.interleave({"a": int}, rounds=5, device=CPU)["a"]) == 3


def test_the_copy_is_larger_than_the_caches():
    copy = rounds.Copy(CPU)
    assert copy.bytes / 2 >= 2 * rounds.cache_bytes(CPU)
    assert torch.equal(copy(), copy._source)


def test_the_grids_hold_the_figures_cases():
    default = kernel_cases.default_grid()
    assert {spec.kernel for spec in default} == set(kernel_cases.KERNELS)
    assert {spec.dtype for spec in kernel_cases.full_grid()} == {"fp32", "fp16", "bf16"}
    rows = [
        {
            "case": str(spec),
            "way": way,
            "ratio": {"median": ratio},
            "copy_share": {"median": 0.7},
            "wall_ms": {"median": 1.0},
        }
        for spec in default
        for way, ratio in (
            ("mixpipe", 1.0),
            ("torch eager, soft labels", 5.0),
            ("copy of as many bytes", 0.5),
        )
    ]
    figures = kernels.kernel_figures(rows)
    goals = [figure for figure in figures if figure.goal]
    # Of `mix_` the bytes are the box's; its time here is not.
    assert [figure.met for figure in goals] == [True, False, True, True, False, True]
    assert goals[1].value == 0.5
    assert kernels.kernel_figures([]) == []


def test_the_command_writes_the_form(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "default_grid", lambda: TINY[:1])
    monkeypatch.setattr(rounds, "cache_bytes", lambda device: 0)
    report = tmp_path / "kernels.json"
    arguments = ["bench", "kernels", "--rounds", "1", "--json", str(report)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(report.read_text())
    assert set(written) == {"meta", "rows", "figures"}
    assert written["rows"][0]["way"] == "mixpipe"
    assert written["rows"][-1]["way"] == "copy of as many bytes"
    assert "of a copy" in result.output
