"""Networks and losses that keep a composite's constituents apart."""

from mixpipe.nn.loss import CompositeLoss
from mixpipe.nn.region_pool import RegionPool
from mixpipe.nn.separate import SeparatedModel, separate_regions

__all__ = ["CompositeLoss", "RegionPool", "SeparatedModel", "separate_regions"]
