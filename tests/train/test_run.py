import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mixpipe
from mixpipe.train import PolicyOptions, TrainConfig, Trainer, compare, make_policy, show
from mixpipe.train.compare import comparison_figures
from mixpipe.train.sheet import in_turn

MIX = PolicyOptions(tiers=((2, 1.5), (4, 0.7)))


@pytest.fixture
def config(folder):
    return TrainConfig(data=str(folder), size=28, epochs=3, batch_size=16, threads=1)


def trainer(config, output=None, options=MIX, **more):
    return Trainer(
        config, make_policy(options, config.epochs), output=output, progress=False, **more
    )


def test_a_run_learns_and_writes_what_it_did(config, tmp_path):
    config = replace(config, epochs=5)
    run = trainer(config, tmp_path)
    seen = []
    summary = run.fit(seen.append)
    assert summary.accuracy > 0.6  # a third by chance
    assert summary.network_inputs < summary.plain_inputs == 5 * 96
    assert summary.speedup == summary.plain_inputs / summary.network_inputs
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert (
        [json.loads(line)["epoch"] for line in lines] == [m.epoch for m in seen] == [0, 1, 2, 3, 4]
    )
    assert sum(json.loads(line)["network_inputs"] for line in lines) == summary.network_inputs
    assert summary.decoded == sum(m.decoded for m in seen) == 96  # once, into the cache
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["accuracy"] == summary.accuracy
    assert written["config"]["epochs"] == 5
    assert "MixTrain" in written["policy"]
    with Image.open(tmp_path / "composites.png") as sheet:
        assert min(sheet.size) > 300
    names = {"metrics.jsonl", "summary.json", "composites.png", "checkpoint.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path):
    whole = trainer(config, tmp_path / "whole")
    expected = whole.fit()
    stopped = trainer(config, tmp_path / "stopped")

    def stop(metrics):
        if metrics.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # before epoch 1 is saved
        stopped.fit(stop)
    path = tmp_path / "stopped" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    for group in saved["optimizer"]["param_groups"]:
        group["fused"] = None  # as on a GPU
    torch.save(saved, path)
    resumed = trainer(config, tmp_path / "stopped")
    resumed.resume(tmp_path / "stopped" / "checkpoint.pt")
    assert len(resumed.metrics) == 1
    assert resumed.saved  # and can be resumed again
    assert resumed.optimizer.param_groups[0]["fused"]  # this device's, whatever was saved
    result = resumed.fit()
    assert result.accuracy == expected.accuracy
    assert result.network_inputs == expected.network_inputs
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name]), name


def test_a_checkpoint_of_another_run_is_refused(config, tmp_path):
    trainer(replace(config, epochs=1), tmp_path).fit()
    with pytest.raises(ValueError, match=r"resume: .*epochs=1 \(now 3\)"):
        trainer(config).resume(tmp_path / "checkpoint.pt")
    other = trainer(replace(config, epochs=1), options=PolicyOptions("plain"))
    with pytest.raises(ValueError, match="other settings: policy="):
        other.resume(tmp_path / "checkpoint.pt")
    with pytest.raises(FileNotFoundError, match="resume: .*nowhere"):
        trainer(config).resume(tmp_path / "nowhere.pt")


def test_a_checkpoint_of_another_data_set_is_refused(config, folder, tmp_path):
    import shutil

    trainer(replace(config, epochs=1), tmp_path / "run").fit()
    shutil.copytree(folder, tmp_path / "other")
    next((tmp_path / "other" / "train").rglob("*.jpg")).unlink()
    other = trainer(replace(config, epochs=1, data=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="another data set"):
        other.resume(tmp_path / "run" / "checkpoint.pt")


def test_a_class_in_val_that_train_lacks_is_named(config, folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "data")
    (tmp_path / "data" / "val" / "stripes").rename(tmp_path / "data" / "val" / "zebra")
    with pytest.raises(ValueError, match="zebra"):
        trainer(replace(config, data=str(tmp_path / "data")))


@pytest.mark.parametrize(
    ("policy", "inputs", "constituents"),
    [
        ("plain", [96], [96]),
        ("mixup", [96], [192]),
        ("cutmix", [96], range(180, 193)),  # boxes may be empty
        # Of 96, dropped at random.
        ("infobatch", range(48, 96), range(48, 96)),
        ("selective", range(5, 96), range(5, 96)),
    ],
)
def test_every_policy_trains(config, policy, inputs, constituents):
    run = trainer(replace(config, epochs=2), options=PolicyOptions(policy))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.fit()
    assert run.metrics[1].network_inputs in inputs
    assert run.metrics[1].constituents in constituents
    for name, parameter in run.model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
def test_every_optimizer_trains(config, optimizer):
    run = trainer(replace(config, epochs=1, optimizer=optimizer))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.fit()
    for name, parameter in run.model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), name


def test_a_summary_before_any_evaluation_says_so(config):
    with pytest.raises(RuntimeError, match="none of 0 epochs was evaluated"):
        trainer(config).summary()


def test_batches_of_one_input_are_no_training(config):
    options = PolicyOptions(rule="random", threshold=1.0, warmup_epochs=0)
    run = trainer(replace(config, epochs=1, batch_size=2), options=options)
    with pytest.raises(ValueError, match="batch_size: got 2, but all .* are of one network input"):
        run.fit()
    run = trainer(replace(config, epochs=1, batch_size=19), options=PolicyOptions("plain"))
    assert run.fit().steps == 5  # of 96 images, the last of which is alone


def test_a_model_that_cannot_be_separated_trains_plainly(config):
    config = replace(config, epochs=1, model="squeezenet1_1", size=32)
    with pytest.raises(TypeError, match="separate_regions: SqueezeNet .*--no-separate"):
        trainer(config)
    run = trainer(config, options=PolicyOptions("plain"))
    assert run.model is run.network
    assert run.fit().steps > 0
    trainer(replace(config, separate=False)).fit()


def test_a_full_disk_is_named(config, tmp_path, monkeypatch):
    """As torch.save says it: by an error of its own on top."""

    def save(state, file):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 171776 vs 171672")

    run = trainer(replace(config, epochs=1), tmp_path)
    monkeypatch.setattr("torch.save", save)
    with pytest.raises(OSError, match=r"checkpoint\.pt: cannot be written .*No space left.*still"):
        run.fit()
    assert not run.saved


@pytest.mark.parametrize("model", ["mobilenet_small", "vit_small", "resnet18"])
def test_every_kind_of_model_trains_on_composites(config, model):
    run = trainer(replace(config, epochs=2, model=model), options=replace(MIX, warmup_epochs=0))
    run.fit()
    assert run.metrics[1].network_inputs < 96


def test_lower_precision_trains(config):
    run = trainer(replace(config, epochs=1, precision="bfloat16"))
    run.fit()
    assert run.loader.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_a_comparison_has_its_three_runs_at_the_right_cost(config, tmp_path):
    runs = compare(config, make_policy(MIX, 3), name="mixtrain", output=tmp_path, progress=False)
    plain, shortened, mixed = runs
    assert [run.name for run in runs] == ["plain", "plain-shortened", "mixtrain"]
    assert abs(shortened.network_inputs - mixed.network_inputs) <= 96 / 2  # half an epoch
    figures = {figure.name: figure.value for figure in comparison_figures(runs)}
    assert figures["speed-up in network inputs"] == plain.network_inputs / mixed.network_inputs
    waiting = "share of its seconds that the network waits for batches inside epochs"
    assert figures[waiting] == (mixed.wait_seconds - mixed.start_seconds) / mixed.seconds
    assert 0 < mixed.start_seconds < mixed.wait_seconds < mixed.seconds
    assert len(figures) == 5
    assert {path.name for path in tmp_path.iterdir()} == {run.name for run in runs}


def test_a_sheet_shows_every_number_of_constituents():
    sizes = [1, 1, 1, 2, 1, 4, 2, 4]
    assert [sizes[i] for i in in_turn(sizes)] == [4, 2, 1, 4, 2, 1, 1, 1]
    assert in_turn([2, 2, 2]) == [0, 1, 2]


def test_a_later_epoch_that_mixes_more_is_drawn(config, tmp_path):
    run = trainer(config, tmp_path)
    images = torch.zeros(3, 3, 28, 28)

    def draws(*sizes):
        (tmp_path / "composites.png").unlink(missing_ok=True)
        ids = torch.tensor([[1] * size + [-1] * (4 - size) for size in sizes])
        regions = torch.tensor([0, 0, 28, 28]).expand(3, 4, 4)
        target = mixpipe.CompositeTarget(torch.zeros_like(ids), ids.float(), ids, regions)
        run._draw(images, target)
        return (tmp_path / "composites.png").exists()

    assert draws(1, 1, 1)
    assert draws(4, 4, 4)
    assert not draws(1, 1, 1)
    assert draws(1, 2, 4)
    assert not draws(1, 1, 2)
    run.close()
    # Resumed where nothing is mixed any more.
    run = trainer(config, tmp_path)
    run.loader.set_epoch(2)
    assert not draws(1, 1, 1)
    assert draws(2, 2, 1)
    run.close()


def test_show_draws_a_sheet(config, tmp_path):
    for options in (
        PolicyOptions(),
        PolicyOptions(k=4, window="cut"),
        PolicyOptions(layout="cutmix", pairing="same-class"),
        PolicyOptions(k=3, layout="mixup"),
    ):
        show(config, options, tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert min(sheet.size) > 300
            # More than a third of it is not the page's white.
            assert (np.asarray(sheet.convert("L")) < 250).mean() > 0.33


def test_embedded_data_is_what_it_says():
    train, test = mixpipe.embedded("train"), mixpipe.embedded("test")
    assert (len(train.index), len(test.index)) == (10_000, 2_000)
    assert train.index.classes == test.index.classes
    assert len(train.index.classes) == 10
