import json

import pytest
from typer.testing import CliRunner

from mixpipe import cli


@pytest.fixture
def run():
    def invoke(*arguments):
        result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


SMALL = ("--size", 28, "--epochs", 2, "--batch-size", 16, "--threads", 1)


def test_train_writes_a_report(run, folder, tmp_path):
    report = tmp_path / "out.json"
    result = run(
        "train", folder, *SMALL, "--output", tmp_path / "run", "--compare", "--json", report
    )
    assert result.exit_code == 0
    content = json.loads(report.read_text())
    assert [row["name"] for row in content["rows"]] == ["plain", "plain-shortened", "mixtrain"]
    wanted = {
        "accuracy", "network_inputs", "steps", "seconds", "decoded_per_second", "trained_per_second"
    }  # fmt: skip
    assert all(wanted <= set(row) for row in content["rows"])
    assert [figure["name"] for figure in content["figures"]] == [
        "speed-up in network inputs",
        "speed-up in seconds",
        "accuracy minus plain, points",
        "accuracy minus plain-shortened, points",
    ]
    for name in ("plain", "plain-shortened", "mixtrain"):
        assert name in result.stdout


def test_train_resumes(run, folder, tmp_path):
    first = run("train", folder, *SMALL, "--output", tmp_path)
    again = run(
        "train", folder, *SMALL, "--output", tmp_path, "--resume", tmp_path / "checkpoint.pt"
    )
    assert first.exit_code == again.exit_code == 0


def test_tiers_are_read_from_text(run, folder, tmp_path):
    arguments = ("train", folder, *SMALL, "--output", tmp_path, "--tiers", "2:1.0,4:0.5")
    assert run(*arguments).exit_code == 0
    assert "Tier(k=4" in json.loads((tmp_path / "summary.json").read_text())["policy"]
    with pytest.raises(ValueError, match=r"--tiers: expected k:threshold.*got 'two'"):
        run("train", folder, "--tiers", "two")


def test_show_draws(run, folder, tmp_path):
    path = tmp_path / "sheet.png"
    assert run("show", folder, "--size", 28, "--output", path).exit_code == 0
    assert path.stat().st_size > 10_000


def test_doctor_finds_the_parts(run):
    result = run("doctor", "--json")
    rows = {row["part"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["cpu kernels"]["state"] == rows["dali"]["state"] == "ok"
    assert result.exit_code == 0
    table = run("doctor").stdout
    assert all(part in table for part in rows)


def test_an_error_is_a_sentence_and_no_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["mixpipe", "train", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    printed = capsys.readouterr().out
    assert "nowhere" in printed
    assert "Traceback" not in printed
