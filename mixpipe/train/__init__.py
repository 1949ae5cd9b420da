"""Training runs: what `mixpipe train` does."""

from mixpipe.train.compare import compare, comparison_figures
from mixpipe.train.config import TrainConfig
from mixpipe.train.policies import PolicyOptions, make_policy
from mixpipe.train.profile import Profile, profile
from mixpipe.train.run import EpochMetrics, RunSummary, Trainer
from mixpipe.train.show import show

__all__ = [
    "EpochMetrics",
    "PolicyOptions",
    "Profile",
    "RunSummary",
    "TrainConfig",
    "Trainer",
    "compare",
    "comparison_figures",
    "make_policy",
    "profile",
    "show",
]
