"""Layouts of one's own: maps, labels and windows agree, everywhere and after every restart."""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import image_sizes, loss_table

import mixpipe
from mixpipe.loader import IMAGENET_STD
from mixpipe.plan import EpochPlan, RandomResizedCrop, Split, Tier, compiled, layout, plan_batch
from mixpipe.plan.layouts import layout_from_state

ROOT = Path(__file__).parents[2]


def load_example():
    path = ROOT / "examples" / "custom_layouts.py"
    spec = importlib.util.spec_from_file_location("custom_layouts", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_layouts"] = module
    spec.loader.exec_module(module)
    return module


EXAMPLE = load_example()


@layout
def straight(y, x, height, width, ratio, u0, u1):
    """Split, in other words."""
    at, length = (x, width) if u0 < 0.5 else (y, height)
    if u1 < 0.5:
        at = length - 1 - at
    return at >= min(max(round(ratio * length), 1), length - 1)


@layout(k=4, window="fit")
def scattered(y, x, height, width, _ratio, u0, _u1):
    return (y * 31 + x * 17 + int(u0 * 64)) // 3 % 4


@layout(k=3)
def hidden(y, _x, height, _width, _ratio, u0, _u1):
    """The second never shows."""
    return 0 if y < u0 * height else 2


LAYOUTS = [EXAMPLE.diagonal, EXAMPLE.circle, EXAMPLE.checkerboard, straight, scattered, hidden]
canvases = st.tuples(st.integers(4, 40), st.integers(4, 40))


@st.composite
def placed(draw, layouts=LAYOUTS):
    custom, canvas = draw(st.sampled_from(layouts)), draw(canvases)
    n = draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shares = random.random((n, custom.k)) + 1e-3
    shares /= shares.sum(axis=1, keepdims=True)
    draws = random.random((2, n))
    return custom, shares, draws, canvas


@given(placed())
def test_a_map_is_what_the_function_says_of_each_pixel(case):
    custom, shares, draws, (height, width) = case
    out = custom.place(shares, draws, (height, width)).index_map
    for b, (u0, u1) in enumerate(draws.T.tolist()):
        ratio = float(shares[b, 0])
        for y, x in [(0, 0), (height - 1, width - 1), (height // 2, width // 3)]:
            assert out[b, y, x] == custom.function(y, x, height, width, ratio, u0, u1)


@given(placed())
def test_areas_sum_to_the_canvas_and_windows_are_tight_around_what_shows(case):
    custom, shares, draws, canvas = case
    regions, weights, index_map = custom.place(shares, draws, canvas)
    assert index_map.shape == (len(shares), *canvas)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    for b, shown in enumerate(index_map):
        for j in range(custom.k):
            rows, columns = np.nonzero(shown == j)
            assert weights[b, j] == len(rows) / shown.size
            box = [0, 0, 0, 0]
            if len(rows):
                box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            assert regions[b, j].tolist() == box


@given(placed([EXAMPLE.diagonal, EXAMPLE.circle, straight]))
def test_the_examples_keep_to_the_ratio_where_it_can_be_kept(case):
    custom, shares, draws, _ = case
    shares = 0.5 + 0.3 * shares  # a larger circle may reach over the border
    weights = custom.place(shares, draws, (60, 60)).weights
    assert (np.abs(weights[:, 0] - shares[:, 0]) < 0.02).all()


def planned(layouts, seed=5, n=40, canvas=(24, 20)):
    table = loss_table([0.1 * i for i in range(n)])
    tiers = [Tier(k, mixpipe.QuantileRule(q), custom) for k, q, custom in layouts]
    policy = mixpipe.MixTrain(tiers=tiers, adaptive=mixpipe.Adaptive(), warmup=0)
    plan = policy.plan(table, 1, seed)
    batch = plan.batches(plan.num_composites)[0]
    return plan_batch(plan, batch, *image_sizes(n, seed=1), canvas, RandomResizedCrop())


@given(st.integers(0, 999), canvases)
def test_a_straight_cut_equals_the_built_in_split_exactly(seed, canvas):
    ours = planned([(2, 0.8, straight)], seed, canvas=canvas)
    theirs = planned([(2, 0.8, Split())], seed, canvas=canvas)
    assert theirs.index_map is None
    for name in ("ids", "weights", "regions", "source", "origins", "flips"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("ids", "reads", "windows", "sizes"):
        assert np.array_equal(getattr(ours.job, name), getattr(theirs.job, name)), name


def test_a_batch_holds_plain_and_built_in_composites_too():
    batch = planned([(2, 0.9, EXAMPLE.circle), (4, 0.4, None)])
    counts = (batch.ids >= 0).sum(axis=1)
    assert set(counts.tolist()) == {1, 2, 4}
    for shown, weights, regions, k in zip(
        batch.index_map, batch.weights, batch.regions, counts, strict=True
    ):
        areas = np.bincount(shown.ravel(), minlength=len(weights)) / shown.size
        np.testing.assert_allclose(weights, areas, rtol=1e-6)
        for j, (y0, x0, y1, x1) in enumerate(regions.tolist()):
            inside = np.zeros(shown.shape, bool)
            inside[y0:y1, x0:x1] = True
            assert inside[shown == j].all()
            assert k == 2 or (inside == (shown == j)).all()  # rectangles are filled


def test_who_shows_nothing_is_absent():
    batch = planned([(3, 1.0, hidden)])
    mixed = (batch.regions[:, 2] != 0).any(axis=1)
    assert mixed.sum() > 5
    assert (batch.ids[mixed, 1] == -1).all()
    assert not batch.weights[mixed, 1].any()
    assert (batch.source[mixed, 1] == -1).all()


# ---- through the loader


@pytest.fixture(scope="module")
def store():
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (*random.integers(24, 50, 2), 3), np.uint8) for _ in range(31)
    ]
    return mixpipe.BytesStore([encoded(pixels) for pixels in images], labels=[0] * len(images))


def encoded(pixels):
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def make(store, custom, **options):
    tiers = [
        Tier(2, mixpipe.RandomRule(0.8), custom),
        Tier(3, mixpipe.RandomRule(0.4), mixpipe.Strips()),
    ]
    policy = mixpipe.MixTrain(tiers=tiers, warmup=0)
    return mixpipe.MixLoader(store, batch_size=9, size=28, policy=policy, threads=1, **options)


@pytest.mark.parametrize("custom", [EXAMPLE.diagonal, EXAMPLE.circle, EXAMPLE.checkerboard])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pixel_shows_what_the_plain_image_shows_there(store, custom, memory_format):
    plain = mixpipe.MixLoader(store, batch_size=31, size=28, threads=1)
    images, target = next(iter(plain))
    whole = dict(zip(target.ids[:, 0].tolist(), images, strict=True))
    compared = 0
    for images, target in make(store, custom, memory_format=memory_format):
        for b in range(len(images)):
            for k in range(target.ids.shape[1]):
                mask = target.index_map[b] == k
                assert float(target.weights[b, k]) == pytest.approx(
                    float(mask.float().mean()), rel=1e-6
                )
                if mask.any():
                    difference = images[b] - whole[int(target.ids[b, k])]
                    # Edges of windows are float32: a source position may differ by 1e-5 pixels.
                    assert difference[:, mask].abs().max() < 0.05 / 255 / min(IMAGENET_STD)
                compared += int(mask.sum())
    assert compared > 31 * 28 * 28 // 4


def local_layout():
    @layout
    def upper(y, _x, height, _width, ratio, _u0, _u1):
        return y >= height * ratio

    return upper


@pytest.mark.parametrize("custom", [EXAMPLE.circle, local_layout()], ids=["module", "local"])
def test_resuming_within_an_epoch_gives_the_very_batches(store, custom):
    whole, interrupted, resumed = (make(store, custom, seed=seed) for seed in (3, 3, 8))
    expected = list(whole)
    running = iter(interrupted)
    first = [next(running), next(running)]
    resumed.load_state_dict(interrupted.state_dict())
    for ours, theirs in zip(first + list(resumed), expected, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1].index_map, theirs[1].index_map)


def test_a_plan_is_restored_by_the_layouts_name(tmp_path):
    policy = mixpipe.MixTrain(layout=EXAMPLE.circle, warmup=0)
    plan = policy.plan(loss_table([1.0] * 6), 0, 0)
    torch.save(plan.state_dict(), tmp_path / "plan.pt")
    state = torch.load(tmp_path / "plan.pt", weights_only=True)
    assert EpochPlan.from_state_dict(state).layouts == plan.layouts


def test_a_layout_goes_by_its_name():
    assert pickle.loads(pickle.dumps(EXAMPLE.circle)) is EXAMPLE.circle
    assert deepcopy(EXAMPLE.circle) is EXAMPLE.circle
    assert layout(EXAMPLE.circle.function) == EXAMPLE.circle != EXAMPLE.diagonal
    assert repr(EXAMPLE.circle) == "layout(custom_layouts:circle, k=2, window='cut')"


def test_layouts_that_a_checkpoint_cannot_bring_back_are_named():
    state = EXAMPLE.circle.state()
    for changed, named in [
        (local_layout().state(), "cannot be imported .*top level"),
        ({**state, "layout": "no.such.module:circle"}, "no.such.module:circle' cannot be imported"),
        ({**state, "layout": "custom_layouts:main"}, "is now <function main"),
        ({**state, "k": 3}, r"is now layout\(custom_layouts:circle, k=2.*saved as .*'k': 3"),
    ]:
        with pytest.raises(ValueError, match=named):
            layout_from_state(changed)


# ---- CUDA, simulated


SIMULATED = """
import sys
import numpy as np
from numba import config
from mixpipe.plan.compiled_cuda import cuda_filler
from test_custom_layouts import LAYOUTS

def beyond(y, x, height, width, ratio, u0, u1):
    return y - 1

assert config.ENABLE_CUDASIM
cases = np.load(sys.argv[1])
for i, custom in enumerate(LAYOUTS):
    expected, ratios, u0, u1 = (cases[f"{i}.{name}"] for name in ("map", "ratios", "u0", "u1"))
    out = np.full_like(expected, 99)
    cuda_filler(custom.function, custom.k)(out, ratios, u0, u1)
    assert np.array_equal(out, expected), custom
out = np.zeros((1, 5, 2), np.uint8)
cuda_filler(beyond, 2)(out, *np.full((3, 1), 0.5))
assert out[0].tolist() == [[row] * 2 for row in (255, 0, 1, 255, 255)]
cuda_filler(beyond, 2)(out[:0], *np.full((3, 0), 0.5))
"""


def test_the_cuda_kernel_equals_the_cpu_in_numbas_simulator(tmp_path):
    random, cases = np.random.default_rng(0), {}
    for i, custom in enumerate(LAYOUTS):
        shares, draws = random.random((2, custom.k)), random.random((2, 2))
        canvas = (5, 7) if i else (13, 11)  # more pixels than a block has threads
        index_map = custom.place(shares, draws, canvas).index_map
        case = {"map": index_map, "ratios": shares[:, 0], "u0": draws[0], "u1": draws[1]}
        cases.update({f"{i}.{name}": value for name, value in case.items()})
    np.savez(tmp_path / "cases.npz", **cases)
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED, str(tmp_path / "cases.npz")],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_index_maps_for_those_who_compose_themselves():
    random = np.random.default_rng(4)
    shares, draws = random.random((3, 2)), random.random((2, 3))
    ours = EXAMPLE.circle.index_map(shares[:, 0], *torch.from_numpy(draws), size=(12, 10))
    assert np.array_equal(ours, EXAMPLE.circle.place(shares, draws, (12, 10)).index_map)


# ---- what cannot work


def test_a_missing_numba_is_named(monkeypatch):
    monkeypatch.setattr(compiled.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"layout upper: numba.*pip install 'mixpipe\[layouts\]'"):
        local_layout()


def swapped(x, y, height, width, ratio, u0, u1):
    return 0


def real(y, x, height, width, ratio, u0, u1):
    return ratio * 2


def partial(y, x, height, width, ratio, u0, u1):
    if y < x:
        return 0
    return None


def words(y, x, height, width, ratio, u0, u1):
    return globals()


def array(y, x, height, width, ratio, u0, u1):
    return np.no_such_function(y)


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda: layout(swapped), TypeError, r"layout swapped: .*\(x, y, .*expected \(y, x, heigh"),
        (lambda: layout(lambda y, x: 0), TypeError, r"\(y, x\), expected \(y, x, height"),
        (lambda: layout(3), TypeError, r"got 3, expected a function; .*@layout\(k=3\)"),
        (lambda: layout(real), TypeError, r"returns float64, expected an integer.*int\("),
        (lambda: layout(partial), TypeError, "expected an integer.*from every branch"),
        (lambda: layout(words), TypeError, "layout words: numba cannot compile.*globals.*use only"),
        (lambda: layout(array), TypeError, "layout array: numba cannot compile.*no_such_function"),
        (lambda: layout(k=5)(swapped), ValueError, "k: got 5, expected 2 to 4"),
        (lambda: layout(window="crop")(swapped), ValueError, "window: got 'crop'"),
        (lambda: Tier(3, layout=EXAMPLE.circle), ValueError, "circle.*cannot place 3.*only 2"),
    ],
)
def test_wrong_functions_are_named(make, error, named):
    with pytest.raises(error, match=re.compile(named, re.DOTALL)):
        make()


@layout
def outside(y, _x, _height, _width, _ratio, _u0, _u1):
    return y - 1


@layout
def failing(_y, x, _height, _width, _ratio, _u0, _u1):
    return 1 // (x - 3) * 0


def test_what_a_function_does_wrong_later_is_named_too():
    shares, draws = np.full((2, 2), 0.5), np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"outside: returned -1 for y=0, x=0.*0 to 1.*k=\.\.\."):
        outside.place(shares, draws, (8, 8))
    with pytest.raises(ValueError, match="failing: its function raised ZeroDivisionError"):
        failing.place(shares, draws, (8, 8))


def test_numbers_that_do_not_fit_each_other_are_named():
    one, three = np.zeros(1), np.full(3, 0.5)
    with pytest.raises(ValueError, match=r"u0: got shape \[1\], expected \[n\].*ratios.*\[3\]"):
        EXAMPLE.circle.index_map(three, one, three, size=(8, 8))
    with pytest.raises(ValueError, match=r"ratios: got shape \[3, 1\]"):
        EXAMPLE.circle.index_map(three[:, None], three, three, size=(8, 8))


def test_the_documented_examples_are_those_of_the_picture():
    """docs/layouts.md shows the functions of examples/custom_layouts.py, to the letter."""
    text = (ROOT / "docs" / "layouts.md").read_text()
    source = (ROOT / "examples" / "custom_layouts.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = [block for block in blocks if block.startswith("@mixpipe.layout")]
    assert len(shown) == 3
    assert all(block in source for block in shown)
