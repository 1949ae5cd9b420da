"""Images decoded once and kept in memory."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mixpipe.decode.decoder import Decoder
from mixpipe.decode.feed import check_job
from mixpipe.plan import DecodeJob

__all__ = ["CachedDecoder"]

_BATCH = 256


class CachedDecoder:
    """Decodes every image of a store once, whole, and serves jobs from memory.

    A job's ``reads`` are the pixels that a `Decoder` gives for it, bit for bit. The images are
    decoded when the first job is asked for, and lie on ``decoder.device`` until `close`.

    Args:
        decoder: decodes them.

    Raises:
        ValueError: the decoded images are larger than the machine's memory.
    """

    def __init__(self, decoder: Decoder) -> None:
        index = decoder.store.index
        self._decoder = decoder
        self._sizes = np.stack([index.heights, index.widths], axis=1).astype(np.int64)
        self._ends = np.cumsum(3 * self._sizes.prod(axis=1))
        self._pixels: Tensor | None = None
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if decoder.device.type == "cpu" and index.decoded_bytes > memory:
            raise ValueError(
                f"cache: {len(index)} decoded images take {index.decoded_bytes / 2**30:.0f} GiB, "
                f"and this machine has {memory / 2**30:.0f} GiB of memory; leave the cache out"
            )

    @property
    def decoded(self) -> int:
        """Images decoded since it was made."""
        return self._decoder.decoded

    def decode(
        self, jobs: Iterable[DecodeJob]
    ) -> Generator[tuple[DecodeJob, list[Tensor]], None, None]:
        """As `Decoder.decode`; the tensors are views of the cache."""
        if self._pixels is None:
            self._pixels = self._decode_all()
        pixels, store = self._pixels, self._decoder.store
        for job in jobs:
            check_job(job, store)
            widths = self._sizes[job.ids, 1]
            low, shape = job.reads[:, :2], job.reads[:, 2:] - job.reads[:, :2]
            area = 3 * self._sizes[job.ids].prod(axis=1)
            first = self._ends[job.ids] - area + 3 * (low[:, 0] * widths + low[:, 1])
            yield (
                job,
                [
                    pixels.as_strided((h, w, 3), (3 * width, 3, 1), start)
                    for (h, w), width, start in zip(
                        shape.tolist(), widths.tolist(), first.tolist(), strict=True
                    )
                ],
            )

    def close(self) -> None:
        """Free the images; the next `decode` decodes them anew."""
        self._pixels = None
        self._decoder.close()

    def _decode_all(self) -> Tensor:
        decoder, count = self._decoder, len(self._ends)
        pixels = torch.empty(int(self._ends[-1]), dtype=torch.uint8, device=decoder.device)
        with (
            closing(decoder.decode(self._whole())) as batches,
            # Only on a terminal, and only where it takes a while.
            tqdm(total=count, desc="decoding", unit="img", delay=2, disable=None) as bar,
        ):
            for job, images in batches:
                for sample, image in zip(job.ids.tolist(), images, strict=True):
                    end = int(self._ends[sample])
                    pixels[end - image.numel() : end].view(image.shape).copy_(image)
                bar.update(len(images))
        decoder.close()  # its threads and buffers are not needed any more
        if decoder.device.type == "cuda":  # other streams read them
            torch.cuda.current_stream(decoder.device).synchronize()
        return pixels

    def _whole(self) -> Iterator[DecodeJob]:
        """All images, whole."""
        for begin in range(0, len(self._sizes), _BATCH):
            sizes = self._sizes[begin : begin + _BATCH].astype(np.int32)
            reads = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
            yield DecodeJob(
                ids=np.arange(begin, begin + len(sizes)),
                reads=reads,
                windows=reads.astype(np.float32),
                sizes=sizes,
            )
