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

from mixpipe.data import BytesStore, FolderStore, Store, TarStore, embedded, open_store
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
    CenterCrop,
    CustomLayout,
    CutMix,
    CutMixBox,
    Drop,
    EpochPlan,
    Grid,
    Hysteresis,
    InfoBatch,
    LossTable,
    MeanRule,
    MixTrain,
    MixUp,
    Plain,
    Policy,
    QuantileRule,
    RandomResizedCrop,
    RandomRule,
    SelectiveBackprop,
    Split,
    Strips,
    Tier,
    layout,
)
from mixpipe.target import CompositeTarget

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "Blend",
    "Budget",
    "BytesStore",
    "CenterCrop",
    "CompositeLoss",
    "CompositeTarget",
    "CustomLayout",
    "CutMix",
    "CutMixBox",
    "DecodeError",
    "Drop",
    "EpochPlan",
    "FolderStore",
    "Grid",
    "Hysteresis",
    "InfoBatch",
    "LossTable",
    "MeanRule",
    "MixLoader",
    "MixTrain",
    "MixUp",
    "Plain",
    "Policy",
    "QuantileRule",
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
