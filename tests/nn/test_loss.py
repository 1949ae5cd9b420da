import pytest
import torch
from torch.nn import functional as F

import mixpipe
from mixpipe import CompositeLoss, CompositeTarget, LossTable


def target_of(classes, weights, ids, epoch=0):
    classes = torch.tensor(classes)
    return CompositeTarget(
        classes,
        torch.tensor(weights),
        torch.tensor(ids),
        torch.zeros(*classes.shape, 4, dtype=torch.int32),
        epoch,
    )


PAIRS = target_of([[1, 0], [2, 2]], [[0.75, 0.25], [0.5, 0.5]], [[4, 7], [0, 2]], epoch=3)


def test_plain_inputs_have_torchs_cross_entropy():
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([[3], [1], [4], [1], [5]])
    target = target_of(classes.tolist(), [[1.0]] * 5, [[i] for i in range(5)])
    for smoothing in (0.0, 0.1):
        ours = CompositeLoss(label_smoothing=smoothing)(logits, target)
        theirs = F.cross_entropy(logits, classes[:, 0], label_smoothing=smoothing)
        torch.testing.assert_close(ours, theirs)


def test_dense_targets_give_the_same_loss():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    ours = CompositeLoss(label_smoothing=0.1)(logits, PAIRS)
    theirs = F.cross_entropy(logits, PAIRS.dense(3), label_smoothing=0.1)
    torch.testing.assert_close(ours, theirs)


def test_the_table_gets_losses_without_smoothing_and_the_epoch():
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(2))
    table = LossTable(9)
    CompositeLoss(table, label_smoothing=0.2)(logits, PAIRS)
    expected = F.cross_entropy(logits.flatten(0, 1), PAIRS.classes.flatten(), reduction="none")
    torch.testing.assert_close(table.losses[PAIRS.ids.flatten()], expected)
    assert table.epochs[PAIRS.ids.flatten()].tolist() == [3] * 4
    assert int((table.epochs >= 0).sum()) == 4


def test_evaluation_leaves_the_table_alone():
    table = LossTable(9)
    CompositeLoss(table).eval()(torch.randn(2, 3), PAIRS)
    with torch.no_grad():  # the ids are those of the validation images
        CompositeLoss(table)(torch.randn(2, 3), PAIRS)
    assert (table.epochs < 0).all()


def test_gradient_equals_autograds():
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(3))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    CompositeLoss()(ours, PAIRS).backward()
    rows = F.cross_entropy(theirs.flatten(0, 1), PAIRS.classes.flatten(), reduction="none")
    ((rows * PAIRS.weights.flatten()).sum() / 2).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_step_compiles_without_a_graph_break():
    table = LossTable(9)
    loss_fn = CompositeLoss(table)
    step = torch.compile(loss_fn, fullgraph=True, backend="aot_eager")
    logits = torch.randn(2, 2, 3, requires_grad=True)
    loss = step(logits, PAIRS)
    loss.backward()
    torch.testing.assert_close(loss, CompositeLoss()(logits, PAIRS))
    assert logits.grad is not None
    assert int((table.epochs == 3).sum()) == 4


def test_a_smoothing_that_cannot_work_is_refused():
    with pytest.raises(ValueError, match="label_smoothing: expected 0 <= value < 1, got 1.5"):
        CompositeLoss(label_smoothing=1.5)


def test_a_target_is_a_pytree_and_moves_whole():
    pairs = PAIRS._replace(flips=torch.zeros(PAIRS.ids.shape, dtype=torch.bool))
    leaves, spec = torch.utils._pytree.tree_flatten(pairs)
    assert len(leaves) == len(pairs)
    assert isinstance(torch.utils._pytree.tree_unflatten(leaves, spec), mixpipe.CompositeTarget)
    moved = pairs.to("meta")
    for was, now in zip(pairs, moved, strict=True):
        assert now.device.type == "meta" if isinstance(was, torch.Tensor) else now == was
