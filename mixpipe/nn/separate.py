"""Give an ordinary classifier one row of logits a constituent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixpipe.nn.region_pool import RegionPool, constituent_masks

__all__ = ["SeparatedModel", "separate_regions"]

logger = logging.getLogger(__name__)

Features = Callable[[Any, Tensor], Tensor]
Classify = Callable[[Any, Tensor], Tensor]


class SeparatedModel(nn.Module):
    """A classifier that answers for each constituent of a composite on its own.

    ``model(images)`` is the wrapped model, bit for bit. ``model(images, regions)`` pools each
    region of the last feature map (:class:`RegionPool`) and classifies it with the model's own
    head: logits ``[B, K, C]``. With layouts of your own it is ``model(images, target.regions,
    target.index_map)``, which is right for every layout. There are no new parameters;
    ``.model`` is the ordinary model, to evaluate, save or export.

    Made by :func:`separate_regions`.
    """

    def __init__(self, model: nn.Module, features: Features, classify: Classify) -> None:
        super().__init__()
        self.model = model
        self.pool = RegionPool()
        self._features = features
        self._classify = classify

    def forward(
        self, images: Tensor, regions: Tensor | None = None, index_map: Tensor | None = None
    ) -> Tensor:
        """Logits ``[B, C]``, or ``[B, K, C]`` with ``regions`` int32 ``[B, K, 4]``.

        ``index_map``: uint8 ``[B, H, W]`` or None, the target's.
        """
        if regions is None:
            logits: Tensor = self.model(images)
            return logits
        canvas = (images.shape[-2], images.shape[-1])
        maps = self._features(self.model, images)
        if maps.ndim == 3:  # a transformer's tokens, the class token first
            pooled = _pool_tokens(self.pool, maps, regions, canvas, index_map)
        else:
            pooled = self.pool(maps, regions, canvas, index_map)
        logits = self._classify(self.model, pooled.flatten(0, 1))
        return logits.reshape(*regions.shape[:2], -1)


def separate_regions(
    model: nn.Module, *, features: Features | None = None, classify: Classify | None = None
) -> SeparatedModel:
    """Wrap ``model`` so that it can classify every region of a composite on its own.

    Known forms: torchvision's ResNets (and what is built like them: ResNeXt, Wide ResNet),
    RegNets, ShuffleNets, MNASNets, DenseNets, ConvNeXts, Swin and Vision Transformers, and models
    of ``features``, a global average pool and a ``classifier`` (MobileNets, EfficientNet); of timm
    the convolutional networks whose head begins with a global average pool, and the Vision
    Transformers that are read from the class token. A head with batch norm is refused: constituents
    that are absent would be in its statistics.

    In a Vision Transformer a constituent that fills the canvas is read from the class token, as
    in the plain model, and one that fills a part of it from the mean of its region's tokens.

    Args:
        model: the classifier.
        features: for a model of another form: ``features(model, images) -> [B, D, h, w]``, the map
            before the global pool, or tokens ``[B, 1 + h w, D]``, the class token first and the
            others those of a grid in the canvas's proportions.
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
    for name, fits, known_features, known_classify in _FORMS:
        if fits(model):
            logger.debug("%s is taken for a %s", type(model).__name__, name)
            return SeparatedModel(model, known_features, known_classify)
    raise TypeError(
        f"separate_regions: {type(model).__name__} has none of the known forms "
        f"({', '.join(name for name, *_ in _FORMS)}); pass features= and classify=, or "
        "train without separated regions (--no-separate)"
    )


def _has(*names: str) -> Callable[[nn.Module], bool]:
    """Whether a model has all these attributes."""
    return lambda model: all(hasattr(model, name) for name in names)


def _is_from(package: str, model: nn.Module) -> bool:
    """Whether its class is that package's, or made of one of its classes."""
    return any(kind.__module__.split(".")[0] == package for kind in type(model).__mro__)


def _torchvisions(*names: str) -> Callable[[nn.Module], bool]:
    """Whether a model of torchvision has all these attributes, which others may have as well."""
    return lambda model: _is_from("torchvision", model) and _has(*names)(model)


def _has_batch_norm(module: object) -> bool:
    """Then absent constituents, of which a head classifies something too, would be counted."""
    kind = nn.modules.batchnorm._BatchNorm
    return isinstance(module, nn.Module) and any(isinstance(m, kind) for m in module.modules())


def _first_of_head(model: Any) -> nn.Module | None:
    """Of ``features``, a pool that leaves one cell, ``classifier``: where the latter begins."""
    if not _has("features", "classifier")(model) or _has_batch_norm(model.classifier):
        return None
    pool = getattr(model, "avgpool", None)
    if pool is not None and not isinstance(pool, nn.AdaptiveAvgPool2d):
        return None
    if getattr(pool, "output_size", 1) not in (1, (1, 1)):  # VGG's is 7 x 7
        return None
    layers = [layer for layer in _leaves(model.classifier) if not isinstance(layer, nn.Dropout)]
    return layers[0] if layers else None


def _is_stacked(model: nn.Module) -> bool:
    """A head of linear layers."""
    return isinstance(_first_of_head(model), nn.Linear)


def _is_densenet(model: nn.Module) -> bool:
    """A DenseNet of torchvision, which applies a ReLU between ``features`` and pool."""
    return _is_stacked(model) and hasattr(model.features, "norm5")


def _is_convnext(model: nn.Module) -> bool:
    """A ConvNeXt of torchvision, which normalises what was pooled."""
    return _is_from("torchvision", model) and isinstance(_first_of_head(model), nn.LayerNorm)


def _is_timm(model: Any) -> bool:
    """A convolutional network of timm whose head begins with a global average pool."""
    if not _is_from("timm", model) or not _has("forward_features", "forward_head")(model):
        return False
    # Swin's maps have their channels last; VGG and LowFormer have layers before the pool.
    before = hasattr(model, "pre_logits") or hasattr(model, "in_conv")
    if getattr(model, "output_fmt", "NCHW") != "NCHW" or before:
        return False
    if any(_has_batch_norm(getattr(model, name, None)) for name in _TIMM_HEADS):
        return False
    pool = getattr(model, "global_pool", None)
    if not isinstance(pool, nn.Module):  # of some, the pool's name: it is in the head
        pool = next(iter(getattr(model, "head", nn.Identity()).children()), None)
    return getattr(pool, "pool_type", None) in ("avg", "fast")


# Where timm's networks have what follows the pool.
_TIMM_HEADS = ("conv_head", "norm_head", "classifier", "fc", "head")


def _is_timm_transformer(model: Any) -> bool:
    """A Vision Transformer of timm, read from its class token, the only token in front.

    What is built like it (CaiT, XCiT) gives the class token layers that the others have not.
    """
    names = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("timm.")]
    return (
        "VisionTransformer" in names
        and model.global_pool == "token"
        and model.num_prefix_tokens == 1
        # Dropped patches leave no map.
        and isinstance(getattr(model, "patch_drop", nn.Identity()), nn.Identity)
    )


def _leaves(module: Any) -> list[nn.Module]:
    return [part for part in module.modules() if not list(part.children())]


def _pool_tokens(
    pool: RegionPool,
    tokens: Tensor,
    regions: Tensor,
    canvas: tuple[int, int],
    index_map: Tensor | None,
) -> Tensor:
    """Pool tokens ``[B, 1 + h w, D]`` by region; the whole canvas is the class token's."""
    count = tokens.shape[1] - 1
    rows = round((count * canvas[0] / canvas[1]) ** 0.5)
    if rows == 0 or count % rows:
        raise ValueError(
            "features: expected a class token and those of a grid in the canvas's proportions, "
            f"{canvas[0]} × {canvas[1]}, got {tokens.shape[1]} tokens"
        )
    maps = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, rows, count // rows)
    pooled: Tensor = pool(maps, regions, canvas, index_map)
    y0, x0, y1, x1 = regions.unbind(-1)
    is_whole = (y0 == 0) & (x0 == 0) & (y1 == canvas[0]) & (x1 == canvas[1])
    if index_map is not None:  # a bounding box may span the canvas and show little of it
        is_whole &= constituent_masks(index_map, regions.shape[1]).flatten(2).all(-1)
    is_whole |= (regions == 0).all(-1)
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


def _densenet_features(model: Any, images: Tensor) -> Tensor:
    return torch.relu(model.features(images))


def _stacked_classify(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.classifier(pooled)
    return logits


def _convnext_classify(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.classifier(pooled[:, :, None, None])
    return logits


def _shufflenet_features(model: Any, images: Tensor) -> Tensor:
    x = model.maxpool(model.conv1(images))
    maps: Tensor = model.conv5(model.stage4(model.stage3(model.stage2(x))))
    return maps


def _mnasnet_features(model: Any, images: Tensor) -> Tensor:
    maps: Tensor = model.layers(images)
    return maps


def _swin_features(model: Any, images: Tensor) -> Tensor:
    maps: Tensor = model.permute(model.norm(model.features(images)))
    return maps


def _head(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.head(pooled)
    return logits


def _timm_features(model: Any, images: Tensor) -> Tensor:
    maps: Tensor = model.forward_features(images)
    return maps


def _timm_classify(model: Any, pooled: Tensor) -> Tensor:
    # The average of one cell is the cell: so what follows the pool need not be known.
    logits: Tensor = model.forward_head(pooled[:, :, None, None])
    return logits


def _timm_classify_token(model: Any, pooled: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(pooled[:, None])
    return logits


# The first that fits is taken.
_FORMS: list[tuple[str, Callable[[nn.Module], bool], Features, Classify]] = [
    ("timm network", _is_timm, _timm_features, _timm_classify),
    ("timm Vision Transformer", _is_timm_transformer, _timm_features, _timm_classify_token),
    ("ResNet", _has("conv1", "bn1", "relu", "maxpool", "layer4", "fc"), _resnet_features, _fc),
    ("RegNet", _has("stem", "trunk_output", "fc"), _regnet_features, _fc),
    (
        "Vision Transformer",
        _has("_process_input", "class_token", "encoder", "heads"),
        _vit_features,
        _heads,
    ),
    ("ShuffleNet", _torchvisions("stage4", "conv5", "fc"), _shufflenet_features, _fc),
    ("MNASNet", _torchvisions("layers", "classifier"), _mnasnet_features, _stacked_classify),
    (
        "Swin Transformer",
        _torchvisions("features", "norm", "permute", "head"),
        _swin_features,
        _head,
    ),
    ("ConvNeXt", _is_convnext, _stacked_features, _convnext_classify),
    ("DenseNet", _is_densenet, _densenet_features, _stacked_classify),
    ("features and classifier", _is_stacked, _stacked_features, _stacked_classify),
]
