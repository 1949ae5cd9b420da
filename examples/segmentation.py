"""Segmentation on composites: masks are composed by the same regions as the pixels.

    python examples/segmentation.py --epochs 12

The embedded images serve as data: a pixel that is not black belongs to its image's class, the rest
is background. The loss is taken per pixel; its mean over each constituent's region goes into the
loss table, so that the easy samples are the ones mixed, as in classification.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from side_by_side import Setting, compare
from torch import Tensor, nn

import mixpipe

SIZE = (28, 28)
SCALE = {"mean": (0.286,) * 3, "std": (0.353,) * 3}


class Masks:
    """The masks of a store's samples, by id; read once."""

    def __init__(self, store: mixpipe.Store) -> None:
        self.store = store
        images = store.encoded(list(range(len(store.index))))
        self._shown = [np.asarray(Image.open(io.BytesIO(image.tobytes()))) > 0 for image in images]

    def __call__(self, sample: int) -> np.ndarray:
        """Background 0, else the image's class + 1."""
        return self._shown[sample] * (int(self.store.index.labels[sample]) + 1)


def network(classes: int) -> nn.Module:
    """Logits [B, classes, H, W]: a small encoder and decoder, at half the size to the last."""

    def block(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())

    up = nn.Upsample(scale_factor=2, mode="bilinear")
    return nn.Sequential(
        *(block(3, 16), block(16, 32, 2), block(32, 64, 2), block(64, 64)),
        *(up, block(64, 32), nn.Conv2d(32, classes, 1), up),
    )


def run(setting: Setting) -> tuple[float, int]:
    """Train, and test; the mean intersection over union in per cent, and network inputs."""
    torch.manual_seed(setting.seed)
    store = mixpipe.embedded("train")
    loader = mixpipe.MixLoader(
        store,
        batch_size=128,
        size=SIZE,
        policy=setting.policy,
        seed=setting.seed,
        threads=setting.threads,
        cache=True,
        **SCALE,
    )
    model = network(len(loader.classes) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    pool, masks = mixpipe.RegionPool(), Masks(store)
    for epoch in range(setting.epochs):
        for step, (images, target) in enumerate(loader):
            labels = mixpipe.compose_masks(masks, target, size=SIZE)
            pixel_losses = F.cross_entropy(model(images), labels, reduction="none")
            by_sample = pool(pixel_losses.detach()[:, None], target.regions, SIZE)
            loader.table.update(target.ids, by_sample[..., 0], epoch)
            progress = (epoch + step / len(loader)) / setting.epochs
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            optimizer.zero_grad()
            pixel_losses.mean().backward()
            optimizer.step()
    loader.close()
    return mean_iou(model, setting.threads), loader.stats.composites


@torch.inference_mode()
def mean_iou(model: nn.Module, threads: int | None) -> float:
    """Intersection over union in per cent, a mean over the classes, of the test images."""
    store = mixpipe.embedded("test")
    crop = mixpipe.CenterCrop(resize=SIZE[0])
    loader = mixpipe.MixLoader(
        store, batch_size=128, size=SIZE, train=False, crop=crop, threads=threads, **SCALE
    )
    model.eval()
    classes = len(loader.classes) + 1
    masks = Masks(store)
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for images, target in loader:
        labels = mixpipe.compose_masks(masks, target, size=SIZE)
        guess: Tensor = model(images).argmax(1)
        counts += torch.bincount((labels * classes + guess).flatten(), minlength=classes**2).view(
            classes, classes
        )
    loader.close()
    both = counts.diagonal()
    return 100 * float((both / (counts.sum(0) + counts.sum(1) - both)).mean())


if __name__ == "__main__":
    compare(__doc__.splitlines()[0], run, "mean IoU, %")
