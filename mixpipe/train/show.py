"""`mixpipe show`: a look at composites before training on them."""

from __future__ import annotations

import os

from mixpipe.plan import MixTrain, RandomRule, Tier
from mixpipe.train.config import TrainConfig
from mixpipe.train.policies import make_layout
from mixpipe.train.sheet import draw_sheet

__all__ = ["show"]


def show(config: TrainConfig, *, k: int, layout: str, path: str | os.PathLike[str]) -> None:
    """Draw a contact sheet of composites of ``k`` constituents.

    Args:
        config: data, canvas and seed.
        k: constituents of a composite, 2 to 4.
        layout: one of :data:`mixpipe.train.policies.LAYOUTS`.
        path: the PNG file to write.
    """
    tier = Tier(k, RandomRule(1.0), make_layout(layout))
    loader = config.train_loader(MixTrain(tiers=[tier], warmup=0, batch_by="composites"))
    try:
        images, target = next(iter(loader))
        draw_sheet(path, images, target, loader.classes, mean=loader.mean, std=loader.std)
    finally:
        loader.close()
