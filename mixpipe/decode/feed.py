"""What the graph asks for its next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from mixpipe.data import Store
from mixpipe.decode.excerpts import Excerpts
from mixpipe.decode.graph import Inputs
from mixpipe.plan import DecodeJob

__all__ = ["Feed"]


class _Coming(NamedTuple):
    """The next batch, in the making."""

    job: DecodeJob
    inputs: Future[Inputs]


class Feed:
    """Turns decode jobs into the graph's inputs, and keeps those that are under way.

    The pipeline calls it from ``run()``, in the caller's thread, which must not wait for files: a
    thread of its own makes the next batch's inputs while the graph decodes the one before. An error
    in making a batch ends the epoch (``StopIteration``) and waits in ``error`` until the batches
    before it are out.

    Args:
        excerpts: reads the samples.
        capacity: rectangles that the graph takes at most.

    Attributes:
        capacity: rectangles that the graph takes at most.
        under_way: jobs that the graph has and has not given back, oldest first.
        too_large: a job that waits for a graph of larger capacity.
        error: what went wrong in making a batch.
    """

    def __init__(self, excerpts: Excerpts, capacity: int) -> None:
        self.excerpts = excerpts
        self.capacity = capacity
        self.under_way: deque[DecodeJob] = deque()
        self.too_large: DecodeJob | None = None
        self.error: Exception | None = None
        self._jobs: Iterator[DecodeJob] = iter(())
        self._coming: _Coming | Exception | None = None  # None: the end, or not yet asked for
        self._thread: ThreadPoolExecutor | None = None

    def start(self, jobs: Iterable[DecodeJob]) -> None:
        """Begin with new jobs."""
        self.stop()
        self.under_way.clear()
        self._jobs = iter(jobs)

    def stop(self) -> None:
        """Hand out no more; what is under way comes out."""
        self._jobs = iter(())
        self._coming = self.too_large = self.error = None

    def close(self) -> None:
        """Stop, and end the thread; it comes back when it is needed."""
        self.stop()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def __call__(self) -> Inputs:
        """The next batch."""
        coming = self._coming or self._begin()
        self.too_large = None
        if coming is None:
            raise StopIteration
        if isinstance(coming, Exception):
            self._fail(coming)
        if len(coming.job.ids) > self.capacity:
            self._coming, self.too_large = coming, coming.job
            raise StopIteration
        self._coming = self._begin()
        try:
            inputs = coming.inputs.result()
        except Exception as error:
            self._fail(error)
        self.under_way.append(coming.job)
        return inputs

    def _fail(self, error: Exception) -> NoReturn:
        self.stop()
        self.error = error
        raise StopIteration from None

    def _begin(self) -> _Coming | Exception | None:
        """Begin with the inputs of the next job; an error is kept until that is asked for."""
        try:
            # Not by a StopIteration that is kept: its traceback would hold this epoch's last
            # batches, 30 MB, until the garbage collector looks, some epochs later.
            job = next(self._jobs, None)
            if job is not None:
                check_job(job, self.excerpts.store)
        except Exception as error:
            self._jobs = iter(())
            return error
        if job is None:
            return None
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="mixpipe-feed")
        return _Coming(job, self._thread.submit(self._inputs, job))

    def _inputs(self, job: DecodeJob) -> Inputs:
        encoded, origins = self.excerpts(job)
        return Inputs(
            encoded=encoded,
            ids=_packed(job.ids, np.int64),
            start=_packed(job.reads[:, :2] - origins, np.int32),
            shape=_packed(job.reads[:, 2:] - job.reads[:, :2], np.int32),
        )


def _packed(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Row by row in memory, which DALI insists on."""
    return np.ascontiguousarray(array, dtype=dtype)


def check_job(job: DecodeJob, store: Store) -> None:
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
