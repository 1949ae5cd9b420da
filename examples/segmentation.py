"""Segmentation on composites: masks are composed by the same regions as the pixels.

    python examples/segmentation.py --epochs 8

The embedded images serve as data: a pixel that is not black belongs to its image's class, the rest
is background. The loss is taken per pixel; its mean over each constituent's region goes into the
loss table, so that the easy samples are the ones mixed, as in classification.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import mixpipe

SIZE = (28, 28)
SCALE = {"mean": (0.286,) * 3, "std": (0.353,) * 3}


@dataclass(frozen=True)
class Masks:
    """The masks of a store's samples, by id."""

    store: mixpipe.Store

    def __call__(self, sample: int) -> np.ndarray:
        """Background 0, else the image's class + 1."""
        encoded = self.store.encoded([sample])[0]
        grey = np.asarray(Image.open(io.BytesIO(encoded.tobytes())))
        return (grey > 0) * (int(self.store.index.labels[sample]) + 1)


def network(classes: int) -> nn.Module:
    """Logits [B, classes, H, W]: a small U without skips."""

    def block(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())

    up = nn.Upsample(scale_factor=2, mode="bilinear")
    return nn.Sequential(
        *(block(3, 24), block(24, 48, 2), block(48, 96, 2), block(96, 96)),
        *(up, block(96, 48), up, block(48, 24), nn.Conv2d(24, classes, 1)),
    )


def train(policy: mixpipe.Policy, epochs: int, threads: int | None) -> tuple[nn.Module, int]:
    """A network trained by ``policy``, and the network inputs it took."""
    torch.manual_seed(0)
    store = mixpipe.embedded("train")
    loader = mixpipe.MixLoader(
        store, batch_size=128, size=SIZE, policy=policy, threads=threads, **SCALE
    )
    model = network(len(loader.classes) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    pool, masks = mixpipe.RegionPool(), Masks(store)
    for epoch in range(epochs):
        for step, (images, target) in enumerate(loader):
            labels = mixpipe.compose_masks(masks, target, size=SIZE)
            pixel_losses = F.cross_entropy(model(images), labels, reduction="none")
            by_sample = pool(pixel_losses.detach()[:, None], target.regions, SIZE)
            loader.table.update(target.ids, by_sample[..., 0], epoch)
            progress = (epoch + step / len(loader)) / epochs
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            optimizer.zero_grad()
            pixel_losses.mean().backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: {loader.stats.composites} network inputs so far")
    loader.close()
    return model, loader.stats.composites


@torch.inference_mode()
def mean_iou(model: nn.Module, threads: int | None) -> float:
    """Intersection over union, a mean over the classes, of the test images."""
    store = mixpipe.embedded("test")
    crop = mixpipe.CenterCrop(resize=SIZE[0])
    loader = mixpipe.MixLoader(
        store, batch_size=128, size=SIZE, train=False, crop=crop, threads=threads, **SCALE
    )
    model.eval()
    classes = len(loader.classes) + 1
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for images, target in loader:
        labels = mixpipe.compose_masks(Masks(store), target, size=SIZE)
        guess: Tensor = model(images).argmax(1)
        counts += torch.bincount((labels * classes + guess).flatten(), minlength=classes**2).view(
            classes, classes
        )
    loader.close()
    both = counts.diagonal()
    return float((both / (counts.sum(0) + counts.sum(1) - both)).mean())


def main() -> None:
    """Train plain, and on composites."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--speedup", type=float, default=1.6)
    parser.add_argument("--threads", type=int, help="decoding threads [one a core]")
    options = parser.parse_args()
    tiers = [mixpipe.Tier(2, mixpipe.MeanRule(1.0)), mixpipe.Tier(4, mixpipe.MeanRule(0.3))]
    mixed = mixpipe.MixTrain(speedup=options.speedup, epochs=options.epochs, tiers=tiers)
    for name, policy in (("plain", mixpipe.Plain()), ("mixed", mixed)):
        model, inputs = train(policy, options.epochs, options.threads)
        print(f"{name}: mean IoU {mean_iou(model, options.threads):.3f}, {inputs} network inputs")


if __name__ == "__main__":
    main()
