import gzip
import json
import shutil
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mixpipe import Drop, MixTrain, cli
from mixpipe.bench import method, outcome, plots, presets
from mixpipe.bench.fashion import CLASSES, build_tar
from mixpipe.report import write_report
from mixpipe.train import PolicyOptions, TrainConfig, Trainer, make_policy

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def preset(folder):
    config = TrainConfig(data=str(folder), size=28, epochs=4, batch_size=16, threads=1)
    rows = (
        presets.PLAIN,
        presets.Row("plain-shortened 1.6", PolicyOptions("plain"), 1.6),
        presets.Row("MixTrain 1.6", PolicyOptions(speedup=1.3)),
    )
    return presets.Preset("shapes", config, rows=rows, seeds=2)


def test_runs_are_kept_and_not_run_again(preset, tmp_path):
    first = method.run_preset(preset, tmp_path, seeds=1, progress=False)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(path.suffix for path in files) == [".json"] * 3 + [".pt"] * 3
    both = method.run_preset(preset, tmp_path, progress=False)
    assert both[:3] == first
    assert len(both) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    # Nor where only a results file is left of them.
    write_report(tmp_path / "report.json", outcome.summarise(first), [])
    known = method.known_runs(tmp_path / "report.json")
    again = method.run_preset(preset, tmp_path / "new", seeds=1, known=known, progress=False)
    assert again == first
    assert not (tmp_path / "new").exists()
    assert method.known_runs(tmp_path / "none.json") == []
    # What is not asked for is not lost, in the order of the preset; where it would be, it is said.
    more = {"folder": tmp_path / "new", "known": known, "progress": False}
    last = preset.rows[2].name
    one_more = method.run_preset(preset, only=[last], seeds=2, **more)
    assert one_more[:3] == first
    assert [(run["row"], run["seed"]) for run in one_more[3:]] == [(last, 1)]
    other = replace(preset, config=replace(preset.config, epochs=5))
    with pytest.raises(ValueError, match="known: 3 runs .*first: plain, seed 0.* would be lost"):
        method.run_preset(other, only=[last], seeds=1, **more)
    with pytest.raises(ValueError, match="known: 3 runs"):
        method.run_preset(preset, seeds=1, finished=True, val_split="train", **more)
    # A table may be of what is done so far.
    done = method.run_preset(preset, tmp_path, finished=True, progress=False)
    assert done == both
    # Other settings are other runs.
    changed = replace(preset, config=replace(preset.config, epochs=3))
    assert (
        method.run_preset(changed, tmp_path, only=["plain"], seeds=1, progress=False) != first[:1]
    )
    with pytest.raises(ValueError, match="only: no row \\['fast'\\]; expected some of 'plain', "):
        method.run_preset(preset, tmp_path, only=["fast"])


def test_runs_side_by_side_or_in_turns_are_the_same_runs(preset, tmp_path):
    preset = replace(preset, config=replace(preset.config, epochs=2), seeds=1)
    rows = (*preset.rows[:2], presets.Row("MixTrain 1.3", PolicyOptions(speedup=1.3, final=0.0)))
    preset = replace(preset, rows=rows)
    alone = method.run_preset(preset, tmp_path / "alone", progress=False)
    together = method.run_preset(preset, tmp_path / "together", jobs=2, progress=False)

    def learnt(run):
        return run["row"], run["seed"], run["key"], run["accuracy"], run["network_inputs"]

    assert list(map(learnt, together)) == list(map(learnt, alone))
    assert [run["side_by_side"] for run in together] == [2] * 3
    preset = replace(preset, seeds=2)
    folder = tmp_path / "turns"
    method.run_preset(preset, folder, in_turns=True, only=["plain"], seeds=1, progress=False)
    in_turns = method.run_preset(preset, folder, in_turns=True, progress=False)
    assert list(map(learnt, in_turns[:3])) == list(map(learnt, alone))
    assert [run["seed"] for run in in_turns] == [0] * 3 + [1] * 3
    assert all(run["in_turns"] for run in in_turns)
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        method.run_preset(preset, tmp_path, jobs=0, progress=False)
    with pytest.raises(ValueError, match="in_turns: expected jobs of 1, got 2"):
        method.run_preset(preset, tmp_path, jobs=2, in_turns=True, progress=False)
    broken = replace(preset, rows=(presets.Row("MixTrain 9", PolicyOptions(speedup=9.0)), *rows))
    with pytest.raises(ValueError, match="speedup: got 9, but the largest attainable"):
        method.run_preset(broken, tmp_path / "broken", jobs=2, progress=False)


def test_seconds_are_compared_of_runs_that_were_made_alike():
    def run(seed, seconds, inputs, beside, cpu="this one", **more):
        counts = {"seed": seed, "seconds": seconds, "network_inputs": inputs}
        meta = {"hardware": {"cpu": cpu, "cores": 2, "gpu": None}}
        return {**counts, "side_by_side": beside, "meta": meta, **more}

    plain = [run(0, 100, 400, 1), run(1, 900, 400, 2), {**run(2, 1, 400, 1), "side_by_side": None}]
    mixed = [run(0, 50, 160, 1), run(1, 450, 160, 2), run(2, 1, 160, 1), run(3, 1, 160, 1)]
    assert outcome._shares_kept(plain, mixed, "seconds", alone=True) == [2 / 2.5]
    assert outcome._shares_kept(plain, mixed, "seconds", alone=False) == [2 / 2.5, 2 / 2.5]
    del plain[2]["side_by_side"], mixed[2]["side_by_side"]  # as in old results
    assert len(outcome._shares_kept(plain, mixed, "seconds", alone=False)) == 2
    mixed[0] = run(0, 50, 160, 1, cached=True)  # old results were not
    assert outcome._shares_kept(plain, mixed, "seconds", alone=True) == []
    plain[0] = run(0, 100, 400, 1, cached=True, in_turns=True)
    assert outcome._shares_kept(plain, mixed, "seconds", alone=True) == []
    plain[0] = run(0, 100, 400, 1, cached=True)
    assert outcome._shares_kept(plain, mixed, "seconds", alone=True) == [2 / 2.5]
    plain[0] = run(0, 100, 400, 1, cpu="another", cached=True)
    assert outcome._shares_kept(plain, mixed, "seconds", alone=True) == []


def test_the_same_run_is_judged_on_another_split(preset, tmp_path, folder):
    config = replace(preset.config, epochs=1)  # far from right, so that splits differ
    preset = replace(preset, config=config)

    def run(**more):
        return method.run_preset(preset, tmp_path, only=["plain"], seeds=1, progress=False, **more)[
            0
        ]

    on_val, on_train = run(), run(val_split="train")
    evaluations = on_train["evaluations"]
    assert evaluations.keys() == {"None", "train"}
    assert on_val["evaluations"] == {"None": evaluations["None"]}
    assert [on_val["accuracy"], on_train["accuracy"]] == [
        evaluation["accuracy"] for evaluation in evaluations.values()
    ]
    # As many images of each class.
    by_class = evaluations["train"]["by_class"]
    (row,) = outcome.summarise([on_train])
    assert row["by_class"] == {name: 100 * right for name, right in by_class.items()}
    assert np.mean(list(by_class.values())) == pytest.approx(on_train["accuracy"])
    assert on_train["accuracy"] != on_val["accuracy"]
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / folder.name)
    assert run(data=str(moved))["accuracy"] == on_val["accuracy"]
    assert len(list(tmp_path.glob("*.pt"))) == 1
    trainer = Trainer(
        replace(config, val_split="train"), make_policy(PolicyOptions("plain"), 1), progress=False
    )
    assert trainer.fit().accuracy == on_train["accuracy"]
    trainer.close()


def test_rows_and_figures_say_what_the_runs_were(preset, tmp_path):
    runs = method.run_preset(preset, tmp_path, progress=False)
    rows = {row["name"]: row for row in outcome.summarise(runs)}
    plain, shortened, mixed = rows.values()
    assert plain["saved"] == 1.0
    assert shortened["saved"] == 4 / 2
    assert 1.2 < mixed["saved"] < 1.4
    accuracies = [100 * run["accuracy"] for run in runs if run["row"] == "plain"]
    assert plain["accuracy"] == pytest.approx(np.mean(accuracies))
    assert plain["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    figures = {figure.name: figure for figure in outcome.method_figures(list(rows.values()))}
    gap = figures["MixTrain 1.6 minus plain, points of accuracy"]
    assert gap.value == pytest.approx(mixed["accuracy"] - plain["accuracy"])
    assert gap.goal == ">= -0.15"
    assert any("speed-up in seconds" in name for name in figures)


@pytest.mark.parametrize("row", presets.MIXTRAIN, ids=lambda row: row.name)
def test_the_rows_called_mixtrain_are_what_its_defaults_do(row):
    drop = Drop(row.options.drop) if row.options.drop else None
    default = MixTrain(speedup=row.options.speedup, epochs=30, drop=drop)
    assert repr(make_policy(row.options, 30)) == repr(default)


def test_a_tapered_row_has_the_goals_of_the_row_without_a_taper():
    rows = [
        {"name": name, "accuracy": 92.0, "deviation": 0.1, "runs": []}
        for name in ("plain", "MixTrain 1.8, tapered")
    ]
    (figure,) = outcome.method_figures(rows)
    assert figure.name == "MixTrain 1.8, tapered minus plain, points of accuracy"
    assert figure.goal == ">= -0.3"


def test_a_lead_over_a_shortened_run_must_exceed_what_seeds_do():
    def goal(deviation):
        rows = [
            {"name": name, "accuracy": accuracy, "deviation": deviation, "runs": []}
            for name, accuracy in (("MixTrain 1.8", 92.0), ("plain-shortened 1.8", 91.0))
        ]
        (figure,) = outcome.method_figures(rows)
        assert figure.value == 1.0
        return figure.goal

    assert goal(0.25) == ">= 0.25"
    assert goal(None) is None  # of one seed nobody knows


def test_plain_training_mixtrain_and_rivals_look_different():
    rows = {row.name: row for row in presets.PRESETS["fashion"].rows}
    styles = {
        name: plots._style({"runs": [{"options": asdict(row.options)}]})
        for name, row in rows.items()
    }
    own = {name for name in rows if name.startswith("MixTrain")}
    plain = {name for name in rows if name.startswith("plain")}
    kinds = [
        {name for name in rows if styles[name] == styles[one]}
        for one in ("plain", "MixTrain 1.8", "InfoBatch 1.8")
    ]
    assert kinds == [plain, own, set(rows) - own - plain]


def test_decoded_images_are_a_mean_where_all_runs_know_them(preset, tmp_path):
    runs = method.run_preset(preset, tmp_path, only=["plain"], progress=False)
    decoded = [run["decoded"] for run in runs]
    assert min(decoded) > 0
    assert outcome.summarise(runs)[0]["decoded"] == np.mean(decoded)
    del runs[0]["decoded"]  # as of an old run
    assert outcome.summarise(runs)[0]["decoded"] is None


def test_what_would_overlap_is_drawn_side_by_side():
    places = [0.5, 0.5, 0.5, 0.5, 1.0]
    drawn = plots._apart(places, [90.0, 90.1, 89.9, 85.0, 90.0], [0.3, 0.2, 0.0, 0.1, 0.3])
    assert [drawn[0], *drawn[3:]] == [0.5, 0.5, 1.0]
    assert min(abs(drawn[i] - drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.01
    assert max(abs(x - 0.5) for x in drawn[:3]) < 0.05
    assert plots._apart([1.0], [90.0], [0.0]) == [1.0]


def test_the_command_writes_report_and_plot(preset, tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "shapes", preset)
    report = tmp_path / "method-shapes.json"
    arguments = [
        "bench",
        "method",
        "--preset",
        "shapes",
        "--seeds",
        "1",
        "--runs",
        tmp_path / "runs",
    ]
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json", str(report)])
    assert result.exit_code == 0, result.output
    assert json.loads(report.read_text())["rows"][0]["name"] == "plain"
    with Image.open(report.with_suffix(".png")) as plot:
        assert plot.size[0] > 500
    assert "saved" in result.output
    # A file of something else is left as it is.
    report.write_text('{"rows": [{"policy": "plain"}]}')
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json", str(report)])
    assert isinstance(result.exception, ValueError)
    assert "method-shapes.json: expected the results of an earlier" in str(result.exception)
    assert report.read_text() == '{"rows": [{"policy": "plain"}]}'
    arguments[-1] = tmp_path / "none"
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--finished"])
    assert "no run of preset 'shapes' is done in" in str(result.exception)


def test_no_results_file_has_runs_that_its_preset_does_not_know():
    """Otherwise it cannot be gone on with; of the seconds, those of the short comparison."""
    for file in RESULTS.glob("method-*.json"):
        name = file.stem.removeprefix("method-")
        preset = presets.PRESETS["fashion-short" if "seconds" in name else name]
        known = method.known_runs(file)
        config = replace(preset.config, data=known[0]["config"]["data"])
        names = method._names(preset, config, {run["seed"] for run in known})
        method._refuse_to_lose(known, names)
        assert all(preset.config.val_split in run["evaluations"] for run in known), file


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_can_be_made(name):
    preset = presets.PRESETS[name]
    for row in preset.rows:
        assert make_policy(row.options, preset.config.epochs, lambda: np.arange(10))
    assert preset.rows[0] == presets.PLAIN


def write_idx(folder, prefix, images, labels):
    for kind, array, magic in (("images-idx3", images, 2051), ("labels-idx1", labels, 2049)):
        head = np.array([magic, *array.shape], dtype=">i4").tobytes()
        path = folder / f"{prefix}-{kind}-ubyte.gz"
        path.write_bytes(gzip.compress(head + array.tobytes()))


def test_original_files_become_a_tar_of_images(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    labels = (np.arange(40) % 10).astype(np.uint8)
    write_idx(tmp_path, "train", images, labels)
    splits = {"train": ("train", slice(0, 3)), "val": ("train", slice(3, 4))}
    (tmp_path / "out.tar").write_bytes(build_tar(tmp_path, splits))
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = tar.getnames()
        assert len([name for name in names if name.startswith("train/")]) == 30
        assert len([name for name in names if name.startswith("val/")]) == 10
        place = 17
        member = tar.extractfile(f"train/{CLASSES[7]}/{place:05d}.png")
        assert np.array_equal(np.asarray(Image.open(member)), images[place])
    with pytest.raises(FileNotFoundError, match="t10k-images.*expected Fashion-MNIST's original"):
        build_tar(tmp_path, {"test": ("t10k", slice(None))})
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0" * 64))
    with pytest.raises(ValueError, match="expected an IDX file with magic number 2051, got 0"):
        build_tar(tmp_path, {"test": ("t10k", slice(None))})


def test_turns_go_to_whoever_has_done_least():
    order = []

    def one(row, config, *, progress):
        for i in range(config.epochs):
            order.append(row)
            yield (i + 1) / config.epochs
        return row

    work = [("long", TrainConfig(epochs=4)), ("short", TrainConfig(epochs=2))]
    bar = SimpleNamespace(set_description=lambda text: None)
    assert list(method._in_turns(one, work, bar)) == ["long", "short"]
    assert order == ["long", "short", "long", "long", "short", "long"]
