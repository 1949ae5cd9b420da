"""Layouts: regions tile the canvas, keep to the shares, and follow the published laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import ks_bound, ks_distance

from mixpipe.plan import MAX_CONSTITUENTS, Blend, CutMixBox, Grid, Split, Strips, Whole
from mixpipe.plan.layouts import layout_from_state, symmetric_beta

TILING = [
    (Whole(), 1),
    (Split(), 2),
    (Split(spread=0.5), 2),
    (Strips(), 2),
    (Strips("fit"), 3),
    (Strips(), 4),
    (Grid(), 3),
    (Grid("cut"), 4),
]
sides = st.integers(MAX_CONSTITUENTS, 40)


@st.composite
def placed(draw, cases):
    layout, k = draw(st.sampled_from(cases))
    canvas = (draw(sides), draw(sides))
    n = draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    # From equal to as uneven as can be.
    shares = random.random((n, k)) ** draw(st.sampled_from([0.0, 1.0, 30.0])) + 1e-9
    shares /= shares.sum(axis=1, keepdims=True)
    draws = random.random((layout.draws, n))
    return layout, shares, canvas, layout.place(shares, draws, canvas)


def painted(regions, canvas):
    """How often each pixel is covered, and by whom at last."""
    times, top = np.zeros(canvas, int), np.full(canvas, -1)
    for i, (y0, x0, y1, x1) in enumerate(regions):
        times[y0:y1, x0:x1] += 1
        top[y0:y1, x0:x1] = i
    return times, top


@given(placed(TILING))
def test_regions_tile_the_canvas(case):
    _, shares, canvas, (regions, weights, _) = case
    for row, weight in zip(regions, weights, strict=True):
        times, top = painted(row, canvas)
        assert (times == 1).all()
        visible = np.bincount(top.reshape(-1), minlength=shares.shape[1]) / top.size
        assert (visible > 0).all()
        np.testing.assert_allclose(weight, visible, rtol=1e-12)


@given(placed([(CutMixBox(), 2), (CutMixBox(alpha=0.5), 2)]))
def test_weights_are_what_is_seen_beside_and_under_a_box(case):
    layout, _, canvas, (regions, weights, _) = case
    for row, weight in zip(regions, weights, strict=True):
        assert row[0].tolist() == [0, 0, *canvas]
        assert (row[1] >= 0).all()
        assert (row[1, :2] <= row[1, 2:]).all()
        assert (row[1, 2:] <= canvas).all()
        _, top = painted(row, canvas)
        np.testing.assert_allclose(weight, np.bincount(top.reshape(-1), minlength=2) / top.size)
        if layout.alpha is None:
            assert (weight > 0).all()


@given(placed([(Split(), 2), (Strips(), 3), (Strips(), 4), (Grid(), 3), (Grid(), 4)]))
def test_regions_keep_to_the_shares(case):
    _, shares, canvas, (_, weights, _) = case
    # An edge is off by at most half a pixel, or by what one pixel for everybody else takes; a
    # region has two edges, and in a grid one along each axis.
    pixel = 1 / min(canvas)
    assert (np.abs(weights - shares) <= MAX_CONSTITUENTS * pixel).all()
    fine = (shares > 1.5 * pixel).all(axis=1)
    assert (np.abs(weights - shares)[fine] <= 2 * pixel).all()


@given(placed([(CutMixBox(), 2)]))
def test_a_box_keeps_to_its_share(case):
    _, shares, canvas, (_, weights, _) = case
    assert (np.abs(weights - shares) <= 2.5 / min(canvas)).all()


def test_equal_quarters_keep_the_aspect_ratio():
    regions, _, _ = Grid().place(
        np.full((8, 4), 0.25), np.random.default_rng(0).random((3, 8)), (64, 96)
    )
    assert (regions[..., 2] - regions[..., 0] == 32).all()
    assert (regions[..., 3] - regions[..., 1] == 48).all()


@pytest.mark.parametrize(("layout", "k"), [(Split(), 2), (Strips(), 3), (Grid(), 3), (Grid(), 4)])
def test_every_constituent_may_be_anywhere(layout, k):
    draws = np.random.default_rng(1).random((layout.draws, 400))
    regions, _, _ = layout.place(np.full((400, k), 1 / k), draws, (60, 60))
    heights = regions[..., 2] - regions[..., 0]
    widths = regions[..., 3] - regions[..., 1]
    if k < 4:  # upright and lying
        assert 0.35 < (heights[:, 0] > widths[:, 0]).mean() < 0.65
    first_is_first = (regions[:, 0, 0] == 0) & (regions[:, 0, 1] == 0)
    assert 0.15 < first_is_first.mean() < 0.65


def test_spread_moves_the_cut():
    draws = np.random.default_rng(1).random((3, 4000))
    _, weights, _ = Split(spread=0.25).place(np.full((4000, 2), 0.5), draws, (200, 200))
    even = 0.25 + 0.5 * (np.arange(4000) + 0.5) / 4000
    assert ks_distance(weights[:, 0], even) < 0.03
    assert weights.min() >= 0.25


def test_a_blend_has_no_regions():
    regions, weights, _ = Blend().place(np.array([[0.2, 0.5, 0.3]]), np.zeros((3, 1)), (8, 8))
    assert not regions.any()
    assert weights.tolist() == [[0.2, 0.5, 0.3]]


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 3.0, 20.0])
def test_the_beta_law(alpha):
    n = 20_000
    ours = symmetric_beta(alpha, np.random.default_rng(2).random((3, n)))
    torch.manual_seed(0)
    theirs = torch.distributions.Beta(alpha, alpha).sample((n,)).numpy()
    # Rounded: small alphas crowd both ends, where torch's float32 numbers are clamped.
    assert ks_distance(np.round(ours, 4), np.round(theirs.astype(float), 4)) < ks_bound(n, n)


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_boxes_and_weights_follow_torchvisions_cutmix(alpha):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    canvas, n = (24, 36), 3000
    reference = v2.CutMix(alpha=alpha, num_classes=2)
    torch.manual_seed(0)
    theirs = [reference.make_params([torch.zeros(1, 3, *canvas)]) for _ in range(n)]
    layout = CutMixBox(alpha=alpha)
    draws = np.random.default_rng(3).random((layout.draws, n))
    regions, weights, _ = layout.place(np.full((n, 2), 0.5), draws, canvas)
    lam = np.array([params["lam_adjusted"] for params in theirs])
    assert ks_distance(weights[:, 0], lam) < ks_bound(n, n)
    boxes = np.array([params["box"] for params in theirs])  # x0, y0, x1, y1
    for ours, their in zip((1, 0, 3, 2), boxes.T, strict=True):
        assert ks_distance(regions[:, 1, ours], their) < ks_bound(n, n)


@pytest.mark.parametrize("layout", [Whole(), Split("fit", 0.1), Strips(), Grid("cut"), Blend(0.2)])
def test_a_layout_survives_a_checkpoint(layout):
    assert layout_from_state(layout.state()) == layout


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Split(window="crop"), "window: got 'crop'"),
        (lambda: Grid(window="x"), "window"),
        (lambda: CutMixBox(window=None), "window"),
        (lambda: Split(spread=0.6), "spread: got 0.6"),
        (lambda: CutMixBox(alpha=0.0), "alpha: got 0.0"),
        (lambda: Blend(alpha=-1), "alpha"),
        (lambda: layout_from_state({"layout": "Spiral"}), "Spiral"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
