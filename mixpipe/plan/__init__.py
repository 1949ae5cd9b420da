"""Who is composed with whom: loss table, policies, layouts, crops, and batches planned in full.

    LossTable ──► Policy.plan(table, epoch, seed) ──► EpochPlan ──► batches() ──► plan_batches()

Imports numpy and torch; numba where a layout is a function, and the kernels for plans on a GPU.
"""

from .augment import CutMix, MixUp
from .batch import BatchPlan, DecodeJob, plan_batch, plan_batches
from .crops import CenterCrop, Crop, Crops, RandomResizedCrop
from .custom import CustomLayout, layout
from .epoch import Batches, BatchSlice, EpochPlan
from .layouts import (
    MAX_CONSTITUENTS,
    Blend,
    CutMixBox,
    Grid,
    Layout,
    Placement,
    Split,
    Strips,
    Whole,
    default_layout,
)
from .mixtrain import Adaptive, MixTrain
from .pairing import ByClass, BySimilarLoss, Pairing, RandomPairing
from .policy import Plain, Policy
from .prune import InfoBatch, SelectiveBackprop
from .random import Draw, hashes, uniforms
from .rules import Budget, Drop, Hysteresis, MeanRule, QuantileRule, RandomRule, Tier
from .table import LossTable, Snapshot

__all__ = [
    "MAX_CONSTITUENTS",
    "Adaptive",
    "BatchPlan",
    "BatchSlice",
    "Batches",
    "Blend",
    "Budget",
    "ByClass",
    "BySimilarLoss",
    "CenterCrop",
    "Crop",
    "Crops",
    "CustomLayout",
    "CutMix",
    "CutMixBox",
    "DecodeJob",
    "Draw",
    "Drop",
    "EpochPlan",
    "Grid",
    "Hysteresis",
    "InfoBatch",
    "Layout",
    "LossTable",
    "MeanRule",
    "MixTrain",
    "MixUp",
    "Pairing",
    "Placement",
    "Plain",
    "Policy",
    "QuantileRule",
    "RandomPairing",
    "RandomResizedCrop",
    "RandomRule",
    "SelectiveBackprop",
    "Snapshot",
    "Split",
    "Strips",
    "Tier",
    "Whole",
    "default_layout",
    "hashes",
    "layout",
    "plan_batch",
    "plan_batches",
    "uniforms",
]
