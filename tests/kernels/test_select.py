import numpy as np
import pytest
import torch
from hypothesis import given, settings
from kernel_cases import tables

from mixpipe.kernels import select_lowest

LOSSES = torch.tensor([3.0, 1.0, float("nan"), 2.0, 0.5, float("inf"), -1e-9, 1.0])
EPOCHS = torch.tensor([0, 4, 1, 1, -1, 2, 3, 0], dtype=torch.int32)


def taken(rule: str, *factors: float, **how: object) -> list[list[int]]:
    selection = select_lowest(LOSSES, EPOCHS, rule, factors, **how)
    assert selection.counts == selection.masks.sum(1).tolist()
    assert selection.ranked == 5
    assert selection.mean == pytest.approx(1.4)
    return [np.flatnonzero(mask).tolist() for mask in selection.masks]


def test_by_hand() -> None:
    assert taken("mean", 1.0, 0.5, 0.0) == [[1, 6, 7], [6], [6]]
    assert taken("share", 0.6, 1.0, 0.0, 0.8) == [[1, 6, 7], [0, 1, 3, 6, 7], [], [1, 3, 6, 7]]
    assert taken("budget", 1.0, savings=[0.5], target=1.6) == [[1, 6, 7]]
    assert taken("budget", 1.0, savings=[0.5], target=9.0) == [[0, 1, 3, 6, 7]]
    assert taken("budget", 1.0, savings=[0.5], target=0.0) == [[]]
    # Twice the mean for the first tier: 2 of it and 1 of the second save 2 x 0.5 + 1 x 0.25.
    assert taken("budget", 1.0, 0.1, savings=[0.5, 0.25], target=1.75) == [[1, 6, 7], [6]]


def test_equal_losses_are_told_apart_at_random() -> None:
    losses, epochs = torch.ones(1000), torch.zeros(1000, dtype=torch.int32)
    first = select_lowest(losses, epochs, "share", [0.3], seed=1).masks[0]
    assert first.sum() == 300
    assert 100 < first[:500].sum() < 200
    assert not np.array_equal(first, select_lowest(losses, epochs, "share", [0.3], seed=2).masks[0])


def test_an_unseen_table_ranks_nothing() -> None:
    selection = select_lowest(
        torch.zeros(40), torch.full((40,), -1, dtype=torch.int32), "mean", [1]
    )
    assert (selection.ranked, selection.mean, selection.counts) == (0, 0.0, [0])
    assert selection.masks.shape == (1, 40)


@settings(max_examples=60, deadline=None)
@given(tables())
def test_what_is_taken_lies_below_what_is_left(case) -> None:
    losses, epochs, rule, factors, how = case
    selection = select_lowest(losses, epochs, rule, factors, **how)
    ranked = (epochs >= 0) & losses.isfinite()
    values = losses.clamp(min=0).numpy()
    for mask in selection.masks:
        assert not (mask & ~ranked.numpy()).any()
        left = ranked.numpy() & ~mask
        if mask.any() and left.any():
            assert values[mask].max() <= values[left].min()
    if rule == "share":
        want = [min(round(f * int(ranked.sum())), int(ranked.sum())) for f in factors]
        assert selection.counts == want
    if rule == "budget":
        assert np.dot(selection.counts, how["savings"]) <= how["target"]


@pytest.mark.parametrize(
    ("arguments", "how", "error", "message"),
    [
        ((LOSSES.double(), EPOCHS, "mean", [1.0]), {}, TypeError, "losses has dtype"),
        ((LOSSES, EPOCHS.long(), "mean", [1.0]), {}, TypeError, "epochs has dtype"),
        ((LOSSES, EPOCHS[1:], "mean", [1.0]), {}, ValueError, "epochs has shape"),
        ((LOSSES, EPOCHS, "median", [1.0]), {}, ValueError, "rule is 'median', expected one of"),
        ((LOSSES, EPOCHS, "mean", []), {}, ValueError, "factors is .*, expected 1 to 4 numbers"),
        ((LOSSES, EPOCHS, "mean", [float("nan")]), {}, ValueError, "factors is"),
        ((LOSSES, EPOCHS, "budget", [1.0]), {}, ValueError, "savings has 0 numbers"),
    ],
)
def test_bad_input_is_named(arguments, how, error, message) -> None:
    with pytest.raises(error, match=message):
        select_lowest(*arguments, **how)
