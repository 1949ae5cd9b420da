"""Train image networks on composites: plan, decode, compose, learn.

>>> import mixpipe
>>> loader = mixpipe.MixLoader(
...     "imagenet/train", batch_size=256, policy=mixpipe.MixTrain(speedup=1.6)
... )  # doctest: +SKIP
>>> model = mixpipe.separate_regions(torchvision.models.resnet50())  # doctest: +SKIP
>>> loss_fn = mixpipe.CompositeLoss(loader.table)  # doctest: +SKIP
>>> for images, target in loader:  # doctest: +SKIP
...     loss = loss_fn(model(images, target.regions), target)
"""

from mixpipe.data import (
    BytesStore,
    DataError,
    FolderStore,
    Store,
    TarStore,
    embedded,
    open_store,
)
from mixpipe.decode import DecodeError
from mixpipe.kernels import (
    compose,
    compose_resampled,
    composite_cross_entropy,
    debug,
    dense_targets,
    mix_,
)
from mixpipe.loader import MixLoader
from mixpipe.masks import compose_masks
from mixpipe.nn import CompositeLoss, RegionPool, SeparatedModel, separate_regions
from mixpipe.plan import (
    Adaptive,
    Blend,
    Budget,
    ByClass,
    BySimilarLoss,
    CenterCrop,
    CustomLayout,
    CutMix,
    CutMixBox,
    Drop,
    EpochPlan,
    Grid,
    Hysteresis,
    InfoBatch,
    Layout,
    LossTable,
    MeanRule,
    MixTrain,
    MixUp,
    Pairing,
    Plain,
    Policy,
    QuantileRule,
    RandomPairing,
    RandomResizedCrop,
    RandomRule,
    SelectiveBackprop,
    Split,
    Strips,
    Tier,
    Whole,
    layout,
)
from mixpipe.target import CompositeTarget

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "Blend",
    "Budget",
    "ByClass",
    "BySimilarLoss",
    "BytesStore",
    "CenterCrop",
    "CompositeLoss",
    "CompositeTarget",
    "CustomLayout",
    "CutMix",
    "CutMixBox",
    "DataError",
    "DecodeError",
    "Drop",
    "EpochPlan",
    "FolderStore",
    "Grid",
    "Hysteresis",
    "InfoBatch",
    "Layout",
    "LossTable",
    "MeanRule",
    "MixLoader",
    "MixTrain",
    "MixUp",
    "Pairing",
    "Plain",
    "Policy",
    "QuantileRule",
    "RandomPairing",
    "RandomResizedCrop",
    "RandomRule",
    "RegionPool",
    "SelectiveBackprop",
    "SeparatedModel",
    "Split",
    "Store",
    "Strips",
    "TarStore",
    "Tier",
    "Whole",
    "compose",
    "compose_masks",
    "compose_resampled",
    "composite_cross_entropy",
    "debug",
    "dense_targets",
    "embedded",
    "layout",
    "mix_",
    "open_store",
    "separate_regions",
]
