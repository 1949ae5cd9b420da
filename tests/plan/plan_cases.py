"""Tables, policies and images that the plan's tests draw from."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from mixpipe.plan import (
    Adaptive,
    Blend,
    ByClass,
    BySimilarLoss,
    CutMix,
    CutMixBox,
    Drop,
    Grid,
    Hysteresis,
    InfoBatch,
    LossTable,
    MeanRule,
    MixTrain,
    MixUp,
    Plain,
    QuantileRule,
    RandomRule,
    SelectiveBackprop,
    Split,
    Strips,
    Tier,
)

settings.register_profile("plan", deadline=None, max_examples=40)
settings.load_profile("plan")


def loss_table(losses, unseen=()):
    """A table whose samples were seen in epoch 0, but for the unseen ones."""
    table = LossTable(len(losses))
    ids = torch.tensor([i for i in range(len(losses)) if i not in set(unseen)], dtype=torch.int64)
    values = torch.tensor(losses, dtype=torch.float32)
    table.update(ids, values[ids], epoch=0)
    return table


@st.composite
def loss_tables(draw, max_samples=120):
    """Losses with ties, zeros, huge and not finite ones, and unseen samples."""
    n = draw(st.integers(1, max_samples))
    kind = draw(st.sampled_from(["spread", "ties", "zeros"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    losses = {
        "spread": random.exponential(1.0, n),
        "ties": random.integers(0, 4, n) / 2,
        "zeros": np.zeros(n),
    }[kind]
    if draw(st.booleans()):
        losses[random.random(n) < 0.05] = random.choice([np.nan, np.inf, 1e30])
    unseen = np.flatnonzero(random.random(n) < draw(st.sampled_from([0.0, 0.2, 1.0])))
    return loss_table(losses.tolist(), unseen.tolist())


LABELS = np.arange(100_000, dtype=np.int32) * 7 % 5

# Every sample that these do not drop leads or joins exactly one composite.
ONCE = {
    "plain": Plain(),
    "in order": Plain(shuffle=False),
    "mean": MixTrain(warmup=0),
    "mean of three": MixTrain(rule=MeanRule(1.5), k=3, warmup=0),
    "quantile": MixTrain(rule=QuantileRule(0.8), k=4, warmup=0),
    "random": MixTrain(rule=RandomRule(1.0), layout=Blend(), warmup=0),
    "hysteresis": MixTrain(rule=Hysteresis(), warmup=0),
    "budget": MixTrain(speedup=1.6, warmup=0),
    "random budget": MixTrain(speedup=1.6, rule=RandomRule(), layout=CutMixBox(), warmup=0),
    "tiers": MixTrain(
        tiers=[Tier(4, MeanRule(0.3)), Tier(2, MeanRule(1.0))], adaptive=Adaptive(), warmup=0
    ),
    "tiers with a budget": MixTrain(
        speedup=2.5,
        tiers=[Tier(2), Tier(3, MeanRule(0.5), Grid()), Tier(4, MeanRule(0.3), Strips("fit"))],
        adaptive=Adaptive(exponent=2.0, min_share=0.2),
        weighting="each",
        warmup=0,
    ),
    "different classes": MixTrain(rule=QuantileRule(0.9), pairing=ByClass(LABELS), warmup=0),
    "same class": MixTrain(k=3, pairing=ByClass(LABELS, same=True), warmup=0),
    "similar loss": MixTrain(layout=Split(spread=0.2), pairing=BySimilarLoss(), warmup=0),
}
DROPPING = {
    "mixing and dropping": MixTrain(speedup=2.2, drop=Drop(0.5, 0.5), warmup=0),
    "random beside dropping": MixTrain(rule=RandomRule(0.5), drop=Drop(), warmup=0),
    "InfoBatch": InfoBatch(epochs=10),
    "InfoBatch with a budget": InfoBatch(epochs=10, speedup=1.4),
    "Selective-Backprop": SelectiveBackprop(warmup=0),
}
PAIRED = {"CutMix": CutMix(), "MixUp": MixUp(alpha=0.3)}
POLICIES = {**ONCE, **DROPPING, **PAIRED}


def image_sizes(n, seed=0):
    """Heights and widths of n images, from tiny to long."""
    random = np.random.default_rng(seed)
    return (
        random.integers(1, 400, n).astype(np.int32),
        random.integers(1, 400, n).astype(np.int32),
    )


def ks_distance(a, b):
    """Largest distance of two empirical distribution functions (Kolmogorov and Smirnov)."""
    a, b = np.sort(a), np.sort(b)
    at = np.concatenate([a, b])
    below_a = np.searchsorted(a, at, side="right") / len(a)
    below_b = np.searchsorted(b, at, side="right") / len(b)
    return np.abs(below_a - below_b).max()


def ks_bound(n, m):
    """The distance that samples of the same law exceed once in 10,000 times."""
    return 2.23 * np.sqrt((n + m) / (n * m))
