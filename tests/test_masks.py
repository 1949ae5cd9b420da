"""Masks of composites: where an image is its own mask, both must come out the same."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import mixpipe

SIZE = (24, 32)


@mixpipe.layout
def diagonal(y, x, height, width, ratio, u0, u1):
    return y * width > x * height


POLICIES = {
    "plain": mixpipe.Plain(),
    "split": mixpipe.MixTrain(rule=mixpipe.RandomRule(1.0), warmup=0),
    "grid, cut": mixpipe.MixTrain(
        rule=mixpipe.RandomRule(1.0), warmup=0, k=4, layout=mixpipe.Grid(window="cut")
    ),
    "box": mixpipe.MixTrain(rule=mixpipe.RandomRule(1.0), warmup=0, layout=mixpipe.CutMixBox()),
    "CutMix, shared": mixpipe.CutMix(),
    "index map": mixpipe.MixTrain(rule=mixpipe.RandomRule(1.0), warmup=0, layout=diagonal),
}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def grey():
    """Images of the canvas's size, each its own mask."""
    return np.random.default_rng(0).integers(0, 200, (13, *SIZE), np.uint8)


def loader(images, policy, crop=None, **options):
    store = mixpipe.BytesStore([png(image) for image in images], labels=[0] * len(images))
    # So that pixels come out as 0 to 255.
    scale = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    crop = crop or mixpipe.RandomResizedCrop(scale=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    return mixpipe.MixLoader(
        store, batch_size=5, size=SIZE, policy=policy, crop=crop, threads=1, **scale, **options
    )


@pytest.mark.parametrize("name", POLICIES)
def test_labels_move_with_their_pixels(grey, name):
    flipped = 0
    for images, target in loader(grey, POLICIES[name]):
        masks = mixpipe.compose_masks(lambda i: grey[i], target, size=SIZE)
        assert masks.dtype == torch.int64
        assert torch.equal(masks, images[:, 0].round().long())
        flipped += int(target.flips[target.ids >= 0].sum())
    assert flipped > 0


def test_a_small_region_shows_every_second_label():
    blocks = np.random.default_rng(1).integers(0, 200, (8, SIZE[0] // 2, SIZE[1] // 2), np.uint8)
    images = blocks.repeat(2, 1).repeat(2, 2)
    policy = mixpipe.MixTrain(
        rule=mixpipe.RandomRule(1.0), warmup=0, k=4, layout=mixpipe.Grid(window="fit")
    )
    crop = mixpipe.CenterCrop(resize=None)
    ((_, target), *_) = loader(images, policy, crop)
    masks = mixpipe.compose_masks(lambda i: torch.from_numpy(images[i]), target, size=SIZE)
    for k, (y0, x0, y1, x1) in enumerate(target.regions[0].tolist()):
        if (y1 - y0, x1 - x0) == blocks.shape[1:]:
            assert np.array_equal(masks[0, y0:y1, x0:x1], blocks[target.ids[0, k]])
    assert torch.equal(target.windows[0, 0], torch.tensor([0.0, 0.0, *SIZE]))


def test_what_shows_no_sample_is_filled(grey):
    ((_, target), *_) = loader(grey, mixpipe.Plain())
    absent = target._replace(ids=torch.full_like(target.ids, -1))
    masks = mixpipe.compose_masks(lambda i: grey[i], absent, size=SIZE, fill=77)
    assert (masks == 77).all()


def test_masks_that_cannot_be_right_are_named(grey):
    ((_, target), *_) = loader(grey, mixpipe.Plain())
    sample = int(target.ids[0, 0])
    with pytest.raises(ValueError, match=rf"masks\({sample}\): got float64 .* expected integers"):
        mixpipe.compose_masks(lambda i: grey[i] / 2, target, size=SIZE)
    with pytest.raises(ValueError, match=rf"masks\({sample}\): got 10 x 10 pixels"):
        mixpipe.compose_masks(lambda i: grey[i, :10, :10], target, size=SIZE)
    with pytest.raises(ValueError, match=r"size: got 8 x 8, but the target's regions reach to"):
        mixpipe.compose_masks(lambda i: grey[i], target, size=(8, 8))
    with pytest.raises(ValueError, match="windows and flips are None"):
        mixpipe.compose_masks(lambda i: grey[i], target._replace(windows=None), size=SIZE)
    ((_, blend), *_) = loader(grey, mixpipe.MixUp())
    with pytest.raises(ValueError, match="composite 0 is a blend"):
        mixpipe.compose_masks(lambda i: grey[i], blend, size=SIZE)


def test_labels_of_ones_own_may_be_several_a_sample(grey):
    labels = torch.rand(len(grey), 3).round()
    run = loader(grey, mixpipe.MixTrain(rule=mixpipe.RandomRule(0.7), warmup=0), labels=labels)
    loss_fn = mixpipe.CompositeLoss(run.table)
    for _, target in run:
        present = target.ids >= 0
        assert torch.equal(target.classes[present], labels[target.ids[present]])
        assert not target.classes[~present].any()
        logits = torch.randn(*target.ids.shape, 3)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target.classes, reduction="none"
        ).mean(-1)
        expected = (entropy * target.weights).sum() / len(logits)
        torch.testing.assert_close(loss_fn(logits, target), expected)
        torch.testing.assert_close(run.table.losses[target.ids[present]], entropy[present])
        with pytest.raises(TypeError, match="multi-label"):
            target.dense(3)
    with pytest.raises(ValueError, match=r"labels: got torch.float64 \[13, 3\], expected int64"):
        loader(grey, mixpipe.Plain(), labels=labels.double())
