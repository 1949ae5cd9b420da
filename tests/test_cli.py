import json
import re
import shutil
from dataclasses import fields

import pytest
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

import mixpipe
from mixpipe import cli
from mixpipe.train import PolicyOptions, TrainConfig, Trainer, make_policy


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
        "accuracy", "network_inputs", "steps", "seconds", "images_per_second", "inputs_per_second"
    }  # fmt: skip
    assert all(wanted <= set(row) for row in content["rows"])
    assert [figure["name"] for figure in content["figures"]] == [
        "speed-up in network inputs",
        "speed-up in seconds",
        "accuracy minus plain, points",
        "accuracy minus plain-shortened, points",
        "share of its seconds that the network waits for batches inside epochs",
    ]
    for name in ("plain", "plain-shortened", "mixtrain"):
        assert name in result.stdout


def test_it_says_its_version(run):
    assert run("--version").stdout == f"mixpipe {mixpipe.__version__}\n"


def test_a_results_file_that_cannot_be_written_is_named_before_the_work(
    run, folder, tmp_path, monkeypatch
):
    def work(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(cli, "Trainer", work)
    monkeypatch.setattr(cli, "profile", work)
    monkeypatch.setattr("mixpipe.bench.plan.run_plans", work)
    (tmp_path / "file").touch()
    for command in (("train", folder, *SMALL), ("profile", folder), ("bench", "plan")):
        for path in (tmp_path / "file" / "out.json", tmp_path):
            result = run(*command, "--json", path)
            assert result.exit_code == 2
            assert "--json" in Text.from_ansi(result.output).plain
        with pytest.raises(AssertionError, match="begun"):
            run(*command, "--json", tmp_path / "new" / "out.json")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("mixpipe.bench.cli.os.access", lambda path, mode: False)
    assert run("bench", "plan", "--json", tmp_path / "out.json").exit_code == 2


def test_profile_needs_no_validation_images(run, folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    shown = run("profile", tmp_path, "--size", 16, "--batch-size", 8, "--batches", 2)
    assert shown.exit_code == 0, shown.output


def test_train_tells_of_an_earlier_runs_checkpoint(run, folder, tmp_path, caplog):
    run("train", folder, *SMALL, "--output", tmp_path)
    assert not caplog.records
    run("train", folder, *SMALL, "--output", tmp_path)
    assert "is of an earlier run" in caplog.text


def test_train_resumes(run, folder, tmp_path):
    # The very run that the command line describes, stopped after its first epoch.
    config = TrainConfig(data=str(folder), size=28, epochs=2, batch_size=16, threads=1)
    trainer = Trainer(
        config, make_policy(PolicyOptions(), 2), output=tmp_path, name="mixtrain", progress=False
    )
    trainer.metrics.append(trainer._train_epoch())
    trainer.save()
    trainer.close()
    checkpoint = tmp_path / "checkpoint.pt"
    result = run("train", folder, *SMALL, "--output", tmp_path, "--resume", checkpoint)
    assert result.exit_code == 0
    assert "epoch 2" in result.stdout
    assert "epoch 1:" not in result.stdout
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk.pt is no checkpoint.pt of a training run"):
        run("train", folder, *SMALL, "--output", tmp_path, "--resume", junk)


def test_tiers_are_read_from_text(run, folder, tmp_path):
    arguments = ("train", folder, *SMALL, "--output", tmp_path, "--tiers", "2:1.0,4:0.5")
    assert run(*arguments).exit_code == 0
    assert "Tier(k=4" in json.loads((tmp_path / "summary.json").read_text())["policy"]
    with pytest.raises(ValueError, match=r"--tiers: expected k:threshold.*got 'two'"):
        run("train", folder, "--tiers", "two")


def test_every_setting_is_an_option():
    options = {parameter.name for parameter in get_command(cli.app).commands["train"].params}
    settings = {field.name for kind in (TrainConfig, PolicyOptions) for field in fields(kind)}
    assert settings - options == {"name"}  # --policy


class ReachedError(Exception):
    pass


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--val-split", "test"], "val_split='test'"),
        (["--warmup", 0.2], "warmup=0.2"),
        (["--layout", "strips", "--k", 4], "layout=Strips("),
        (["--window", "fit"], "layout=Split(window='fit'"),
        (["--spread", 0.2], "layout=Split(window='cut', spread=0.2)"),
        (["--rule", "hysteresis", "--leave", 1.5], "leave=1.5"),
        (["--adaptive", "--exponent", 2], "Adaptive(exponent=2.0"),
        (["--adaptive", "--min-share", 0.2], "min_share=0.2"),
        (["--drop", 0.4, "--easiest", 0.6], "Drop(rate=0.4, easiest=0.6)"),
        (["--pairing", "different-class"], "pairing=ByClass(same=False)"),
    ],
)
def test_options_reach_the_run(run, folder, monkeypatch, arguments, text):
    def trainer(config, policy, **more):
        raise ReachedError(f"{config} {policy}")

    monkeypatch.setattr(cli, "Trainer", trainer)
    with pytest.raises(ReachedError, match=re.escape(text)):
        run("train", folder, *arguments)


def test_show_draws(run, folder, tmp_path):
    path = tmp_path / "sheet.png"
    assert run("show", folder, "--size", 28, "--output", path).exit_code == 0
    assert path.stat().st_size > 10_000
    usual = path.read_bytes()
    more = ["--window", "fit", "--spread", 0.3, "--pairing", "same-class"]
    assert run("show", folder, "--size", 28, *more, "--output", path).exit_code == 0
    assert path.read_bytes() != usual


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
    printed = capsys.readouterr().err
    assert "nowhere" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "plain", "--k", "3"], "k: the policy 'plain' takes none of these settings"),
        (["--policy", "infobatch", "--adaptive"], "adaptive: the policy 'infobatch' takes only"),
        (["--min-share", "0.2"], "min_share: got 0.2, expected it only with adaptive"),
        (["--tiers", "2:1.0", "--k", "3"], "tiers: given beside k or threshold"),
        (["--policy", "plain", "--compare"], "policy: expected one that mixes or prunes"),
        (["--batch-size", "3", "--k", "4"], "batch_size: got 3 constituents, expected at least 4"),
        (["--lr", "0"], "lr: expected more than 0, got 0"),
        (["--device", "abacus"], "device: expected cpu, cuda or cuda:N, got 'abacus'"),
        (["--model", "alexnet"], "AlexNet has none of the known forms"),
        (["--lr", "1e30"], r"the loss is (nan|inf); try a lower lr"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(
    folder, tmp_path, monkeypatch, capsys, arguments, message
):
    command = ["mixpipe", "train", str(folder), *map(str, SMALL), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*command, *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert re.search(message, capsys.readouterr().err)


def test_messages_keep_their_brackets(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["mixpipe", "train", str(tmp_path / "[/data]")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "[/data]" in capsys.readouterr().err


def test_help_shows_all_that_it_says(run):
    """In brackets it would be taken for markup, and left out."""
    command = get_command(cli.app)
    commands = [command, *command.commands.values(), *command.commands["bench"].commands.values()]
    texts = [parameter.help or "" for each in commands for parameter in each.params]
    assert len(texts) > 50
    assert [text for text in texts if text != str(Text.from_markup(text))] == []
