"""`mixpipe show`: a look at composites before training on them."""

from __future__ import annotations

import os
from dataclasses import replace

from mixpipe.train.config import TrainConfig
from mixpipe.train.policies import PolicyOptions, make_policy
from mixpipe.train.sheet import draw_sheet

__all__ = ["show"]


def show(config: TrainConfig, options: PolicyOptions, path: str | os.PathLike[str]) -> None:
    """Draw a contact sheet of composites, everybody mixed.

    Args:
        config: data, canvas and seed.
        options: who shares a composite, and where they lie.
        path: the PNG file to write.
    """
    everybody = replace(
        options, rule="random", threshold=1.0, warmup_epochs=0, batch_by="composites"
    )
    policy = make_policy(everybody, config.epochs, config.train_labels)
    loader = config.train_loader(policy)
    try:
        images, target = next(iter(loader))
        draw_sheet(path, images, target, loader.classes, mean=loader.mean, std=loader.std)
    finally:
        loader.close()
