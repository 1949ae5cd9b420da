import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, ComposeCase, compose_cases, same

from mixpipe.kernels import compose, reference

IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # pixels come out as they are


def int32(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


@settings(max_examples=150, deadline=None)
@given(compose_cases(), st.sampled_from(DTYPES), st.booleans())
def test_equals_the_reference_bit_for_bit(
    case: ComposeCase, dtype: torch.dtype, channels_last: bool
) -> None:
    arguments = case.arguments() | {"dtype": dtype, "channels_last": channels_last}
    images = compose(**arguments)
    assert same(images, reference.compose(**arguments))
    if images[0].numel() > 3:  # of one pixel, both layouts are the same
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut", [61, 3])
def test_results_larger_than_the_caches(dtype: torch.dtype, channels_last: bool, cut: int) -> None:
    """Large results are written around the caches, by another path."""
    rng = torch.Generator().manual_seed(cut)
    batch, size = 36, (128, 128)
    regions = int32([[0, 0, 128, cut], [0, cut, 128, 128]]).expand(batch, 2, 4).contiguous()
    regions[0] = int32([0, 0, 100, cut], [5, cut + 1, 6, cut + 3])  # leaves gaps
    patches = [
        torch.randint(0, 256, (128, 128, 3), generator=rng, dtype=torch.uint8) for _ in range(8)
    ]
    source = torch.randint(0, 8, (batch, 2), generator=rng).int()
    flips = torch.rand(batch, 2, generator=rng) < 0.5
    speckled = torch.randint(0, 3, (batch, *size), generator=rng, dtype=torch.uint8)
    modes = ({}, {"blend": torch.rand(batch, 2, generator=rng)}, {"index_map": speckled})
    for mode in modes:
        arguments = {
            "size": size,
            "flips": flips,
            **mode,
            "dtype": dtype,
            "channels_last": channels_last,
        }
        images = compose(patches, source, regions, **arguments)
        assert same(images, reference.compose(patches, source, regions, **arguments))


# A 2 x 4 canvas; the patch counts 0, 1, 2 ... along its bytes. Channel 0 of the result.
PATCH = torch.arange(24, dtype=torch.uint8).view(2, 4, 3)
TABLE = [
    ("whole", {"regions": [[0, 0, 2, 4]]}, [[0, 3, 6, 9], [12, 15, 18, 21]]),
    ("mirrored", {"regions": [[0, 0, 2, 4]], "flips": [True]}, [[9, 6, 3, 0], [21, 18, 15, 12]]),
    ("part", {"regions": [[1, 1, 2, 3]]}, [[0, 0, 0, 0], [0, 0, 3, 0]]),
    (
        "part, mirrored, from (1, 2)",
        {"regions": [[0, 2, 1, 4]], "origins": [[1, 2]], "flips": [True]},
        [[0, 0, 21, 18], [0, 0, 0, 0]],
    ),
    (
        "two, the later above",
        {"regions": [[0, 0, 2, 4], [0, 1, 1, 2]], "origins": [[0, 0], [1, 3]]},
        [[0, 21, 6, 9], [12, 15, 18, 21]],
    ),
    (
        "blend",
        {"regions": [[0] * 4] * 2, "blend": [0.25, 0.75], "flips": [False, True]},
        [[6.75, 5.25, 3.75, 2.25], [18.75, 17.25, 15.75, 14.25]],
    ),
    (
        "index map",
        {
            "regions": [[0, 0, 2, 4], [0, 0, 2, 2]],
            "flips": [False, True],
            "index_map": [[1, 1, 0, 0], [0, 1, 1, 2]],  # outside region 1, and nobody's
        },
        [[3, 0, 6, 9], [12, 12, 0, 0]],
    ),
    ("absent", {"regions": [[0, 0, 2, 4]], "source": [-1]}, [[0] * 4] * 2),
]
DTYPE_OF = {"flips": torch.bool, "blend": torch.float32, "index_map": torch.uint8}


@pytest.mark.parametrize("function", [compose, reference.compose])
@pytest.mark.parametrize(("given_", "want"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE])
def test_by_hand(function, given_, want) -> None:
    k = len(given_["regions"])
    tensors = {
        name: torch.tensor([value], dtype=DTYPE_OF.get(name, torch.int32))
        for name, value in ({"source": [0] * k} | given_).items()
    }
    images = function([PATCH], size=(2, 4), **tensors, **IDENTITY)
    assert torch.equal(images[0, 0], torch.tensor(want, dtype=torch.float32))


def test_normalises_as_torchvision_does() -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    patch = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    images = compose([patch], int32([0]), int32([[0, 0, 5, 7]]), size=(5, 7))
    want = functional.normalize(
        patch.permute(2, 0, 1).float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(images[0], want, rtol=1e-6, atol=1e-6)


def test_out_is_written_and_returned() -> None:
    out = torch.empty(1, 3, 2, 4, dtype=torch.bfloat16).contiguous(
        memory_format=torch.channels_last
    )
    images = compose([PATCH], int32([0]), int32([[0, 0, 2, 4]]), size=(2, 4), out=out)
    assert images is out
    assert same(
        out,
        reference.compose(
            [PATCH], int32([0]), int32([[0, 0, 2, 4]]), size=(2, 4), dtype=torch.bfloat16
        ),
    )


def test_an_empty_batch() -> None:
    images = compose([], torch.zeros(0, 2).int(), torch.zeros(0, 2, 4).int(), size=(8, 8))
    assert images.shape == (0, 3, 8, 8)


ONE = {"patches": [PATCH], "source": int32([0]), "regions": int32([[0, 0, 2, 4]]), "size": (2, 4)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": int32([1])}, ValueError, r"source\[0, 0\] is 1, expected -1 .* 1 patches"),
        ({"source": int32([0]).long()}, TypeError, "source has dtype torch.int64"),
        ({"source": int32([0] * 5)}, ValueError, "source has 5 constituents"),
        ({"regions": int32([[0, 0, 2, 5]])}, ValueError, r"regions\[0, 0\] is \(0, 0, 2, 5\)"),
        ({"regions": int32([[1, 0, 0, 4]])}, ValueError, "0 <= y0 <= y1 <= 2"),
        ({"regions": int32([[0, 0, 2, 4]] * 2)}, ValueError, "regions has shape"),
        ({"regions": None}, ValueError, "regions is None"),
        ({"size": (2, 5), "regions": int32([[0, 0, 2, 5]])}, ValueError,
         r"patches\[0\] is 2 x 4, but regions\[0, 0\] shows 2 x 5 pixels of it from \(0, 0\)"),
        ({"origins": int32([[1, 0]])}, ValueError, r"from \(1, 0\)"),
        ({"origins": int32([[2**31 - 1, 0]])}, ValueError, r"from \(2147483647, 0\)"),
        ({"origins": int32([[0, 2**31 - 1]])}, ValueError, r"from \(0, 2147483647\)"),
        ({"size": (0, 4)}, ValueError, "size is"),
        ({"size": (4,)}, ValueError, r"size is \(4,\), expected a height and a width"),
        ({"mean": (0.5,)}, ValueError, "mean and std have 1 and 3 numbers, expected 3 each"),
        ({"std": (0.5, 0.0, 0.5)}, ValueError, r"std is \(0.5, 0.0, 0.5\), expected .* above 0"),
        ({"patches": [PATCH.float()]}, TypeError, r"patches\[0\] has dtype torch.float32"),
        ({"patches": [PATCH[..., :2]]}, ValueError, r"patches\[0\] has shape"),
        ({"patches": [PATCH.permute(1, 0, 2)]}, ValueError, r"patches\[0\] has strides"),
        ({"flips": int32([0])}, TypeError, "flips has dtype"),
        ({"blend": torch.ones(1, 2)}, ValueError, "blend has shape"),
        ({"index_map": torch.zeros(1, 2, 3).byte()}, ValueError, "index_map has shape"),
        ({"dtype": torch.float64}, TypeError, "dtype is torch.float64"),
        ({"out": torch.empty(1, 3, 2, 5)}, ValueError, "out has shape"),
        ({"out": torch.empty(1, 3, 4, 2).mT}, ValueError, "out has strides"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, error, message) -> None:
    with pytest.raises(error, match=message):
        compose(**(ONE | change))


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last: bool) -> None:
    out = torch.empty(1, 3, 2, 4)
    if channels_last:
        out = out.contiguous(memory_format=torch.channels_last)
    arguments = (out, [PATCH], int32([0]), int32([[0, 0, 2, 4]]), None, None, None, None)
    torch.library.opcheck(torch.ops.mixpipe.compose.default, (*arguments, [1.0] * 3, [0.0] * 3))


def test_compiles_without_a_graph_break() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def brightened(patch: torch.Tensor) -> torch.Tensor:
        return compose([patch], int32([0]), int32([[0, 0, 2, 4]]), size=(2, 4)) * 2

    want = compose([PATCH], int32([0]), int32([[0, 0, 2, 4]]), size=(2, 4)) * 2
    assert torch.equal(brightened(PATCH), want)
