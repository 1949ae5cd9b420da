"""Multi-label targets on composites: several yes-or-no questions about each image.

    python examples/multi_label.py --epochs 12

The embedded images serve as data, and what is true of a class as its images' labels: a coat is worn
above the waist, has long sleeves and opens in front. The loss is binary cross-entropy, taken for
each constituent of a composite by itself.
"""

from __future__ import annotations

import torch
from side_by_side import Setting, compare
from torch import Tensor

import mixpipe
from mixpipe.train.models import build_model

SIZE = (28, 28)
SCALE = {"mean": (0.286,) * 3, "std": (0.353,) * 3}
MILD = mixpipe.RandomResizedCrop(scale=(0.6, 1.0))
ATTRIBUTES = {
    "footwear": ("ankle-boot", "sandal", "sneaker"),
    "leaves the toes bare": ("sandal",),
    "covers the ankle": ("ankle-boot", "trouser"),
    "worn above the waist": ("coat", "dress", "pullover", "shirt", "t-shirt"),
    "worn below the waist": ("ankle-boot", "dress", "sandal", "sneaker", "trouser"),
    "long sleeves": ("coat", "pullover", "shirt"),
    "opens in front": ("coat", "shirt"),
    "is carried": ("bag",),
}


def labels_of(store: mixpipe.Store) -> Tensor:
    """Float32 [N, attributes], 0 or 1."""
    rows = [[name in having for having in ATTRIBUTES.values()] for name in store.index.classes]
    return torch.tensor(rows, dtype=torch.float32)[torch.as_tensor(store.index.labels)]


def run(setting: Setting) -> tuple[float, int]:
    """Train, and test; per cent of the images with all answers right, and network inputs."""
    torch.manual_seed(setting.seed)
    store = mixpipe.embedded("train")
    loader = mixpipe.MixLoader(
        store,
        batch_size=128,
        size=SIZE,
        labels=labels_of(store),
        policy=setting.policy,
        crop=MILD,
        seed=setting.seed,
        threads=setting.threads,
        cache=True,
        **SCALE,
    )
    model = mixpipe.separate_regions(build_model("resnet8", len(ATTRIBUTES), SIZE))
    loss_fn = mixpipe.CompositeLoss(loader.table)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for epoch in range(setting.epochs):
        for step, (images, target) in enumerate(loader):
            loss = loss_fn(model(images, target.regions), target)
            progress = (epoch + step / len(loader)) / setting.epochs
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    loader.close()
    return all_right(model.model, setting.threads), loader.stats.composites


@torch.inference_mode()
def all_right(model: torch.nn.Module, threads: int | None) -> float:
    """Per cent of the test images with all answers right."""
    store = mixpipe.embedded("test")
    loader = mixpipe.MixLoader(
        store,
        batch_size=128,
        size=SIZE,
        train=False,
        labels=labels_of(store),
        crop=mixpipe.CenterCrop(resize=SIZE[0]),
        threads=threads,
        **SCALE,
    )
    model.eval()
    right = 0
    for images, target in loader:
        right += int(((model(images) > 0) == (target.classes[:, 0] > 0)).all(1).sum())
    loader.close()
    return 100 * right / len(store.index)


if __name__ == "__main__":
    compare(__doc__.splitlines()[0], run, "% of images with all answers right")
