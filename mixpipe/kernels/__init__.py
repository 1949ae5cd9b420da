"""The kernels as functions of torch tensors.

Each is a ``torch.library`` operator with a CPU kernel, a CUDA kernel and a fake implementation, and
has a twin of the same signature in :mod:`mixpipe.kernels.reference`, in plain torch.
"""

from mixpipe.kernels import cuda  # noqa: F401 - registers the CUDA kernels
from mixpipe.kernels.compose import compose
from mixpipe.kernels.cross_entropy import composite_cross_entropy
from mixpipe.kernels.debug import debug
from mixpipe.kernels.mix import mix_
from mixpipe.kernels.rectangles import Rectangles
from mixpipe.kernels.resample import compose_resampled
from mixpipe.kernels.select import Selection, select_lowest
from mixpipe.kernels.targets import dense_targets

__all__ = [
    "Rectangles",
    "Selection",
    "compose",
    "compose_resampled",
    "composite_cross_entropy",
    "debug",
    "dense_targets",
    "mix_",
    "select_lowest",
]
