"""Crops follow torchvision's laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import ks_bound, ks_distance

from mixpipe.plan import CenterCrop, RandomResizedCrop

transforms = pytest.importorskip("torchvision.transforms")


def crops(crop, heights, widths, *, canvas=(224, 224), ids=None, seed=0, epoch=0):
    heights, widths = np.array(heights, np.int32), np.array(widths, np.int32)
    ids = np.arange(len(heights)) if ids is None else np.array(ids)
    return crop(heights, widths, ids, canvas=canvas, epoch=epoch, seed=seed)


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=20),
    st.integers(0, 2**32),
)
def test_crops_lie_inside_and_are_whole_pixels(sizes, seed):
    heights, widths = np.array(sizes).T
    windows, bounds, _ = crops(RandomResizedCrop(), heights, widths, seed=seed)
    assert np.array_equal(windows, np.rint(windows))
    assert np.array_equal(windows, bounds)
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, :2] < windows[:, 2:]).all()
    assert (windows[:, 2] <= heights).all()
    assert (windows[:, 3] <= widths).all()


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (28, 28, (0.5, 1.0), (3 / 4, 4 / 3)),
        (40, 200, (0.3, 0.9), (0.5, 2.0)),
    ],
)
def test_random_resized_crop_follows_torchvisions_law(height, width, scale, ratio):
    n = 3000
    windows, _, _ = crops(RandomResizedCrop(scale, ratio), [height] * n, [width] * n)
    image = torch.zeros(1, height, width)
    torch.manual_seed(0)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
    )  # top, left, height, width
    ours = np.stack(
        [windows[:, 0], windows[:, 1], windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]]
    )
    # Sums, areas and ratios too: the single numbers hide how they go together.
    for a, b in zip(
        [*ours, ours[0] + ours[1]], [*theirs.T, theirs.T[0] + theirs.T[1]], strict=True
    ):
        assert ks_distance(a, b) < ks_bound(n, n)
    assert ks_distance(ours[2] * ours[3], theirs[:, 2] * theirs[:, 3]) < ks_bound(n, n)
    assert ks_distance(ours[3] / ours[2], theirs[:, 3] / theirs[:, 2]) < ks_bound(n, n)


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 1), (3, 400), (400, 7)])
def test_images_that_refuse_all_tries_are_cropped_as_by_torchvision(height, width):
    scale = (1.0, 1.0)  # with these shapes no crop of the full area fits
    (window,), _, _ = crops(RandomResizedCrop(scale), [height], [width])
    top, left, h, w = transforms.RandomResizedCrop.get_params(
        torch.zeros(1, height, width), list(scale), [3 / 4, 4 / 3]
    )
    assert window.tolist() == [top, left, top + h, left + w]


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flips_are_as_frequent_as_asked(flip):
    _, _, flips = crops(RandomResizedCrop(flip=flip), [50] * 4000, [50] * 4000)
    assert abs(flips.mean() - flip) < 0.03


def test_a_crop_is_of_its_sample_seed_and_epoch():
    crop = RandomResizedCrop()
    all_of_them = crops(crop, [300] * 50, [400] * 50)
    some = crops(crop, [300] * 3, [400] * 3, ids=[40, 7, 12])
    for a, b in zip(all_of_them, some, strict=True):
        assert np.array_equal(a[[40, 7, 12]], b)
    for change in ({"seed": 1}, {"epoch": 1}):
        assert not np.array_equal(crops(crop, [300] * 50, [400] * 50, **change)[0], all_of_them[0])


@given(st.integers(1, 900), st.integers(1, 900), st.integers(4, 64), st.integers(0, 40))
def test_center_crop_shows_what_torchvision_shows(height, width, side, margin):
    resize = side + margin
    (window,), (bounds,), flips = crops(
        CenterCrop(resize), [height], [width], canvas=(side, side - 1)
    )
    # torchvision's own geometry, on the size alone.
    resized = transforms.functional._compute_resized_output_size((height, width), [resize])
    top = round((resized[0] - side) / 2.0)
    left = round((resized[1] - (side - 1)) / 2.0)
    expected = np.array(
        [
            top * height / resized[0],
            left * width / resized[1],
            (top + side) * height / resized[0],
            (left + side - 1) * width / resized[1],
        ]
    )
    np.testing.assert_allclose(window, expected, atol=1e-9)
    assert bounds.tolist() == [0, 0, height, width]
    assert not flips.any()


def test_center_crop_on_pixels():
    # On a ramp, a resampled pixel's value is the place that it shows: to a few hundredths of a
    # source pixel, by which the filter's sampled weights are off centre. A crop that is off by one
    # of the 64 pixels would show in 4.7.
    height, width, side = 300, 451, 56
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.float32)[None].expand(height, width)
    evaluate = transforms.Compose(
        [transforms.Resize(64, antialias=True), transforms.CenterCrop(side)]
    )
    shown = evaluate(torch.stack([rows, columns]))
    ((y0, x0, y1, x1),), _, _ = crops(CenterCrop(64), [height], [width], canvas=(side, side))
    centres = (np.arange(side) + 0.5) / side
    np.testing.assert_allclose(shown[0, :, 5], y0 + centres * (y1 - y0) - 0.5, atol=0.05)
    np.testing.assert_allclose(shown[1, 5, :], x0 + centres * (x1 - x0) - 0.5, atol=0.05)


def test_the_whole_image_can_be_shown():
    windows, bounds, flips = crops(CenterCrop(None), [30, 7], [20, 9], canvas=(8, 8))
    assert windows.tolist() == bounds.tolist() == [[0, 0, 30, 20], [0, 0, 7, 9]]
    assert not flips.any()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), "scale"),
        (lambda: RandomResizedCrop(scale=(0.5, 0.2)), "scale"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.2)), "scale"),
        (lambda: RandomResizedCrop(ratio=(2.0, 1.0)), "ratio"),
        (lambda: RandomResizedCrop(flip=1.5), "flip"),
        (lambda: crops(CenterCrop(100), [50], [50], canvas=(128, 96)), "resize: got 100"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
