"""The kernels as functions of torch tensors.

Each is a ``torch.library`` operator with a CPU kernel, a CUDA kernel and a fake implementation, and
has a twin of the same signature in :mod:`mixpipe.kernels.reference`, in plain torch.
"""

from mixpipe.kernels.compose import compose

__all__ = ["compose"]
