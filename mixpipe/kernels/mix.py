"""mix_: mixes a batch that somebody else loaded, in place; only the bytes that change are moved."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import FLOATING, check_tensor, dtype_number, memory_layout
from mixpipe.kernels.prepared import Prepared

_CUT, _BLEND_GROUP, _BLEND_CYCLE = range(3)


def mix_(
    images: Tensor,
    *,
    regions: Tensor | None = None,
    weights: Tensor | None = None,
    partners: Tensor | None = None,
) -> Tensor:
    """Mixes images of a batch with each other, in place.

    Without ``partners``, [kB, C, H, W] become B composites: constituent j of composite b is
    ``images[j * B + b]``. With ``partners``, N images become N composites: composite i is image i
    mixed with what ``images[partners[i]]`` was before the call, as torchvision's CutMix and MixUp
    do for ``partners = roll(1)``.

    There is no gradient: what is mixed inside a network, where gradients flow, is mixed by torch.

    In a CUDA graph, regions, weights and partners are those of the capture; for others, mix the
    graph's input before each replay.

    Args:
        images: float32, float16 or bfloat16 [N, C, H, W], contiguous or channels_last; changed.
        regions: cuts: int32 on the CPU, (y0, x0, y1, x1) in pixels, half open; [B, k, 4] (region
            j > 0 of composite b is taken from constituent j, later over earlier, everything else
            stays constituent 0) or, with partners, [N, 4] (the box taken from the partner).
        weights: blends: float32 on the CPU, [B, k] or, with partners, [N] (the share of the own
            image; the partner's is one less it).
        partners: int64 [N] on the CPU, a permutation.

    Returns:
        ``images[:B]``, or with partners ``images``.

    Raises:
        TypeError, ValueError: an argument has a wrong type, dtype, shape, device or strides, not
            exactly one of regions and weights is given, a region lies outside the images, or
            partners are no permutation.
        RuntimeError: images requires a gradient.
    """
    if torch.is_grad_enabled() and images.requires_grad:
        raise RuntimeError(
            "images requires grad, and mix_ has no gradient; mix images before the network, or "
            "images.detach()"
        )
    torch.ops.mixpipe.mix_(images, regions, weights, partners)
    if not torch.compiler.is_compiling() and not images.is_inference():
        # So that autograd notices where it has kept these images for a backward pass.
        torch.autograd.graph.increment_version(images)
    if partners is not None:
        return images
    constituents = (weights if regions is None else regions).shape[1]  # type: ignore[union-attr]
    return images[: images.shape[0] // constituents]


def _mix_cpu(images: Tensor, *how: Tensor | None) -> None:
    prepare(images, *how).run_cpu()


torch.library.define(
    "mixpipe::mix_",
    "(Tensor(a!) images, Tensor? regions, Tensor? weights, Tensor? partners) -> ()",
)
torch.library.impl("mixpipe::mix_", "cpu", _mix_cpu)
torch.library.register_fake("mixpipe::mix_", lambda *_: None)


def pack_chains(
    images: Tensor, regions: Tensor | None, weights: Tensor | None, partners: Tensor | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int]:
    """Checks the arguments; returns the bytes of chains and links (csrc/mix.h) and the mode."""
    cpu = torch.device("cpu")
    check_tensor(images, "images", dtypes=FLOATING, shape=(None, None, None, None))
    count, channels, height, width = images.shape
    if not 1 <= channels * height * width < 2**31:
        raise ValueError(
            f"images has shape {list(images.shape)}, expected 1 to 2**31 - 1 elements an image"
        )
    if (regions is None) == (weights is None):
        raise ValueError("expected exactly one of regions (a cut) and weights (a blend)")
    size = (height, width)
    if partners is not None:
        check_tensor(partners, "partners", dtypes=torch.int64, shape=(count,), device=cpu)
        if regions is not None:
            check_tensor(regions, "regions", dtypes=torch.int32, shape=(count, 4), device=cpu)
        if weights is not None:
            check_tensor(weights, "weights", dtypes=torch.float32, shape=(count,), device=cpu)
        chains, links = _C.mix_cycles(
            partners.contiguous().numpy(), _numpy(regions), _numpy(weights), size
        )
        return chains, links, _CUT if weights is None else _BLEND_CYCLE
    if regions is not None:
        check_tensor(regions, "regions", dtypes=torch.int32, shape=(None, None, 4), device=cpu)
    if weights is not None:
        check_tensor(weights, "weights", dtypes=torch.float32, shape=(None, None), device=cpu)
    given, name = (regions, "regions") if weights is None else (weights, "weights")
    assert given is not None
    batch, constituents = given.shape[:2]
    if batch * constituents != count:
        raise ValueError(
            f"images has {count} images, but {name} of shape {list(given.shape)} "
            f"need {batch} x {constituents}"
        )
    chains, links = _C.mix_groups(_numpy(regions), _numpy(weights), size)
    return chains, links, _CUT if weights is None else _BLEND_GROUP


def _numpy(tensor: Tensor | None) -> NDArray[np.generic] | None:
    return None if tensor is None else tensor.contiguous().numpy()


def prepare(
    images: Tensor,
    regions: Tensor | None,
    weights: Tensor | None,
    partners: Tensor | None,
) -> Prepared:
    """Checks the op's arguments; the table is chains, then links."""
    chains, links, mode = pack_chains(images, regions, weights, partners)

    def launch(address: int) -> _C.Launch:
        return _C.mix(
            images=images.data_ptr(),
            chains=address,
            links=address + chains.nbytes,
            num_chains=len(chains),
            channels=images.shape[1],
            size=(images.shape[2], images.shape[3]),
            mode=mode,
            dtype=dtype_number(images.dtype, "images"),
            layout=memory_layout(images, "images"),
        )

    return Prepared(np.concatenate([chains.reshape(-1), links.reshape(-1)]), launch)
