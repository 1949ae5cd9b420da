"""Drives the DALI graph through epochs of decode jobs."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mixpipe.data import Store
from mixpipe.decode.excerpts import Excerpts
from mixpipe.decode.feed import Feed
from mixpipe.decode.graph import build_pipeline
from mixpipe.plan import DecodeJob

__all__ = ["DecodeError", "Decoder"]

logger = logging.getLogger(__name__)

_FIRST_CAPACITY = 256


class DecodeError(RuntimeError):
    """An image could not be decoded.

    Attributes:
        sample: its id, or None where it could not be told.
    """

    def __init__(self, message: str, sample: int | None) -> None:
        super().__init__(message)
        self.sample = sample


class Decoder:
    """Decodes the pixels that a plan asks for, ``prefetch`` batches ahead.

    Only a job's ``reads`` are decoded; ``kernels.compose_resampled`` then makes its ``windows`` of
    them.

    The graph is built once and serves all epochs; it is built anew after a failure, and for a
    batch larger than any before.

    Args:
        store: where the samples are.
        device: ``"cpu"``, or the CUDA device that holds what was decoded.
        decode_device: where it is decoded: ``device`` (by default) or ``"cpu"``.
        threads: CPU threads.
        prefetch: batches under way at a time, the one that is handed out included.

    Attributes:
        decoded: images decoded since it was made.

    Raises:
        ValueError: an argument that cannot work.
    """

    def __init__(
        self,
        store: Store,
        *,
        device: torch.device | str = "cpu",
        decode_device: torch.device | str | None = None,
        threads: int = 2,
        prefetch: int = 2,
    ) -> None:
        self.store = store
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"device: expected cpu or cuda, got {device}")
        self.decode_device = torch.device(decode_device or self.device)
        if self.decode_device == torch.device(self.device.type):  # without an index: the same one
            self.decode_device = self.device
        if self.decode_device not in (torch.device("cpu"), self.device):
            raise ValueError(
                f"decode_device: expected cpu or the device {device}, got {decode_device}"
            )
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")
        if prefetch < 1:
            raise ValueError(f"prefetch: expected at least 1, got {prefetch}")
        self.threads = threads
        self.prefetch = prefetch
        self.decoded = 0
        self._excerpts = Excerpts(store, threads)
        self._feed = Feed(self._excerpts, _FIRST_CAPACITY)
        self._pipeline: Any = None
        self._running = False

    def decode(
        self, jobs: Iterable[DecodeJob]
    ) -> Generator[tuple[DecodeJob, list[Tensor]], None, None]:
        """Decode an epoch's jobs, in their order.

        Closing the generator early, by ``break``, an exception or ``close()``, takes no further
        jobs and waits for those under way; the decoder then is ready for the next epoch.

        Args:
            jobs: asked for as decoding gets to them, about ``prefetch`` ahead.

        Yields:
            The job and its P decoded ``reads``, uint8 ``[h, w, 3]`` on ``device``, on the current
            stream of a GPU. They are DALI's memory, not copied: keep them no longer than until the
            next item is asked for, or decoding ahead needs more memory.

        Raises:
            DecodeError: an image cannot be decoded; it is named.
            ValueError: a job that does not fit the store's images.
            RuntimeError: another ``decode`` of this decoder is not yet closed.
        """
        if self._running:
            raise RuntimeError("decode: another epoch is still running; close its iterator first")
        self._running = True
        self._feed.start(jobs)
        settled = True  # whether the pipeline's state is known
        try:
            while True:
                settled = False
                outputs = self._next_outputs()
                settled = True
                if outputs is None:
                    return
                yield outputs
                del outputs  # its memory is DALI's to use again
        finally:
            if settled:
                self._drain()
            else:  # after a failure DALI says "Current pipeline object is no longer valid"
                self._pipeline = None
            self._feed.stop()
            self._running = False

    def close(self) -> None:
        """Free the graph with its threads and memory; the next ``decode`` builds it anew."""
        self._pipeline = None
        self._feed.close()

    def _next_outputs(self) -> tuple[DecodeJob, list[Tensor]] | None:
        """The next batch, or None at the end."""
        feed = self._feed
        while True:
            if self._pipeline is None:
                self._pipeline = self._build()
            stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
            try:
                rectangles, ids = self._pipeline.run(stream)
            except StopIteration:
                self._pipeline.reset()
            except RuntimeError as error:
                raise self._explain(error) from error
            else:
                job = feed.under_way.popleft()
                self.decoded += len(job.ids)
                return job, _tensors(rectangles, ids, job, stream)
            if feed.error is not None:
                raise feed.error
            if feed.too_large is None:
                return None
            feed.capacity = max(2 * feed.capacity, len(feed.too_large.ids))
            self._pipeline = None

    def _build(self) -> Any:
        device = self.device
        index = device.index if device.index is not None else 0
        return build_pipeline(
            self._feed,
            max_rectangles=self._feed.capacity,
            device_id=index if device.type == "cuda" else None,
            decode_on_gpu=self.decode_device.type == "cuda",
            threads=self.threads,
            prefetch=self.prefetch,
        )

    def _drain(self) -> None:
        """Bring the pipeline to the start of an epoch.

        ``reset`` has no effect before ``StopIteration`` came out, and a stale batch would be the
        first of the next epoch: so what is under way is waited for and dropped.
        """
        self._feed.stop()
        while self._pipeline is not None:
            try:
                self._pipeline.run()
            except StopIteration:
                self._pipeline.reset()
                return
            except RuntimeError as error:
                logger.debug("a batch failed that nobody waits for: %s", error)
                self._pipeline = None

    def _explain(self, error: RuntimeError) -> DecodeError:
        """Which image it was: DALI does not say, so those under way are tried one by one."""
        jobs = [
            replace(
                job,
                ids=job.ids[i : i + 1],
                reads=job.reads[i : i + 1],
                windows=job.windows[i : i + 1],
                sizes=job.sizes[i : i + 1],
            )
            for job in self._feed.under_way
            for i in range(len(job.ids))
        ]
        with closing(Feed(self._excerpts, capacity=1)) as feed:
            feed.start(jobs)
            pipeline = build_pipeline(
                feed, max_rectangles=1, device_id=None, decode_on_gpu=False, threads=1, prefetch=1
            )
            for job in jobs:
                sample = int(job.ids[0])
                try:
                    pipeline.run()
                except RuntimeError as reason:
                    return DecodeError(
                        f"{self.store.name(sample)}: cannot be decoded "
                        f"({_fault(self.store, sample) or _reason(reason)}); repair or restore it "
                        "(a run is resumed over the same files only), or begin without it",
                        sample,
                    )
                except StopIteration:  # its bytes cannot be had
                    return DecodeError(f"{self.store.name(sample)}: {feed.error}", sample)
        return DecodeError(
            f"one of {len(jobs)} images failed ({_reason(error)}), though each of them can be "
            "decoded by itself on the CPU",
            None,
        )


def _tensors(
    rectangles: Any, ids: Any, job: DecodeJob, stream: torch.cuda.Stream | None
) -> list[Tensor]:
    """DALI's rectangles as tensors on the same memory."""
    if not np.array_equal(ids.as_array(), job.ids):
        raise RuntimeError("decode: DALI gave another batch than the oldest one under way")
    # The protocol's number for the default stream is 1.
    order = {} if stream is None else {"stream": stream.cuda_stream or 1}
    # By capsule: from_dlpack(tensor) asks for the device first and takes six times as long.
    return [from_dlpack(rectangles[i].__dlpack__(**order)) for i in range(len(job.ids))]


def _fault(store: Store, sample: int) -> str | None:
    """What Pillow has to say against an image; more than "nvImageCodec failure: '#4'"."""
    try:
        with Image.open(io.BytesIO(store.encoded([sample])[0].tobytes())) as image:
            image.load()
    except Exception as error:  # on a broken file Pillow raises nearly anything
        return f"{type(error).__name__}: {error}"
    return None


def _reason(error: RuntimeError) -> str:
    """The sentence in DALI's message that says what happened."""
    found = re.search(
        r"encountered:\s*(.*?)\s*(?:C\+\+ context|Current pipeline|$)", str(error), re.S
    )
    return found[1] if found else str(error)
