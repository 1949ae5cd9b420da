"""The DALI graph: decode only what is needed.

CPU: excerpts ─► decode `reads` ─────────────► rectangles (uint8 HWC)
GPU: excerpts ─► decode ─► slice out `reads` ─► rectangles
     or the CPU's rectangles, copied there (``decode_on_gpu=False``)
     ids ─────────────────────────────────────► ids
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Inputs", "build_pipeline"]


class Inputs(NamedTuple):
    """One batch as the graph takes it; P rectangles."""

    encoded: list[NDArray[np.uint8]]
    """Encoded images, or excerpts of them."""
    ids: NDArray[np.int64]
    """``[P]``, handed through."""
    start: NDArray[np.int32]
    """``[P, 2]`` (y, x): where decoding starts, in pixels of the excerpt."""
    shape: NDArray[np.int32]
    """``[P, 2]`` (h, w): the pixels to decode."""


def build_pipeline(
    source: Callable[[], Inputs],
    *,
    max_rectangles: int,
    device_id: int | None,
    decode_on_gpu: bool,
    threads: int,
    prefetch: int,
) -> Any:
    """A pipeline whose ``run()`` gives ``(rectangles, ids)``.

    Args:
        source: gives the next batch; ``StopIteration`` ends the epoch.
        max_rectangles: the largest batch.
        device_id: the GPU that gets the rectangles, None for the CPU.
        decode_on_gpu: it decodes too.
        threads: CPU threads.
        prefetch: batches ahead.

    Raises:
        ImportError: DALI is not installed.
    """
    dali = _dali()
    fn, types = dali.fn, dali.types
    pipeline = dali.Pipeline(
        batch_size=max_rectangles,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        # Outputs then stay valid as long as a tensor refers to them.
        exec_dynamic=True,
    )
    with pipeline:
        encoded, ids, start, shape = fn.external_source(
            source=source,
            num_outputs=len(Inputs._fields),
            batch=True,
            dtype=[types.UINT8, types.INT64, types.INT32, types.INT32],
            ndim=[1, 0, 1, 1],
        )
        decode = decode_and_slice if decode_on_gpu else decode_part
        rectangles = decode(fn, encoded, start, shape)
        if device_id is not None and not decode_on_gpu:
            rectangles = rectangles.gpu()
        pipeline.set_outputs(rectangles, ids)
    pipeline.build()
    return pipeline


# As torchvision's loader, which leaves the EXIF orientation alone, and as libjpeg, whose chroma
# upsampling nvJPEG does not do by itself.
_AS_TORCHVISION: dict[str, Any] = {"adjust_orientation": False, "jpeg_fancy_upsampling": True}


def decode_part(fn: Any, encoded: Any, start: Any, shape: Any) -> Any:
    """The pixels ``start`` to ``start + shape`` of encoded images, on the CPU."""
    return fn.decoders.image_slice(
        encoded, start=start, shape=shape, axis_names="HW", **_AS_TORCHVISION
    )


def decode_and_slice(
    fn: Any, encoded: Any, start: Any, shape: Any, *, device: str = "mixed"
) -> Any:
    """The same on a GPU, where an excerpt is decoded whole; it is little more than what is read.

    Asked for a part with this upsampling, nvJPEG before 13.2 would warn about each image, and
    leave it to the CPU: on an H200 all of them were decoded there.
    """
    whole = fn.decoders.image(encoded, device=device, **_AS_TORCHVISION)
    return fn.slice(whole, start=start, shape=shape, axis_names="HW")


def _dali() -> Any:
    """DALI, untyped: its stubs lack half of what is used here."""
    # Decoded batches, some 15 MB each and none like another, then come from DALI's own pool, not
    # from glibc's heap, which has holes of other sizes: a process that made composites of 128
    # images of 500 x 375 held 640 to 659 MiB over the epochs, and 670 to 740 without. DALI reads
    # this when it first takes memory, by default from glibc's variables, and has no argument for
    # it. What the caller has set stays.
    if not os.environ.keys() & {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"}:
        os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1M")
    try:
        return importlib.import_module("nvidia.dali")
    except ImportError as error:
        raise ImportError(
            "DALI is not installed; install mixpipe[cuda12] or mixpipe[cuda13], by the driver's "
            "CUDA version; without a GPU either will do"
        ) from error
