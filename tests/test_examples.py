"""The examples run: on a few images, for what they return and not for what is learnt."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import mixpipe

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def few(monkeypatch):
    """48 of the embedded images of each split instead of all."""

    def some(split):
        store = opened(split)
        ids = list(range(0, len(store.index), len(store.index) // 48))[:48]
        images = [image.tobytes() for image in store.encoded(ids)]
        return mixpipe.BytesStore(images, store.index.labels[ids], store.index.classes)

    opened = mixpipe.embedded
    monkeypatch.setattr(mixpipe, "embedded", some)


HALF = mixpipe.MixTrain(rule=mixpipe.QuantileRule(1.0), epochs=2)  # from the second epoch on


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """Examples import from their folder, which is in the path of a script in it."""
    monkeypatch.syspath_prepend(EXAMPLES)


def test_segmentation_trains_on_composites_with_their_masks(few):
    example = load("segmentation")
    masks = example.Masks(mixpipe.embedded("train"))
    assert set(masks(47).flatten().tolist()) == {0, int(masks.store.index.labels[47]) + 1}
    iou, inputs = example.run(example.Setting(HALF, epochs=2, seed=0, threads=1))
    assert inputs == 48 + 24
    assert 0.0 <= iou <= 100.0


def test_multi_label_trains_on_composites(few):
    example = load("multi_label")
    store = mixpipe.embedded("train")
    known = set(store.index.classes)
    assert all(known.issuperset(having) for having in example.ATTRIBUTES.values())
    labels = example.labels_of(store)
    names = [store.index.classes[label] for label in store.index.labels]
    assert labels[:, 0].bool().tolist() == [
        name in ("ankle-boot", "sandal", "sneaker") for name in names
    ]
    right, inputs = example.run(example.Setting(HALF, epochs=2, seed=0, threads=1))
    assert inputs == 48 + 24
    assert 0.0 <= right <= 100.0


def test_ways_are_compared_over_seeds(monkeypatch, tmp_path, capsys):
    example = load("side_by_side")
    settings = []

    def run(setting):
        settings.append(setting)
        return float(setting.seed + setting.epochs), 100 * setting.epochs

    path = tmp_path / "example.json"
    words = ["x", "--epochs", "8", "--speedup", "2", "--seeds", "2", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    example.compare("An example.", run, "score")
    assert [(s.epochs, s.seed) for s in settings] == [
        (8, 0),
        (8, 1),
        (4, 0),
        (4, 1),
        (8, 0),
        (8, 1),
    ]
    assert isinstance(settings[-1].policy, mixpipe.MixTrain)
    result = json.loads(path.read_text())
    assert [row["score"] for row in result["rows"]] == [8.5, 4.5, 8.5]
    assert [figure["value"] for figure in result["figures"]] == [0.0, 4.0]
    assert "plain, shortened: score 4.50, 400 network inputs" in capsys.readouterr().out
