import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, random_regions, same

from mixpipe.kernels import mix_, reference


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Images of any dtype, layout and size, and how to mix them."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, k = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    height, width = draw(st.integers(1, 20)), draw(st.one_of(st.integers(1, 40), st.just(32)))
    cycles, cut = draw(st.booleans()), draw(st.booleans())
    count = batch if cycles else batch * k
    images = torch.randn(count, channels, height, width, generator=rng)
    images = images.to(draw(st.sampled_from(DTYPES)))
    if draw(st.booleans()):
        images = images.contiguous(memory_format=torch.channels_last)
    how: dict[str, torch.Tensor] = {}
    if cycles:
        how["partners"] = torch.randperm(count, generator=rng)
    if cut:
        shape = (batch, 1) if cycles else (batch, k)
        how["regions"] = random_regions(*shape, height, width, rng)
    else:
        how["weights"] = torch.rand(batch, 1 if cycles else k, generator=rng)
        how["weights"][torch.rand(how["weights"].shape, generator=rng) < 0.2] = 0.0
    if cycles:
        how = {name: tensor.flatten(0, 1) if tensor.dim() > 1 else tensor
               for name, tensor in how.items()}  # fmt: skip
    return images, how


@settings(max_examples=200, deadline=None)
@given(batches())
def test_equals_the_reference_bit_for_bit(case) -> None:
    images, how = case
    want = reference.mix_(images.clone(), **how)
    given_ = images.clone()
    got = mix_(given_, **how)
    assert same(got, want)
    assert got.data_ptr() == given_.data_ptr()


@pytest.mark.parametrize("function", [mix_, reference.mix_])
def test_by_hand(function) -> None:
    def rows() -> torch.Tensor:
        return (torch.arange(4.0)[:, None] * 10 + torch.arange(4)).view(4, 1, 1, 4)

    def result(**how: object) -> list[list[float]]:
        return function(rows(), **how)[:, 0, 0].tolist()

    def cut(*columns: tuple[int, int]) -> torch.Tensor:
        return torch.tensor([[0, x0, 1, x1] for x0, x1 in columns], dtype=torch.int32)

    groups = cut((0, 2), (2, 4), (0, 4), (1, 2)).view(2, 2, 4)
    assert result(regions=groups) == [[0, 1, 22, 23], [10, 31, 12, 13]]
    assert result(weights=torch.tensor([[0.5, 0.5], [0.25, 0.75]])) == [
        [10, 11, 12, 13],
        [25, 26, 27, 28],
    ]
    around = torch.tensor([1, 2, 3, 0])  # one cycle of four
    assert result(partners=around, regions=cut((0, 1), (0, 4), (3, 4), (1, 3))) == [
        [10, 1, 2, 3],
        [20, 21, 22, 23],
        [20, 21, 22, 33],
        [30, 1, 2, 33],
    ]
    swap = torch.tensor([1, 0, 2, 3])  # a pair, and two that are their own partners
    assert result(partners=swap, weights=torch.tensor([0.5, 1.0, 0.1, 0.1])) == [
        [5, 6, 7, 8],
        [10, 11, 12, 13],
        [20, 21, 22, 23],
        [30, 31, 32, 33],
    ]


def test_matches_torchvision() -> None:
    """CutMix and MixUp of torchvision pair image i with image i - 1."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    images, labels = torch.randn(6, 3, 16, 16), torch.arange(6)
    partners = torch.arange(6).roll(1)
    for transform in (v2.MixUp(num_classes=6), v2.CutMix(num_classes=6)):
        torch.manual_seed(3)
        want, shares = transform(images, labels)
        if isinstance(transform, v2.MixUp):
            got = mix_(images.clone(), weights=shares[torch.arange(6), labels], partners=partners)
            torch.testing.assert_close(got, want)
        else:
            changed = (want != images).any(1).any(0).nonzero()
            y0, x0, y1, x1 = *changed.amin(0).tolist(), *(changed.amax(0) + 1).tolist()
            box = torch.tensor([[y0, x0, y1, x1]] * 6, dtype=torch.int32)
            assert torch.equal(mix_(images.clone(), regions=box, partners=partners), want)


IMAGES = torch.zeros(4, 3, 8, 8)
BOX = torch.tensor([[0, 0, 8, 8]] * 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("images", "how", "error", "message"),
    [
        (IMAGES, {}, ValueError, "exactly one of regions .* and weights"),
        (IMAGES, {"regions": BOX[:, None], "weights": torch.ones(4, 1)}, ValueError, "exactly one"),
        (IMAGES.double(), {"weights": torch.ones(2, 2)}, TypeError, "images has dtype"),
        (IMAGES[:, :, :0], {"weights": torch.ones(2, 2)}, ValueError, "images has shape .* 1 to 2"),
        (IMAGES[0], {"weights": torch.ones(2, 2)}, ValueError, "images has shape"),
        (IMAGES.mT, {"weights": torch.ones(2, 2)}, ValueError, "images has strides"),
        (IMAGES, {"weights": torch.ones(3, 2)}, ValueError, "images has 4 images, but weights"),
        (IMAGES, {"weights": torch.ones(2, 2).double()}, TypeError, "weights has dtype"),
        (IMAGES, {"regions": BOX[:3].view(1, 3, 4)}, ValueError, "4 images, but regions"),
        (IMAGES, {"regions": BOX.view(2, 2, 4) * 2}, ValueError, r"regions\[0, 0\] is"),
        (IMAGES, {"regions": BOX * 2, "partners": torch.arange(4)}, ValueError, r"regions\[0\] is"),
        (IMAGES, {"regions": BOX, "partners": torch.tensor([0, 1, 1, 2])}, ValueError,
         r"partners\[2\] is 1, expected a permutation of 0 .. 3"),
        (IMAGES, {"regions": BOX, "partners": torch.arange(1, 5)}, ValueError, "permutation"),
        (IMAGES, {"regions": BOX, "partners": torch.arange(4).int()}, TypeError, "partners has"),
    ],
)  # fmt: skip
def test_bad_input_is_named(images, how, error, message) -> None:
    with pytest.raises(error, match=message):
        mix_(images, **how)


@pytest.mark.parametrize(
    "how",
    [
        {"regions": BOX.view(2, 2, 4)},
        {"weights": torch.full((2, 2), 0.5)},
        {"regions": BOX, "partners": torch.tensor([1, 0, 3, 2])},
    ],
    ids=["cut", "blend", "cycles"],
)
def test_opcheck(how) -> None:
    arguments = [how.get(name) for name in ("regions", "weights", "partners")]
    torch.library.opcheck(torch.ops.mixpipe.mix_.default, (torch.randn(4, 3, 8, 8), *arguments))


def test_compiles_without_a_graph_break() -> None:
    weights = torch.full((2, 2), 0.5)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def mixed(images: torch.Tensor) -> torch.Tensor:
        return mix_(images * 2, weights=weights) + 1

    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(mixed(images), mix_(images * 2, weights=weights) + 1)


def test_no_gradient_is_lost_in_silence() -> None:
    features = torch.ones(4, 3, 8, 8, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="images requires grad, and mix_ has no gradient"):
        mix_(features, weights=torch.full((2, 2), 0.5))
    mix_(features.detach().clone(), weights=torch.full((2, 2), 0.5))
    with torch.inference_mode():
        mix_(torch.ones(4, 3, 8, 8), weights=torch.full((2, 2), 0.5))


def test_autograd_notices_images_that_it_has_kept() -> None:
    images, weight = torch.randn(4, 3, 8, 8), torch.ones(3, 1, 1, requires_grad=True)
    loss = (images * weight).square().sum()
    mix_(images, weights=torch.full((2, 2), 0.5))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
