import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, same

from mixpipe.kernels import dense_targets, reference


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 5),
    st.integers(1, 4),
    st.one_of(st.integers(1, 40), st.just(1000)),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
)
def test_equals_the_reference_bit_for_bit(batch, k, num_classes, smoothing, dtype, seed) -> None:
    rng = torch.Generator().manual_seed(seed)
    classes = torch.randint(-1, num_classes, (k, batch), generator=rng).T  # not contiguous
    weights = torch.rand(batch, k, generator=rng)
    how = {"smoothing": smoothing, "dtype": dtype}
    got = dense_targets(classes, weights, num_classes, **how)
    assert same(got, reference.dense_targets(classes, weights, num_classes, **how))


@pytest.mark.parametrize("function", [dense_targets, reference.dense_targets])
def test_by_hand(function) -> None:
    classes = torch.tensor([[0, 2], [1, 1], [3, -1]])
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    assert function(classes, weights, 4).tolist() == [
        [0.25, 0, 0.75, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
    ]
    assert function(classes, weights, 4, smoothing=0.5).tolist() == [
        [0.25, 0.125, 0.5, 0.125],
        [0.125, 0.625, 0.125, 0.125],
        [0.125, 0.125, 0.125, 0.625],
    ]


def test_is_what_cross_entropy_smooths() -> None:
    """Soft labels with smoothing give the loss of torch's own label smoothing."""
    logits, classes = torch.randn(5, 7), torch.randint(0, 7, (5, 1))
    soft = dense_targets(classes, torch.ones(5, 1), 7, smoothing=0.1)
    want = torch.nn.functional.cross_entropy(logits, classes[:, 0], label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, soft), want)


PAIR = (torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize(
    ("arguments", "how", "error", "message"),
    [
        ((PAIR[0].int(), PAIR[1], 2), {}, TypeError, "classes has dtype"),
        ((PAIR[0], PAIR[1].double(), 2), {}, TypeError, "weights has dtype"),
        ((PAIR[0], PAIR[1][:, :1], 2), {}, ValueError, "weights has shape"),
        ((PAIR[0][0], PAIR[1], 2), {}, ValueError, "classes has shape"),
        ((*PAIR, 1), {}, ValueError, r"classes\[0, 1\] is 1, expected a class in 0 .. 0"),
        ((*PAIR, 0), {}, ValueError, "num_classes is 0"),
        ((*PAIR, 2**30 + 1), {}, ValueError, "num_classes is 1073741825, expected 1 to 1073741824"),
        ((torch.zeros(2, 5).long(), torch.ones(2, 5), 2), {}, ValueError,
         "classes has 5 constituents a composite, expected at most 4"),
        ((*PAIR, 2), {"smoothing": 1.5}, ValueError, "smoothing is 1.5"),
        ((*PAIR, 2), {"dtype": torch.int64}, TypeError, "dtype is torch.int64"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments, how, error, message) -> None:
    with pytest.raises(error, match=message):
        dense_targets(*arguments, **how)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.mixpipe.dense_targets.default, (*PAIR, 5, 0.1, torch.bfloat16))


def test_compiles_without_a_graph_break() -> None:
    compiled = torch.compile(
        lambda classes, weights: dense_targets(classes, weights, 5) * 2,
        fullgraph=True,
        backend="aot_eager",
    )
    assert torch.equal(compiled(*PAIR), dense_targets(*PAIR, 5) * 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounds_to_nearest_even(dtype: torch.dtype) -> None:
    """Ties, subnormal numbers and overflow."""
    values = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 3 * 2**-25, 2**-25, 65520.0]
    weights = torch.tensor(values)[:, None]
    classes = torch.zeros(len(values), 1, dtype=torch.int64)
    rows = dense_targets(classes, weights * 8, 8, smoothing=1.0, dtype=dtype)
    assert same(rows, weights.to(dtype).expand(-1, 8).contiguous())
