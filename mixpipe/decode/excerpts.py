"""Of each image only the encoded bytes that a job's ``reads`` need.

An *excerpt* is a smaller JPEG, cut out of a sample's without decoding it. That takes its *entry
points*: places in its data at which decoding can start. They are found the first time that a sample
is read, by going through its data once, and kept in a file from then on.
"""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixpipe import _C
from mixpipe.data import Store
from mixpipe.plan import DecodeJob

__all__ = ["Excerpts"]

logger = logging.getLogger(__name__)


class Excerpts:
    """Reads what jobs need of a store's images.

    Args:
        store: where the samples are.
        threads: CPU threads.
    """

    def __init__(self, store: Store, threads: int) -> None:
        self.store = store
        self.threads = threads
        index = store.index
        self._sizes = np.stack([index.heights, index.widths], axis=1).astype(np.int32, copy=False)
        self._slots = _C.point_slots(
            np.ascontiguousarray(self._sizes[:, 0]), np.ascontiguousarray(self._sizes[:, 1])
        )
        file = _open_points(store.points)
        self._maker = _C.ExcerptMaker(file)
        weakref.finalize(self._maker, os.close, file)

    def __call__(self, job: DecodeJob) -> tuple[list[NDArray[np.uint8]], NDArray[np.int32]]:
        """The encoded excerpts of a job, and (y, x) ``[P, 2]`` where they begin in their images.

        ``reads`` of an image and of its excerpt are the same pixels, bit for bit. The excerpt is
        the whole image where none can be cut: it is no baseline JPEG, it is damaged, or nearly all
        of it is read. A file that cannot be read has no bytes.
        """
        paths = self.store.paths
        return self._maker.make(
            self.store.encoded(job.ids) if paths is None else paths[job.ids],
            self._sizes[job.ids],
            np.ascontiguousarray(job.reads, dtype=np.int32),
            self._slots[job.ids],
            self.threads,
        )


def _open_points(path: Path | None) -> int:
    """The file of entry points, in memory where it cannot be on disk.

    It grows as samples are read, and has holes where none was.
    """
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            logger.warning("%s: cannot be written (%s); the next run scans anew", path, error)
    return os.memfd_create("mixpipe points")
