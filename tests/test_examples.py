"""The examples run: on a few images, for what they return and not for what is learnt."""

import importlib.util
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


def test_segmentation_trains_on_composites_with_their_masks(few):
    example = load("segmentation")
    masks = example.Masks(mixpipe.embedded("train"))
    assert set(masks(47).flatten().tolist()) == {0, int(masks.store.index.labels[47]) + 1}
    rule = mixpipe.QuantileRule(1.0)
    model, inputs = example.train(mixpipe.MixTrain(rule=rule, epochs=2), epochs=2, threads=1)
    assert inputs == 48 + 24
    assert 0.0 <= example.mean_iou(model, threads=1) <= 1.0
