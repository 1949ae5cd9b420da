"""Give an ordinary classifier one row of logits a constituent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixpipe.nn.region_pool import RegionPool

__all__ = ["SeparatedModel", "separate_regions"]

Features = Callable[[Any, Tensor], Tensor]
Classify = Callable[[Any, Tensor], Tensor]


class SeparatedModel(nn.Module):
    """A classifier that answers for each constituent of a composite on its own.

    ``model(images)`` is the wrapped model, bit for bit. ``model(images, regions)`` pools each
    region of the last feature map (:class:`RegionPool`) and classifies it with the model's own
    head: logits ``[B, K, C]``. There are no new parameters; ``.model`` is the ordinary model, to
    evaluate, save or export.

    Made by :func:`separate_regions`.
    """

    def __init__(self, model: nn.Module, features: Features, classify: Classify) -> None:
        super().__init__()
        self.model = model
        self.pool = RegionPool()
        self._features = features
        self._classify = classify

    def forward(self, images: Tensor, regions: Tensor | None = None) -> Tensor:
        """Logits ``[B, C]``, or ``[B, K, C]`` with ``regions`` int32 ``[B, K, 4]``."""
        if regions is None:
            logits: Tensor = self.model(images)
            return logits
        canvas = (images.shape[-2], images.shape[-1])
        maps = self._features(self.model, images)
        if maps.ndim == 3:  # a transformer's tokens, the class token first
            pooled = _pool_tokens(self.pool, maps, regions, canvas)
        else:
            pooled = self.pool(maps, regions, canvas)
        logits = self._classify(self.model, pooled.flatten(0, 1))
        return logits.reshape(*regions.shape[:2], -1)


def separate_regions(
    model: nn.Module, *, features: Features | None = None, classify: Classify | None = None
) -> SeparatedModel:
    """Wrap ``model`` so that it can classify every region of a composite on its own.

    Known forms: torchvision's ResNets (and what is built like them: ResNeXt, Wide ResNet,
    RegNet), models with ``features`` and ``classifier`` (MobileNetV2, EfficientNet), Vision
    Transformers, and timm's models (``forward_features`` and ``forward_head``).

    In a Vision Transformer a constituent that fills the canvas is read from the class token, as
    in the plain model, and one that fills a part of it from the mean of its region's tokens.

    Args:
        model: the classifier.
        features: ``features(model, images) -> [B, D, h, w]``, the map before the global pool, for
            a model of another form.
        classify: ``classify(model, pooled [n, D]) -> [n, C]``, what comes after the pool.

    Raises:
        TypeError: the model has none of the known forms and no functions were given.

    Example:
        >>> import torchvision
        >>> model = separate_regions(torchvision.models.resnet18(num_classes=10))
        >>> images = torch.zeros(2, 3, 64, 64)
        >>> halves = torch.tensor([[0, 0, 64, 32], [0, 32, 64, 64]], dtype=torch.int32)
        >>> model(images, halves.expand(2, 2, 4)).shape
        torch.Size([2, 2, 10])
    """
    if (features is None) != (classify is None):
        raise TypeError("separate_regions: give both features and classify, or neither")
    if features is not None and classify is not None:
        return SeparatedModel(model, features, classify)
    for has, known_features, known_classify in _FORMS:
        if all(hasattr(model, name) for name in has) and _pools_globally(model):
            return SeparatedModel(model, known_features, known_classify)
    raise TypeError(
        f"separate_regions: {type(model).__name__} has none of the known forms "
        f"({', '.join('+'.join(has) for has, _, _ in _FORMS)}); pass features= and classify="
    )


def _pools_globally(model: nn.Module) -> bool:
    """Whether the model's pool, if it is a module, leaves one cell: VGG's leaves 7 × 7."""
    size = getattr(getattr(model, "avgpool", None), "output_size", 1)
    return size in (1, (1, 1))


def _pool_tokens(
    pool: RegionPool, tokens: Tensor, regions: Tensor, canvas: tuple[int, int]
) -> Tensor:
    """Pool tokens ``[B, 1 + h w, D]`` by region; the whole canvas is the class token's."""
    count = tokens.shape[1] - 1
    rows = round((count * canvas[0] / canvas[1]) ** 0.5)
    maps = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, rows, count // rows)
    pooled: Tensor = pool(maps, regions, canvas)
    whole = torch.tensor([0, 0, *canvas], dtype=regions.dtype, device=regions.device)
    is_whole = (regions == whole).all(-1) | (regions == 0).all(-1)
    return torch.where(is_whole[..., None], tokens[:, :1], pooled)


def _resnet_features(model: Any, x: Tensor) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    maps: Tensor = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    return maps


def _regnet_features(model: Any, x: Tensor) -> Tensor:
    maps: Tensor = model.trunk_output(model.stem(x))
    return maps


def _fc(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.fc(pooled)
    return logits


def _vit_features(model: Any, images: Tensor) -> Tensor:
    x = model._process_input(images)
    class_token = model.class_token.expand(x.shape[0], -1, -1)
    tokens: Tensor = model.encoder(torch.cat([class_token, x], dim=1))
    return tokens


def _heads(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.heads(pooled)
    return logits


def _stacked_features(model: Any, images: Tensor) -> Tensor:
    maps: Tensor = model.features(images)
    return maps


def _stacked_classify(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.classifier(pooled)
    return logits


def _timm_features(model: Any, images: Tensor) -> Tensor:
    x: Tensor = model.forward_features(images)
    return x


def _timm_classify(model: Any, pooled: Tensor) -> Tensor:
    # A 1 × 1 map passes timm's global pool unchanged; a token goes to the head as it is.
    if hasattr(model, "fc_norm"):
        x = model.head(model.head_drop(model.fc_norm(pooled)))
    else:
        x = model.forward_head(pooled[..., None, None])
    logits: Tensor = x
    return logits


# Attributes that tell a form, most telling first.
_FORMS: list[tuple[tuple[str, ...], Features, Classify]] = [
    (("forward_features", "forward_head"), _timm_features, _timm_classify),
    (("conv1", "bn1", "maxpool", "layer4", "fc"), _resnet_features, _fc),
    (("stem", "trunk_output", "fc"), _regnet_features, _fc),
    (("_process_input", "class_token", "encoder", "heads"), _vit_features, _heads),
    (("features", "classifier"), _stacked_features, _stacked_classify),
]
