import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixpipe.nn import RegionPool
from mixpipe.nn.region_pool import cell_shares, mapped_cell_shares


@st.composite
def rectangles(draw, height, width):
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    y1, x1 = draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))
    return [y0, x0, y1, x1]


@st.composite
def pooled_cases(draw):
    """Regions on a canvas of whole pixels a cell, so that a mean over pixels is the oracle."""
    grid = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    cell = draw(st.integers(1, 6))
    canvas = (grid[0] * cell, grid[1] * cell)
    count = draw(st.integers(2, 4))
    return grid, cell, canvas, [draw(rectangles(*canvas)) for _ in range(count)]


@settings(deadline=None, max_examples=100)
@given(pooled_cases())
def test_equals_the_mean_over_the_pixels_that_a_region_shows(case):
    grid, cell, canvas, regions = case
    maps = torch.randn(1, 3, *grid, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels = maps.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[0]
    shown_by = torch.full(canvas, -1)
    for k, (y0, x0, y1, x1) in enumerate(regions):
        shown_by[y0:y1, x0:x1] = k
    result = RegionPool()(maps, torch.tensor([regions], dtype=torch.int32), canvas)
    for k in range(len(regions)):
        mask = shown_by == k
        expected = pixels[:, mask].mean(1) if mask.any() else pixels.mean((1, 2))
        # The shares are float32 (relative 6e-8 each), the map float64.
        torch.testing.assert_close(result[0, k], expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_shares_sum_to_one_on_any_grid(data):
    canvas = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    grid = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    regions = [data.draw(rectangles(*canvas)) for _ in range(3)] + [[0, 0, 0, 0]]
    shares = cell_shares(torch.tensor([regions], dtype=torch.int32), canvas, grid)
    # Base regions that are wholly hidden pool everything; nothing is ever negative or lost.
    torch.testing.assert_close(shares.sum((2, 3)), torch.ones(1, 4), rtol=0, atol=2e-5)
    assert (shares >= 0).all()


def test_the_whole_canvas_is_the_global_average():
    maps = torch.randn(4, 8, 7, 7)
    whole = torch.tensor([[[0, 0, 224, 224]]], dtype=torch.int32).expand(4, 1, 4)
    torch.testing.assert_close(RegionPool()(maps, whole, (224, 224))[:, 0], maps.mean((2, 3)))


def test_gradient_goes_to_the_region_only():
    maps = torch.ones(1, 2, 4, 4, requires_grad=True)
    left = torch.tensor([[[0, 0, 8, 4]]], dtype=torch.int32)
    RegionPool()(maps, left, (8, 8)).sum().backward()
    assert maps.grad is not None
    assert (maps.grad[..., :2] > 0).all()
    assert (maps.grad[..., 2:] == 0).all()


@pytest.mark.parametrize(
    ("maps", "regions", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 1, 4), "maps: expected"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, 1, 4), r"regions: expected \[2, K, 4\]"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), r"regions: expected \[2, K, 4\]"),
    ],
)
def test_wrong_shapes_are_named(maps, regions, message):
    with pytest.raises(ValueError, match=message):
        RegionPool()(maps, regions, (8, 8))


@settings(deadline=None, max_examples=60)
@given(pooled_cases(), st.integers(0, 2**32))
def test_an_index_map_pools_the_pixels_that_show_each(case, seed):
    grid, cell, canvas, _ = case
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, 3, *grid, dtype=torch.float64, generator=rng)
    pixels = maps.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[0]
    index_map = torch.randint(0, 3, (1, *canvas), dtype=torch.uint8, generator=rng)
    boxes = torch.tensor([[[0, 0, *canvas]] * 4], dtype=torch.int32)
    result = RegionPool()(maps, boxes, canvas, index_map)
    for k in range(4):  # the last shows nothing
        mask = index_map[0] == k
        expected = pixels[:, mask].mean(1) if mask.any() else pixels.mean((1, 2))
        torch.testing.assert_close(result[0, k], expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_an_index_map_of_rectangles_gives_what_the_rectangles_give(data):
    canvas = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    grid = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    regions = [data.draw(rectangles(*canvas)) for _ in range(2)]
    index_map = torch.full((1, *canvas), 255, dtype=torch.uint8)
    for k, (y0, x0, y1, x1) in enumerate(regions):
        index_map[0, y0:y1, x0:x1] = k
    expected = cell_shares(torch.tensor([regions], dtype=torch.int32), canvas, grid)
    # A region that is wholly hidden may keep a rounding error's share of a cell in cell_shares.
    shown = [k for k in range(2) if (index_map == k).any()]
    ours = mapped_cell_shares(index_map, 2, grid)
    torch.testing.assert_close(ours[:, shown], expected[:, shown], rtol=1e-3, atol=1e-4)


def test_an_index_map_of_another_size_is_named():
    boxes = torch.tensor([[[0, 0, 8, 8]]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"index_map: expected \[1, 8, 8\].*got \(1, 4, 8\)"):
        RegionPool()(torch.zeros(1, 2, 2, 2), boxes, (8, 8), torch.zeros(1, 4, 8).byte())
