"""Every CUDA kernel, run from its own source, against the reference."""

import pytest
import torch
from cases import (
    DTYPES,
    compose_cases,
    cross_entropy_cases,
    mix_cases,
    resample_cases,
    tables,
)
from comparisons import (
    compare_compose,
    compare_cross_entropy,
    compare_mix,
    compare_resampled,
    compare_selection,
    compare_targets,
    same_bits,
)
from device import Device
from emulator.cupy_stand_in import ArgumentError, Launch
from hypothesis import given, settings
from hypothesis import strategies as st

import mixpipe.kernels
from mixpipe import _C
from mixpipe.kernels import reference

# The plain build runs many cases in order; the checked build fewer, each under some schedule.
PLAIN = st.builds(Device)
CHECKED = st.builds(Device, st.just("checked"), st.integers(0, 5))
BOTH = pytest.mark.parametrize(
    ("device", "examples"), [(PLAIN, 150), (CHECKED, 40)], ids=["plain", "checked"]
)


def each(examples, *strategies):
    """Runs a comparison over examples of the strategies."""

    def decorate(compare):
        settings(max_examples=examples, deadline=None)(given(*strategies)(compare))()

    return decorate


@BOTH
def test_compose(device, examples):
    @each(
        examples,
        device,
        compose_cases(),
        st.sampled_from(DTYPES),
        st.booleans(),
        st.sampled_from([0, 0, 1, 8]),
    )
    def _(device, case, dtype, channels_last, offset):
        how = {"dtype": dtype, "channels_last": channels_last, "offset": offset}
        compare_compose(device, **case.arguments(), **how)


@BOTH
def test_compose_resampled(device, examples):
    @each(
        examples // 2,
        device,
        resample_cases(),
        st.sampled_from(DTYPES),
        st.booleans(),
        st.sampled_from([0, 0, 1, 8]),
    )
    def _(device, arguments, dtype, channels_last, offset):
        how = {"dtype": dtype, "channels_last": channels_last, "offset": offset}
        compare_resampled(device, **arguments, **how)


@BOTH
def test_select_lowest(device, examples):
    @each(examples // 3, device, tables())
    def _(device, case):
        losses, epochs, rule, factors, how = case
        compare_selection(device, losses, epochs, rule, factors, **how)


@pytest.mark.parametrize("seed", [0, 2])
def test_selection_from_a_large_table(seed):
    """More samples than the largest grid takes at once, losses given twice, some unseen."""
    rng = torch.Generator().manual_seed(0)
    losses = torch.rand(300_001, generator=rng).mul(1000).round() / 256
    epochs = torch.randint(-1, 4, losses.shape, generator=rng).int()
    compare_selection(Device(seed=seed), losses, epochs, "mean", [0.7, 0.2])


@BOTH
def test_mix(device, examples):
    @each(examples, device, mix_cases())
    def _(device, case):
        compare_mix(device, *case)


@BOTH
def test_dense_targets(device, examples):
    @each(
        examples,
        device,
        st.integers(1, 5),
        st.integers(1, 4),
        st.sampled_from([1, 2, 7, 8, 100, 1000, 1001]),
        st.sampled_from([0.0, 0.1, 1.0]),
        st.sampled_from(DTYPES),
        st.integers(0, 2**31),
    )
    def _(device, batch, k, num_classes, smoothing, dtype, seed):
        rng = torch.Generator().manual_seed(seed)
        classes = torch.randint(-1, num_classes, (batch, k), generator=rng)
        weights = torch.rand(batch, k, generator=rng)
        compare_targets(device, classes, weights, num_classes, smoothing=smoothing, dtype=dtype)


@BOTH
def test_cross_entropy(device, examples):
    @each(examples, device, cross_entropy_cases())
    def _(device, case):
        compare_cross_entropy(device, *case)


@pytest.mark.parametrize("num_classes", [4096, 4097, 8192, 8193, 21841, _C.MAX_CUDA_CLASSES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_many_classes(num_classes, dtype):
    rng = torch.Generator().manual_seed(num_classes)
    logits = (torch.randn(3, 2, num_classes, generator=rng) * 5).to(dtype)
    targets = torch.randint(0, num_classes, (3, 2), generator=rng)
    targets[0] = torch.tensor([0, num_classes - 1])
    weights = torch.rand(3, 2, generator=rng)
    for seed in (0, 2):
        device = Device(seed=seed)
        compare_cross_entropy(device, logits, targets, weights, {"label_smoothing": 0.1})


def test_cross_entropy_is_deterministic_in_every_schedule():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 1000, generator=rng)
    targets = torch.randint(0, 1000, (64, 2), generator=rng)
    weights = torch.rand(64, 2, generator=rng)
    first, *others = (
        Device(seed=seed).cross_entropy(logits, targets, weights) for seed in range(5)
    )
    for other in others:
        for a, b in zip(first, other, strict=True):
            same_bits(a, b)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_training_batch(dtype, channels_last):
    """32 composites of 224 x 224; the oracle is the CPU kernel, itself equal to the reference."""
    rng = torch.Generator().manual_seed(1)
    cut = 97
    boxes = [[0, 0, 224, cut], [0, cut, 224, 224]]
    patches = [
        torch.randint(0, 256, (224, x1 - x0, 3), generator=rng, dtype=torch.uint8)
        for _, x0, _, x1 in boxes * 32
    ]
    source = torch.arange(64, dtype=torch.int32).view(32, 2)
    regions = torch.tensor(boxes, dtype=torch.int32).expand(32, 2, 4).contiguous()
    how = {
        "size": (224, 224),
        "flips": torch.rand(32, 2, generator=rng) < 0.5,
        "dtype": dtype,
        "channels_last": channels_last,
    }
    images = Device(seed=2).compose(patches, source, regions, **how)
    same_bits(images, mixpipe.kernels.compose(patches, source, regions, **how))

    partners, box = torch.arange(32).roll(1), torch.tensor([[30, 20, 150, 133]] * 32).int()
    want = mixpipe.kernels.mix_(images.clone(), regions=box, partners=partners)
    same_bits(Device(seed=2).mix_(images, regions=box, partners=partners), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_of_a_whole_training_batch(dtype):
    """256 composites of 1000 classes; ids of 400 samples, so that some are twice in the batch."""
    rng = torch.Generator().manual_seed(2)
    classes = torch.randint(0, 1000, (256, 2), generator=rng)
    weights = torch.rand(256, 2, generator=rng)
    compare_targets(Device(seed=2), classes, weights, 1000, smoothing=0.1, dtype=dtype)
    logits = (3 * torch.randn(256, 2, 1000, generator=rng)).to(dtype)
    table = {
        "ids": torch.randint(0, 400, (256, 2), generator=rng),
        "table_losses": torch.full((400,), -1.0),
        "table_epochs": torch.full((400,), -1, dtype=torch.int32),
        "epoch": 3,
    }
    compare_cross_entropy(Device(seed=2), logits, classes, weights, table)


@pytest.mark.parametrize("partners", [[1, 2, 3, 0], [1, 0, 3, 2], [0, 1, 2, 3], [2, 0, 1, 3]])
@pytest.mark.parametrize("seed", range(4))
def test_swaps_in_place_have_no_race_whatever_the_pairing(partners, seed):
    images = torch.randn(4, 3, 8, 24)
    boxes = torch.tensor([[0, 0, 8, 24], [1, 3, 7, 20], [0, 8, 8, 16], [2, 2, 2, 2]]).int()
    want = reference.mix_(images.clone(), regions=boxes, partners=torch.tensor(partners))
    got = Device("checked", seed).mix_(images, regions=boxes, partners=torch.tensor(partners))
    same_bits(got, want)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["regions", "blend", "index_map"])
def test_compose_of_every_k_and_mode(k, mode):
    rng = torch.Generator().manual_seed(k)
    height, width = 9, 40
    cuts = [width * j // k for j in range(k + 1)]
    regions = torch.tensor([[[0, cuts[j], height, cuts[j + 1]] for j in range(k)]] * 2).int()
    if mode != "regions":
        regions[:] = torch.tensor([0, 0, height, width])
    shape = (height, width, 3)
    patches = [torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8) for _ in range(2 * k)]
    arguments = {
        "patches": patches,
        "source": torch.arange(2 * k).view(2, k).int(),
        "regions": regions,
        "size": (height, width),
        "flips": torch.rand(2, k, generator=rng) < 0.5,
        "blend": torch.rand(2, k, generator=rng) if mode == "blend" else None,
        "index_map": torch.randint(0, k, (2, height, width), generator=rng, dtype=torch.uint8)
        if mode == "index_map"
        else None,
    }
    for dtype in DTYPES:
        for channels_last in (False, True):
            device = Device("checked", seed=k)
            compare_compose(device, dtype=dtype, channels_last=channels_last, **arguments)


def test_empty_inputs_launch_nothing():
    device = Device()
    size = (4, 6)
    none = torch.zeros(0, 2, dtype=torch.int32)
    regions = torch.zeros(0, 2, 4, dtype=torch.int32)
    assert device.compose([], none, regions, size=size).shape == (0, 3, 4, 6)
    windows, sizes = torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int32)
    images = device.compose_resampled([], windows, sizes, none, regions, size=size)
    assert images.shape == (0, 3, 4, 6)
    assert device.mix_(torch.zeros(0, 3, 4, 6), regions=regions).shape == (0, 3, 4, 6)
    no_classes, no_weights = torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2)
    assert device.dense_targets(no_classes, no_weights, 10).shape == (0, 10)
    loss, per_constituent, _ = device.cross_entropy(torch.zeros(0, 10), no_classes, no_weights)
    assert (float(loss), per_constituent.shape) == (0.0, (0, 2))
    table = torch.zeros(0), torch.zeros(0, dtype=torch.int32)
    assert device.select_lowest(*table, "mean", [1.0]).counts == [0]
    assert device.options.launches == []


def test_constituents_that_are_all_absent_leave_the_mean_colour():
    absent = torch.full((2, 3), -1, dtype=torch.int32)
    regions = torch.zeros(2, 3, 4, dtype=torch.int32)
    for dtype in DTYPES:
        images = Device("checked").compose([], absent, regions, size=(5, 16), dtype=dtype)
        assert (images == 0).all()


def test_the_launcher_launches_what_the_extension_prepared():
    device = Device()
    device.dense_targets(torch.zeros(7, 2, dtype=torch.int64), torch.rand(7, 2), 1001)
    (launch,) = device.options.launches
    # 1001 float32 are 251 vectors: two blocks of 128 threads a row.
    assert launch == Launch("dense_targets_f32_narrow", (14, 1, 1), (128, 1, 1), 0)


def test_a_struct_that_is_not_the_kernels_is_refused():
    """As after a change of a header without a new extension."""

    class Stale:
        source, kernel, grid, block, shared_bytes = "mix.cu", "mix_f32_wide", 1, 256, 0
        params = bytes(64)

    with pytest.raises(ArgumentError, match=r"of 64 bytes given, the kernel takes .*MixParams"):
        Device().launcher(Stale(), torch.device("cpu"))
