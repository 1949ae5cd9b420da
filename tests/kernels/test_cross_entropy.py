import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES
from torch import Tensor

from mixpipe.kernels import composite_cross_entropy, dense_targets, reference

# Against float64. The loss is summed in float64 from float32 exponentials that are good to 1 unit
# in the last place (6e-8; to 4.5 far below the largest, where they count for nothing) and added in
# chunks of 512: 2e-6 leaves room for the worst case. The gradient is rounded to the logits' dtype
# twice (when made and when scaled); where softmax and target cancel, what is left of weights of up
# to 4 in all, times 3, is off by up to 1e-6.
LOSS = {"rtol": 2e-6, "atol": 2e-6}
GRADIENT = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float16: {"rtol": 2e-3, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-6},
}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, dict[str, object]]:
    """Logits of any dtype, [B, C] and [B, K, C], contiguous or not, and targets of both kinds."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, k = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    num_classes = draw(st.one_of(st.integers(1, 40), st.sampled_from([1000, 2085])))
    shape = (batch, k, num_classes) if draw(st.booleans()) else (batch, num_classes)
    logits = torch.randn(*shape[:-1], num_classes + 3, generator=rng) * draw(
        st.sampled_from([0.1, 3.0, 30.0])
    )
    logits = logits.to(draw(st.sampled_from(DTYPES)))[..., 1 : num_classes + 1]
    if draw(st.booleans()):
        logits = logits.contiguous()
    ignored = draw(st.sampled_from([-100, 0]))  # outside of the classes, and one of them
    weights = torch.rand(batch, k, generator=rng)
    weights[torch.rand(batch, k, generator=rng) < 0.2] = 0.0
    if draw(st.booleans()):
        targets = torch.randint(0, num_classes, (batch, k), generator=rng)
        targets[torch.rand(batch, k, generator=rng) < 0.1] = ignored
    else:
        targets = torch.rand(batch, k, num_classes, generator=rng)
        targets = targets.round() if draw(st.booleans()) else targets
    how: dict[str, object] = {"label_smoothing": draw(st.sampled_from([0.0, 0.1]))}
    how["ignore_index"] = ignored
    if draw(st.booleans()):  # few samples, so that ids repeat
        how |= {
            "ids": torch.randint(-1, 6, (batch, k), generator=rng),
            "table_losses": torch.full((6,), -1.0),
            "table_epochs": torch.full((6,), -1, dtype=torch.int32),
            "epoch": draw(st.sampled_from([7, torch.tensor(7, dtype=torch.int32)])),
        }
    return logits, targets, weights, how


def run(function, logits: Tensor, targets: Tensor, weights: Tensor, how: dict[str, object]):
    """Loss, per-constituent losses, gradient of 3 × loss, and the table."""
    logits = logits.detach().requires_grad_()
    how = {name: v.clone() if isinstance(v, Tensor) else v for name, v in how.items()}
    loss, per_constituent = function(logits, targets, weights, **how)
    (gradient,) = torch.autograd.grad(loss * 3, logits)
    return loss, per_constituent, gradient, how.get("table_losses"), how.get("table_epochs")


@settings(max_examples=200, deadline=None)
@given(cases())
def test_equals_the_reference(case) -> None:
    got, want = run(composite_cross_entropy, *case), run(reference.composite_cross_entropy, *case)
    torch.testing.assert_close(got[0], want[0], **LOSS)
    torch.testing.assert_close(got[1], want[1], **LOSS)
    assert got[2].dtype == want[2].dtype
    torch.testing.assert_close(got[2], want[2], **GRADIENT[got[2].dtype])
    if got[3] is not None:
        torch.testing.assert_close(got[3], want[3], **LOSS)
        assert torch.equal(got[4], want[4])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torch(smoothing: float) -> None:
    """With soft labels, with plain class indices, and with gradients through a model."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 10)
    x, classes, weights = torch.randn(16, 8), torch.randint(0, 10, (16, 2)), torch.rand(16, 2)
    loss, _ = composite_cross_entropy(model(x), classes, weights, label_smoothing=smoothing)
    got = torch.autograd.grad(loss, model.parameters())
    loss_ = F.cross_entropy(model(x), dense_targets(classes, weights, 10, smoothing=smoothing))
    torch.testing.assert_close(loss, loss_)
    for a, b in zip(got, torch.autograd.grad(loss_, model.parameters()), strict=True):
        torch.testing.assert_close(a, b)
    plain, _ = composite_cross_entropy(
        model(x), classes[:, :1], torch.ones(16, 1), label_smoothing=smoothing
    )
    want = F.cross_entropy(model(x), classes[:, 0], label_smoothing=smoothing)
    torch.testing.assert_close(plain, want)


def test_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    table = torch.zeros(3), torch.full((3,), -1, dtype=torch.int32)
    loss, per_constituent = composite_cross_entropy(
        logits,
        torch.tensor([[0, 1]]),
        torch.tensor([[0.25, 0.75]]),
        ids=torch.tensor([[2, 0]]),
        table_losses=table[0],
        table_epochs=table[1],
        epoch=4,
    )
    first, second = math.log(4), math.log(4 / 3)
    torch.testing.assert_close(per_constituent, torch.tensor([[first, second]]))
    torch.testing.assert_close(loss, torch.tensor(0.25 * first + 0.75 * second))
    torch.testing.assert_close(table[0], torch.tensor([second, 0.0, first]))
    assert table[1].tolist() == [4, -1, 4]


def test_the_last_of_several_entries_for_one_sample_stays() -> None:
    """And an entry that takes no part does not count as the last."""
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    targets, weights = torch.tensor([[0], [0], [-100]]), torch.ones(3, 1)
    losses, epochs = torch.zeros(1), torch.zeros(1, dtype=torch.int32)
    _, per_constituent = composite_cross_entropy(
        logits,
        targets,
        weights,
        ids=torch.zeros(3, 1, dtype=torch.int64),
        table_losses=losses,
        table_epochs=epochs,
        epoch=1,
    )
    assert losses[0] == per_constituent[1, 0]


def test_the_loss_can_be_divided_in_place() -> None:
    """As gradient accumulation does."""
    logits = torch.randn(3, 4, requires_grad=True)
    targets, weights = torch.tensor([[0, 1], [2, 3], [1, 1]]), torch.full((3, 2), 0.5)
    loss, _ = composite_cross_entropy(logits, targets, weights)
    loss /= 2
    (halved,) = torch.autograd.grad(loss, logits)
    loss, _ = composite_cross_entropy(logits, targets, weights)
    torch.testing.assert_close(2 * halved, torch.autograd.grad(loss, logits)[0])


def test_small_gradients_survive_float16() -> None:
    """A probability of 1e-6 over a batch of 256 is below float16's smallest number."""
    logits = torch.zeros(256, 2, dtype=torch.float16, requires_grad=True)
    with torch.no_grad():
        logits[:, 1] = 13.8  # p[0] = 1e-6
    loss, _ = composite_cross_entropy(
        logits, torch.ones(256, 1, dtype=torch.int64), torch.ones(256, 1)
    )
    (loss * 65536).backward()  # as a gradient scaler does
    want = torch.tensor(65536 / 256 * torch.sigmoid(torch.tensor(-13.8)).item())
    torch.testing.assert_close(logits.grad[0, 0].float(), want, rtol=2e-2, atol=0)


def test_nothing_is_kept_for_a_backward_pass_that_cannot_come() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    classes, weights = torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1)
    with torch.no_grad():
        loss, _ = composite_cross_entropy(logits, classes, weights)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, F.cross_entropy(logits, classes[:, 0]))


def test_no_second_gradient_is_wrong_in_silence() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    classes, weights = torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1)
    loss, _ = composite_cross_entropy(x.square(), classes, weights)
    with pytest.raises(RuntimeError, match="no second derivative: expected create_graph=False"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_not_a_number_is_not_hidden() -> None:
    logits = torch.tensor([[0.0, float("nan"), 1.0]] * 2)
    weights = torch.tensor([[1.0], [0.0]])
    loss, per_constituent = composite_cross_entropy(
        logits, torch.zeros(2, 1, dtype=torch.int64), weights
    )
    assert loss.isnan()
    assert per_constituent[0].isnan()
    assert per_constituent[1] == 0  # takes no part


def test_an_empty_batch() -> None:
    loss, per_constituent = composite_cross_entropy(
        torch.zeros(0, 5), torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2)
    )
    assert loss == 0
    assert per_constituent.shape == (0, 2)


GOOD = {
    "logits": torch.zeros(2, 3),
    "targets": torch.zeros(2, 2, dtype=torch.int64),
    "weights": torch.ones(2, 2),
}
TABLE = {
    "ids": torch.zeros(2, 2, dtype=torch.int64),
    "table_losses": torch.zeros(4),
    "table_epochs": torch.zeros(4, dtype=torch.int32),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(2, 3).double()}, TypeError, "logits has dtype torch.float64"),
        ({"logits": torch.zeros(3)}, ValueError, "logits has shape"),
        ({"logits": torch.zeros(2, 3, 3)}, ValueError, "targets has shape"),
        ({"targets": torch.zeros(2, 2).int()}, TypeError, "targets has dtype torch.int32"),
        ({"targets": torch.zeros(2, 2)}, ValueError, "targets has shape"),
        ({"targets": torch.full((2, 2), 3)}, ValueError, r"classes\[0, 0\] is 3, .* 0 .. 2"),
        ({"targets": torch.zeros(2, 5).long(), "weights": torch.ones(2, 5)}, ValueError,
         "targets has 5 constituents"),
        ({"weights": torch.ones(2)}, ValueError, "weights has shape"),
        ({"weights": torch.ones(2, 2).double()}, TypeError, "weights has dtype"),
        ({"ids": TABLE["ids"]}, ValueError, "together, or none of them"),
        (TABLE | {"ids": torch.full((2, 2), 4)}, ValueError, r"ids\[0, 0\] is 4, .* 0 .. 3"),
        (TABLE | {"ids": TABLE["ids"].int()}, TypeError, "ids has dtype"),
        (TABLE | {"table_losses": torch.zeros(4).half()}, TypeError, "table_losses has dtype"),
        (TABLE | {"table_epochs": torch.zeros(3).int()}, ValueError, "table_epochs has shape"),
        (TABLE | {"epoch": torch.tensor(1)}, TypeError, "epoch has dtype torch.int64"),
        (TABLE | {"epoch": torch.zeros(1).int()}, ValueError, "epoch has shape"),
        (TABLE | {"table_losses": torch.zeros(8)[::2]}, ValueError, "table_losses has strides"),
        ({"label_smoothing": 2.0}, ValueError, "label_smoothing is 2.0"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_any_work(change, error, message) -> None:
    TABLE["table_losses"].zero_()
    with pytest.raises(error, match=message):
        composite_cross_entropy(**(GOOD | change))
    assert not TABLE["table_losses"].any()


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("with_table", [False, True])
def test_opcheck(multi_label: bool, with_table: bool) -> None:
    targets = torch.rand(2, 2, 3) if multi_label else GOOD["targets"]
    table = tuple(TABLE.values()) if with_table else (None, None, None)
    torch.library.opcheck(
        torch.ops.mixpipe.scale_gradient.default, (GOOD["logits"].detach(), torch.ones(()), 0.5)
    )
    torch.library.opcheck(
        torch.ops.mixpipe.composite_cross_entropy.default,
        (GOOD["logits"], targets, GOOD["weights"], *table, 1, None, 0.1, -100, True),
    )
    torch.library.opcheck(
        torch.ops.mixpipe.scale_gradient.default, (torch.randn(2, 3), torch.tensor(2.0), 0.5)
    )


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(backend: str) -> None:
    model = torch.nn.Linear(4, 3)
    x, table = torch.randn(2, 4), {name: tensor.clone() for name, tensor in TABLE.items()}
    table["ids"] = torch.tensor([[0, 1], [2, 3]])

    def step(x: Tensor) -> Tensor:
        loss, _ = composite_cross_entropy(
            model(x), GOOD["targets"], GOOD["weights"], **table, epoch=5
        )
        return loss * 2

    want = torch.autograd.grad(step(x), model.parameters())
    losses = table["table_losses"].clone()
    table["table_losses"].zero_()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    got = torch.autograd.grad(compiled(x), model.parameters())
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(table["table_losses"], losses)
    assert table["table_epochs"].tolist() == [5] * 4
