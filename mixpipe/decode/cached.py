"""Images decoded once and kept in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mixpipe.decode.decoder import Decoder
from mixpipe.decode.feed import check_job
from mixpipe.kernels import Rectangles
from mixpipe.plan import DecodeJob

__all__ = ["CachedDecoder", "free_bytes"]

# Decoded at a time while the cache is filled: DALI keeps what its largest batches took.
_BATCH = 256
_BATCH_BYTES = 2**24
_CGROUPS = Path("/sys/fs/cgroup")  # where a container finds its limits


class CachedDecoder:
    """Decodes every image of a store once, whole, and serves jobs from memory.

    A job's ``reads`` are the pixels that a `Decoder` gives for it, bit for bit (but for a single
    column at the edge of a JPEG: DALI, asked for it alone, upsamples its colours otherwise).

    Args:
        decoder: decodes them.

    Raises:
        ValueError: there is no memory for the decoded images.
    """

    def __init__(self, decoder: Decoder) -> None:
        index = decoder.store.index
        self._decoder = decoder
        self._sizes = np.stack([index.heights, index.widths], axis=1).astype(np.int64)
        self._ends = np.cumsum(3 * self._sizes.prod(axis=1))
        self._pixels: Tensor | None = None
        room = _room(decoder.device)
        if index.decoded_bytes > room:
            raise ValueError(
                f"cache: {len(index)} decoded images take {index.decoded_bytes / 2**30:.1f} GiB, "
                f"and {decoder.device} has {room / 2**30:.1f} GiB of memory left; leave the cache "
                "out"
            )

    @property
    def decoded(self) -> int:
        """Images decoded since it was made."""
        return self._decoder.decoded

    def decode(
        self, jobs: Iterable[DecodeJob]
    ) -> Generator[tuple[DecodeJob, Rectangles], None, None]:
        """As `Decoder.decode`; the rectangles are views of the cache.

        The images are decoded in the first call, before it returns, and lie on the decoder's device
        until `close`.

        Raises:
            DecodeError: an image cannot be decoded, whether a job asks for it or not; it is named.
        """
        if self._pixels is None:
            self._pixels = self._decode_all()
        return self._serve(self._pixels, jobs)

    def close(self) -> None:
        """Free the images; the next `decode` decodes them anew."""
        if self._pixels is not None and self._pixels.is_cuda:
            torch.cuda.synchronize(self._pixels.device)  # whatever stream still reads them
        self._pixels = None
        self._decoder.close()

    def _serve(
        self, pixels: Tensor, jobs: Iterable[DecodeJob]
    ) -> Generator[tuple[DecodeJob, Rectangles], None, None]:
        for job in jobs:
            check_job(job, self._decoder.store)
            heights, widths = self._sizes[job.ids].T
            low, high = job.reads[:, :2], job.reads[:, 2:]
            places = np.empty((len(job.ids), 4), np.int64)
            places[:, 0] = self._ends[job.ids] - 3 * heights * widths
            places[:, 0] += 3 * (low[:, 0] * widths + low[:, 1])
            places[:, 1:3] = high - low
            places[:, 3] = 3 * widths
            yield job, Rectangles(pixels, places)

    def _decode_all(self) -> Tensor:
        decoder, count = self._decoder, len(self._ends)
        pixels = torch.empty(int(self._ends[-1]), dtype=torch.uint8, device=decoder.device)
        filled = 0
        with (
            closing(decoder.decode(self._whole())) as batches,
            # Only on a terminal, and only where it takes a while.
            tqdm(
                total=count, desc="decoding", unit="img", delay=2, leave=False, disable=None
            ) as bar,
        ):
            for job, images in batches:
                for sample, image in zip(job.ids.tolist(), images, strict=True):
                    end = int(self._ends[sample])
                    pixels[end - image.numel() : end].view(image.shape).copy_(image)
                filled += len(images)
                bar.update(len(images))
                del images, image  # DALI's memory, to use again
        if filled < count:
            raise RuntimeError("decode: the decoder was closed while the cache was filled")
        if pixels.is_cuda:  # other streams read it
            torch.cuda.current_stream(pixels.device).synchronize()
        decoder.close()
        return pixels

    def _whole(self) -> Iterator[DecodeJob]:
        """All images, whole."""
        begin = 0
        while begin < len(self._ends):
            before = int(self._ends[begin - 1]) if begin else 0
            fitting = int(np.searchsorted(self._ends, before + _BATCH_BYTES, side="right"))
            end = min(max(fitting, begin + 1), begin + _BATCH)
            sizes = self._sizes[begin:end].astype(np.int32)
            reads = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
            yield DecodeJob(np.arange(begin, end), reads, reads.astype(np.float32), sizes)
            begin = end


def _room(device: torch.device) -> int:
    """Bytes of memory that are left there."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_bytes()


def free_bytes() -> int:
    """Bytes of the host's memory that are free for use, of a container's where it has a limit."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    room = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((_CGROUPS / limit).read_text())
            taken = int((_CGROUPS / used).read_text())
            stat = (_CGROUPS / used).with_name("memory.stat").read_text()
        except (OSError, ValueError):  # another version, or the limit is "max"
            continue
        files = dict(line.split() for line in stat.splitlines()).get(reclaimable, 0)
        room = min(room, max(0, most - taken) + int(files))
    return room
