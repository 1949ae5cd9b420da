"""compose_resampled on the emulator: the reference's bits, and bytes moved against two passes."""

import pytest
import torch
from comparisons import same_bits
from device import Device, unwritten
from hypothesis import given, settings
from hypothesis import strategies as st
from resample_inputs import packed, resample_cases

from mixpipe.kernels import compose_resampled, cuda, reference
from mixpipe.kernels.compose import IMAGENET_MEAN, IMAGENET_STD, scale_and_bias

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SECTOR = 32


def run(device: Device, out: torch.Tensor, arguments: dict[str, object]) -> torch.Tensor:
    """As mixpipe.kernels.compose_resampled with ImageNet's mean and deviation."""
    names = ("windows", "sizes", "source", "regions", "origins", "flips", "blend", "index_map")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = [1.0 / (255.0 * s) for s in std]
    bias = [-m / s for m, s in zip(mean, std, strict=True)]
    rectangles = list(arguments["rectangles"])
    with device.watching(rectangles=rectangles, index_map=arguments.get("index_map"), out=out):
        given_ = [arguments.get(name) for name in names]
        cuda.compose_resampled(device.launcher, out, rectangles, *given_, scale, bias)
    return out


@pytest.mark.parametrize(
    ("device", "examples"),
    [(st.builds(Device), 80), (st.builds(Device, st.just("checked"), st.integers(0, 5)), 25)],
    ids=["plain", "checked"],
)
def test_equals_the_reference(device, examples):
    @settings(max_examples=examples, deadline=None)
    @given(
        device,
        resample_cases(),
        st.sampled_from(DTYPES),
        st.booleans(),
        st.sampled_from([0, 0, 1, 8]),
    )
    def compare(device, arguments, dtype, channels_last, offset):
        shape = (len(arguments["source"]), 3, *arguments["size"])
        out = unwritten(shape, dtype, channels_last, offset)
        want = reference.compose_resampled(**arguments, dtype=dtype, channels_last=channels_last)
        same_bits(run(device, out, arguments), want)

    compare()


def photographs(batch: int, size: int = 224) -> dict[str, object]:
    """Composites of two halves, of rectangles as a decoder leaves them for 500 x 375 images."""
    rng = torch.Generator().manual_seed(3)
    cut = 97
    boxes = torch.tensor([[0, 0, size, cut], [0, cut, size, size]], dtype=torch.int32)
    shapes = [(318, 140), (318, 182)] * batch
    return {
        "rectangles": [
            torch.randint(0, 256, (*shape, 3), generator=rng, dtype=torch.uint8) for shape in shapes
        ],
        "windows": torch.tensor([(0.0, 0.5, h, w - 1.25) for h, w in shapes]),
        "sizes": (boxes[:, 2:] - boxes[:, :2]).repeat(batch, 1).contiguous(),
        "source": torch.arange(2 * batch, dtype=torch.int32).view(batch, 2),
        "regions": boxes.expand(batch, 2, 4).contiguous(),
        "size": (size, size),
        "flips": torch.arange(2 * batch).view(batch, 2) % 3 == 0,
    }


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_training_batch(dtype, channels_last):
    """The oracle is the CPU kernel, itself equal to the reference."""
    arguments = photographs(16)
    out = unwritten((16, 3, 224, 224), dtype, channels_last)
    want = compose_resampled(**arguments, dtype=dtype, channels_last=channels_last)
    same_bits(run(Device(), out, arguments), want)


def test_rectangles_of_one_tensor():
    arguments = photographs(2)
    want = compose_resampled(**arguments)
    together = packed(arguments["rectangles"], gap=7)
    device, out = Device("checked"), unwritten((2, 3, 224, 224), torch.float32)
    with device.watching(rectangles=[together.pixels], out=out):
        names = ("windows", "sizes", "source", "regions", "origins", "flips", "blend", "index_map")
        cuda.compose_resampled(
            device.launcher,
            out,
            [together.pixels],
            *(arguments.get(name) for name in names),
            *scale_and_bias(IMAGENET_MEAN, IMAGENET_STD),
            torch.from_numpy(together.places),
        )
    same_bits(out, want)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_part_made_much_smaller(mirrored):
    """A tile needs more columns of the rectangle, and a row more taps, than are summed at once."""
    rng = torch.Generator().manual_seed(0)
    arguments = {
        "rectangles": [torch.randint(0, 256, (200, 900, 3), generator=rng, dtype=torch.uint8)],
        "windows": torch.tensor([[0.5, 3.25, 199.0, 900.0]]),
        "sizes": torch.tensor([[20, 40]], dtype=torch.int32),
        "source": torch.zeros(1, 1, dtype=torch.int32),
        "regions": torch.tensor([[[0, 0, 20, 40]]], dtype=torch.int32),
        "size": (20, 40),
        "flips": torch.tensor([[mirrored]]),
    }
    out = unwritten((1, 3, 20, 40), torch.float32)
    same_bits(run(Device("checked", 5), out, arguments), reference.compose_resampled(**arguments))


@pytest.mark.parametrize("channels_last", [False, True])
def test_moves_less_than_resizing_first_would(channels_last):
    """Patches of uint8 would be written and read again between the two passes.

    Sectors are counted once a block, so that what tiles share at their rims counts for each; the
    bytes of the two passes are the least that they could move.
    """
    arguments = photographs(2)
    out = unwritten((2, 3, 224, 224), torch.float16, channels_last)
    device = Device("checked")
    device.traced = ""
    run(device, out, arguments)
    ((reads, writes),) = device.traffic.values()
    rectangles = sum(rectangle.numel() for rectangle in arguments["rectangles"])
    assert writes.bytes == writes.accessed == 2 * out.numel()
    assert SECTOR * writes.block_sectors == writes.bytes
    # Within one multiprocessor's cache a sector is read once, whatever the taps are.
    once = SECTOR * reads.sectors
    assert once <= 1.02 * rectangles
    patches = out.numel()
    first_form = rectangles + 2 * patches + writes.bytes
    assert once + writes.bytes < 0.8 * first_form
