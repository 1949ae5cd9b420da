"""What the graph asks for its next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixpipe.data import Store
from mixpipe.decode.graph import Inputs
from mixpipe.plan import DecodeJob

__all__ = ["Feed"]


class Feed:
    """Turns decode jobs into the graph's inputs, and keeps those that are under way.

    The pipeline calls it from ``run()``. An error in making a batch ends the epoch
    (``StopIteration``) and waits in ``error`` until the batches before it are out.

    Args:
        store: where the samples are.

    Attributes:
        capacity: rectangles that the graph takes at most.
        under_way: jobs that the graph has and has not given back, oldest first.
        too_large: a job that waits for a graph of larger capacity.
        error: what went wrong in making a batch.
    """

    def __init__(self, store: Store, capacity: int) -> None:
        self.store = store
        self.capacity = capacity
        self.under_way: deque[DecodeJob] = deque()
        self.too_large: DecodeJob | None = None
        self.error: Exception | None = None
        self._jobs: Iterator[DecodeJob] = iter(())

    def start(self, jobs: Iterable[DecodeJob]) -> None:
        """Begin with new jobs."""
        self.stop()
        self.under_way.clear()
        self._jobs = iter(jobs)

    def stop(self) -> None:
        """Hand out no more; what is under way comes out."""
        self._jobs = iter(())
        self.too_large = self.error = None

    def __call__(self) -> Inputs:
        """The next batch."""
        try:
            job = next(self._jobs) if self.too_large is None else self.too_large
            if len(job.ids) > self.capacity:
                self.too_large = job
                raise StopIteration
            inputs = self._inputs(job)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            self._jobs = iter(())
            raise StopIteration from None
        self.too_large = None
        self.under_way.append(job)
        return inputs

    def _inputs(self, job: DecodeJob) -> Inputs:
        _check(job, self.store)
        paths = self.store.paths
        return Inputs(
            encoded=self.store.encoded(job.ids) if paths is None else paths[job.ids],
            ids=_packed(job.ids, np.int64),
            start=_packed(job.reads[:, :2], np.int32),
            shape=_packed(job.reads[:, 2:] - job.reads[:, :2], np.int32),
        )


def _packed(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Row by row in memory, which DALI insists on."""
    return np.ascontiguousarray(array, dtype=dtype)


def _check(job: DecodeJob, store: Store) -> None:
    """Raise ``ValueError`` for a job that cannot work, naming the sample."""
    index = store.index
    patches = len(job.ids)
    for name, array, columns in (
        ("reads", job.reads, 4),
        ("windows", job.windows, 4),
        ("sizes", job.sizes, 2),
    ):
        if patches == 0 or array.shape != (patches, columns):
            raise ValueError(
                f"job.{name}: expected shape ({max(patches, 1)}, {columns}) for {patches} ids of "
                f"at least one, got {array.shape}"
            )
    outside = (job.ids < 0) | (job.ids >= len(index))
    if outside.any():
        raise ValueError(
            f"job.ids: expected samples 0 to {len(index) - 1}, got {job.ids[outside][0]}"
        )
    heights, widths = index.heights[job.ids], index.widths[job.ids]
    reads, windows = job.reads, job.windows
    limits = np.stack([heights, widths], axis=1)
    wrong = (
        (reads[:, :2] < 0).any(1)
        | (reads[:, 2:] <= reads[:, :2]).any(1)
        | (reads[:, 2:] > limits).any(1)
    )
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"job.reads[{i}]: expected (y0, x0, y1, x1) within {heights[i]} x {widths[i]} pixels, "
            f"got {reads[i].tolist()} for {store.name(int(job.ids[i]))}"
        )
    # Written so that NaN is wrong too.
    right = (
        (windows[:, :2] >= reads[:, :2]).all(1)
        & (windows[:, 2:] > windows[:, :2]).all(1)
        & (windows[:, 2:] <= reads[:, 2:]).all(1)
    )
    if not right.all():
        i = int(np.flatnonzero(~right)[0])
        raise ValueError(
            f"job.windows[{i}]: expected (y0, x0, y1, x1) within reads {reads[i].tolist()}, got "
            f"{windows[i].tolist()} for {store.name(int(job.ids[i]))}"
        )
    if (job.sizes < 1).any():
        i = int(np.flatnonzero((job.sizes < 1).any(1))[0])
        raise ValueError(f"job.sizes[{i}]: expected at least 1 x 1, got {job.sizes[i].tolist()}")
