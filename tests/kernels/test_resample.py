"""compose_resampled against the reference (bit for bit), and torch's and Pillow's resize."""

import ctypes
import mmap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, same
from PIL import Image
from resample_inputs import packed, pixels, resample_cases, windows

from mixpipe.kernels import Rectangles, compose, compose_resampled, reference

IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # pixels come out as they are


def int32(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def resample(rectangle: torch.Tensor, window: tuple[float, ...], size: tuple[int, int]):
    """[h, w, 3] float32: one window on a canvas of its own."""
    images = compose_resampled(
        [rectangle],
        torch.tensor([window], dtype=torch.float32),
        int32(size),
        int32([0]),
        int32([[0, 0, *size]]),
        size=size,
        **IDENTITY,
    )
    return images[0].permute(1, 2, 0)


@settings(max_examples=100, deadline=None)
@given(resample_cases(), st.sampled_from(DTYPES), st.booleans())
def test_equals_the_reference_bit_for_bit(
    arguments: dict[str, object], dtype: torch.dtype, channels_last: bool
) -> None:
    arguments |= {"dtype": dtype, "channels_last": channels_last}
    images = compose_resampled(**arguments)
    assert same(images, reference.compose_resampled(**arguments))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(2, 300), st.integers(1, 80), st.integers(2, 80))
def test_whole_images_are_resized_as_torch_does(h: int, w: int, out_h: int, out_w: int) -> None:
    """A centre at 300 pixels has an error of some 1e-5 of a pixel, which counts 255-fold.

    Two columns at least: of one, torch gives the channels mixed up.
    """
    rectangle = pixels(h, w)
    planes = rectangle.permute(2, 0, 1)[None].float().contiguous()
    theirs = F.interpolate(planes, (out_h, out_w), mode="bilinear", antialias=True)
    ours = resample(rectangle, (0, 0, h, w), (out_h, out_w))
    assert (ours - theirs[0].permute(1, 2, 0)).abs().max() < 0.02


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_windows_are_resized_as_pillow_does(data: st.DataObject) -> None:
    """Pillow rounds to a byte after each of its two passes: half a level and half a level."""
    h, w = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    size = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    window = data.draw(windows(h, w))
    rectangle = pixels(h, w)
    box = (window[1], window[0], window[3], window[2])
    image = Image.fromarray(rectangle.numpy())
    theirs = image.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    ours = resample(rectangle, window, size)
    assert (ours - torch.tensor(np.asarray(theirs)).float()).abs().max() < 1.02


def test_without_resizing_it_is_compose() -> None:
    patch = pixels(40, 50)
    arguments = {"size": (30, 50), "origins": int32([[7, 0]]), "flips": torch.tensor([[True]])}
    source, regions = int32([0]), int32([[0, 0, 30, 50]])
    whole = torch.tensor([[0.0, 0.0, 40.0, 50.0]])
    ours = compose_resampled([patch], whole, int32([40, 50]), source, regions, **arguments)
    assert same(ours, compose([patch], source, regions, **arguments))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_part_of_a_window_is_that_part_of_its_patch(data: st.DataObject) -> None:
    """What lets a composite decode only what it shows. The part has another origin, so its centres
    are rounded otherwise, by some 1e-5 of a pixel."""
    draw = data.draw
    h, w = draw(st.integers(30, 300)), draw(st.integers(30, 300))
    size = (48, 40)
    rectangle = pixels(h, w)
    whole = resample(rectangle, (0, 0, h, w), size)
    read, window, cut = [0] * 4, [0.0] * 4, []
    for axis, extent in enumerate((h, w)):
        low = draw(st.integers(0, size[axis] - 1))
        high = draw(st.integers(low + 1, size[axis]))
        scale = extent / size[axis]
        reach = max(1, scale)
        read[axis] = max(0, int(low * scale - reach))
        read[axis + 2] = min(extent, int(np.ceil(high * scale + reach)))
        window[axis] = low * scale - read[axis]
        window[axis + 2] = min(high * scale, extent) - read[axis]
        cut.append(slice(low, high))
    part = rectangle[read[0] : read[2], read[1] : read[3]]
    ours = resample(part, tuple(window), tuple(c.stop - c.start for c in cut))
    assert (ours - whole[tuple(cut)]).abs().max() < 0.05


@pytest.mark.parametrize("width", [1, 2, 3, 7, 33])
def test_nothing_past_the_rectangle_is_read(width: int) -> None:
    """Its last byte is the last before a page that may not be read."""
    page, height = mmap.PAGESIZE, 9
    memory = mmap.mmap(-1, 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 0) == 0
    rectangle = torch.frombuffer(
        memory, dtype=torch.uint8, offset=page - 3 * width * height, count=3 * width * height
    ).view(height, width, 3)
    rectangle.copy_(pixels(height, width))
    for size in ((3, 2), (20, 20)):
        ours = resample(rectangle, (0, 0, height, width), size)
        assert torch.equal(ours, resample(rectangle.clone(), (0, 0, height, width), size))


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_rows_than_a_thread_takes_at_once(channels_last: bool) -> None:
    # 2.5 pieces: the second and third begin within a composite.
    rectangles = [pixels(90 + i, 70 - i, i) for i in range(9)]
    regions = int32([[0, 0, 64, 31], [0, 31, 64, 64]]).expand(41, 2, 4).contiguous()
    shapes = torch.tensor([r.shape[:2] for r in rectangles]).float()
    arguments = {
        "rectangles": rectangles,
        "windows": torch.cat([torch.full((9, 2), 1.25), shapes - 0.5], 1),
        "sizes": int32([64, 64]).expand(9, 2).contiguous(),
        "source": torch.arange(82, dtype=torch.int32).view(41, 2) % 9,
        "regions": regions,
        "size": (64, 64),
        "flips": torch.arange(82).view(41, 2) % 3 == 0,
        "dtype": torch.float16,
        "channels_last": channels_last,
    }
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        images = compose_resampled(**arguments)
    finally:
        torch.set_num_threads(threads)
    assert same(images, reference.compose_resampled(**arguments))


def test_an_empty_batch() -> None:
    none = torch.zeros(0, 4)
    images = compose_resampled(
        [],
        none,
        none[:, :2].int(),
        torch.zeros(0, 2).int(),
        torch.zeros(0, 2, 4).int(),
        size=(8, 8),
    )
    assert images.shape == (0, 3, 8, 8)


ONE = {
    "rectangles": [pixels(5, 6)],
    "windows": torch.tensor([[0.0, 0.5, 5.0, 6.0]]),
    "sizes": int32([2, 4]),
    "source": int32([0]),
    "regions": int32([[0, 0, 2, 4]]),
    "size": (2, 4),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"windows": torch.tensor([[0, 0, 5.0, 6.5]])}, ValueError,
         r"windows\[0\] is .*6\.5.* within the 5 x 6 pixels of rectangles\[0\]"),
        ({"windows": torch.tensor([[-0.5, 0, 5, 6]])}, ValueError, r"windows\[0\]"),
        ({"windows": torch.tensor([[2.0, 0, 2, 6]])}, ValueError, r"windows\[0\]"),
        ({"windows": torch.tensor([[float("nan"), 0, 5, 6]])}, ValueError, r"windows\[0\]"),
        ({"windows": torch.zeros(2, 4)}, ValueError, r"windows has shape \[2, 4\], expected \[1"),
        ({"windows": torch.zeros(1, 4).double()}, TypeError, "windows has dtype"),
        ({"sizes": int32([0, 4])}, ValueError, r"sizes\[0\] is 0 x 4"),
        ({"sizes": int32([2, 4]).long()}, TypeError, "sizes has dtype"),
        ({"sizes": int32([2, 3])}, ValueError, r"patches\[0\] is 2 x 3, but regions\[0, 0\] shows"),
        ({"source": int32([1])}, ValueError, r"source\[0, 0\] is 1"),
        ({"rectangles": [pixels(5, 6).float()]}, TypeError, r"rectangles\[0\] has dtype"),
        ({"rectangles": [pixels(5, 6).permute(1, 0, 2)]}, ValueError,
         r"rectangles\[0\] has strides"),
        ({"out": torch.empty(1, 3, 2, 5)}, ValueError, "out has shape"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, error, message) -> None:
    with pytest.raises(error, match=message):
        compose_resampled(**(ONE | change))


@pytest.mark.parametrize("together", [False, True])
def test_opcheck(together: bool) -> None:
    rectangles, places = ONE["rectangles"], None
    if together:
        one = packed(rectangles, 0)
        rectangles, places = [one.pixels], torch.from_numpy(one.places)
    torch.library.opcheck(
        torch.ops.mixpipe.compose_resampled.default,
        (
            torch.empty(1, 3, 2, 4),
            rectangles,
            *(ONE[name] for name in ("windows", "sizes", "source", "regions")),
            *(None, None, None, None),
            *([1.0] * 3, [0.0] * 3),
            places,
        ),
    )


def test_compiles_without_a_graph_break() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def brightened(rectangle: torch.Tensor) -> torch.Tensor:
        return compose_resampled(**(ONE | {"rectangles": [rectangle]})) * 2

    rectangle = ONE["rectangles"][0]
    assert torch.equal(brightened(rectangle), compose_resampled(**ONE) * 2)


@settings(max_examples=50, deadline=None)
@given(resample_cases(), st.integers(0, 9))
def test_rectangles_of_one_tensor_are_as_a_list_of_them(
    arguments: dict[str, object], gap: int
) -> None:
    together = packed(arguments["rectangles"], gap)
    assert all(torch.equal(a, b) for a, b in zip(together[:], arguments["rectangles"], strict=True))
    images = compose_resampled(**{**arguments, "rectangles": together})
    assert same(images, compose_resampled(**arguments))


@pytest.mark.parametrize(
    "place",
    [
        (0, 0, 2, 6),
        (0, 2, 0, 6),
        (0, 2, 2, 5),
        (-1, 2, 2, 6),
        (1, 2, 2, 6),
        (0, 3, 2, 6),
        (2**62, 2, 2, 6),
        (0, 2**32, 2, 2**32),  # 64 bits of their product are 0
        (0, 1, 6148914691236517206, 2),  # of three times the width, 2
    ],
)
def test_a_rectangle_out_of_its_tensor_is_refused(place: tuple[int, ...]) -> None:
    pixels, right = torch.zeros(12, dtype=torch.uint8), (0, 2, 2, 6)
    rest = (torch.tensor([[0.0, 0, 1, 1]] * 2), int32([4, 4], [4, 4]), int32([0]), None)
    blend = {"blend": torch.ones(1, 1), "size": (4, 4)}
    compose_resampled(Rectangles(pixels, np.array([right, right])), *rest, **blend)
    with pytest.raises(ValueError, match=r"places\[1\] is \[.*expected begin, height, width"):
        compose_resampled(Rectangles(pixels, np.array([right, place])), *rest, **blend)
    for wrong in (np.zeros((2, 3), np.int64), np.array([right, right], np.float64)):
        with pytest.raises((TypeError, ValueError), match=r"places .*expected"):
            compose_resampled(Rectangles(pixels, wrong), *rest, **blend)
    with pytest.raises(TypeError, match=r"pixels has dtype torch\.float32"):
        compose_resampled(Rectangles(pixels.float(), np.array([right, right])), *rest, **blend)
