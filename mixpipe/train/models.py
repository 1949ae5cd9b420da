"""The networks `mixpipe train` knows by name: small ones for small images, and torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torchvision
from torch import Tensor, nn

__all__ = ["SmallResNet", "build_model", "model_names"]


class SmallResNet(nn.Module):
    """A residual network for images of 24 to 64 pixels, of the depths 6 n + 2 (He et al., 2016).

    Three stages of ``n`` basic blocks; the canvas is halved between stages, and the width doubled.

    Args:
        depth: 8, 14, 20, 26, … (6 n + 2).
        num_classes: the number of classes.
        width: channels of the first stage.

    Shape: images ``[B, 3, H, W]`` → logits ``[B, num_classes]``.
    """

    def __init__(self, depth: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth: expected 6 n + 2 (8, 14, 20, …), got {depth}")
        layers: list[nn.Module] = [_conv(3, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(_BasicBlock(channels, width << stage, stride))
                channels = width << stage
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


class _BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut; the shortcut is projected where shapes differ."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels_in, channels, stride),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            _conv(channels, channels),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _conv(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)


def _small_mobilenet(num_classes: int) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) at a third of its width, halving small images twice."""
    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2], [6, 64, 2, 1]]
    model = torchvision.models.MobileNetV2(
        num_classes, width_mult=0.75, inverted_residual_setting=stages, dropout=0.0
    )
    stem = model.features[0][0]
    stem.stride = (1, 1)  # torchvision's stem halves the image at once, too much for 28 pixels
    return cast(nn.Module, model)


def _small_vit(num_classes: int, size: int) -> nn.Module:
    """A Vision Transformer of 6 layers with patches of a seventh of the canvas."""
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=size,
        patch_size=max(size // 7, 1),
        num_layers=6,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=num_classes,
    )
    return model


_SMALL: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet8": lambda classes, _: SmallResNet(8, classes),
    "resnet14": lambda classes, _: SmallResNet(14, classes),
    "resnet20": lambda classes, _: SmallResNet(20, classes),
    "mobilenet_small": lambda classes, _: _small_mobilenet(classes),
    "vit_small": _small_vit,
}


def model_names() -> list[str]:
    """The names that :func:`build_model` takes: small models first, then torchvision's."""
    return [*_SMALL, *torchvision.models.list_models(module=torchvision.models)]


def build_model(name: str, num_classes: int, size: int) -> nn.Module:
    """The network ``name`` with fresh weights.

    Args:
        name: one of :func:`model_names`; the small ones are for images of 24 to 64 pixels.
        num_classes: the number of classes.
        size: the canvas's height and width in pixels.

    Raises:
        ValueError: no such model.
    """
    if name in _SMALL:
        return _SMALL[name](num_classes, size)
    if name not in model_names():
        raise ValueError(
            f"model: no model {name!r}; expected one of {', '.join(_SMALL)} or a torchvision "
            "classification model such as resnet50"
        )
    options = {"image_size": size} if name.startswith("vit_") else {}
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=num_classes, **options
    )
    return model
