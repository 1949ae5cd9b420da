"""Heights and widths of images, from their headers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from mixpipe.data.index import DataError, Names

__all__ = ["image_size", "read_sizes", "readable"]

logger = logging.getLogger(__name__)

# What DALI decodes; a GIF that calls itself .jpg is found here, not in the middle of an epoch.
_FORMATS = ("JPEG", "JPEG2000", "PNG", "BMP", "PPM", "TIFF", "WEBP")
# How a whole file of the format ends, give or take some padding.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_PADDING = 64
_THREADS = 16  # the work is waiting for the disk
_CHUNK = 256


def image_size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of an image in pixels, as stored.

    A JPEG or PNG that lacks its end marker is decoded in full to see whether it is truncated:
    DALI would decode a truncated JPEG to a partly grey picture without a word.

    Raises:
        Exception: whatever Pillow has to say against the file.
    """
    with Image.open(file, formats=_FORMATS) as image:
        width, height = image.size
        end = _ENDS.get(image.format or "")
        if end is not None:
            position = file.tell()
            file.seek(0, 2)
            file.seek(max(0, file.tell() - len(end) - _PADDING))
            whole = end in file.read()
            file.seek(position)
            if not whole:
                image.load()
    return height, width


def read_sizes(
    count: int, open_image: Callable[[int], BinaryIO], *, what: str, progress: bool
) -> dict[str, NDArray[np.int32]]:
    """Heights and widths of ``count`` images; 0 by 0 for those that cannot be read.

    Args:
        count: how many images there are.
        open_image: opens image i; called from several threads.
        what: the data's place, for the progress bar.
        progress: show a bar (where there is a terminal).
    """
    sizes = np.zeros((2, count), dtype=np.int32)

    def read(start: int) -> int:
        stop = min(start + _CHUNK, count)
        for i in range(start, stop):
            size = _try_size(open_image, i)
            if not isinstance(size, Exception):
                sizes[:, i] = size
        return stop - start

    logger.info("indexing %d images of %s", count, what)
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(
            total=count, desc=f"indexing {what}", unit="img", disable=None if progress else True
        ) as bar,
    ):
        for done in pool.map(read, range(0, count, _CHUNK)):
            bar.update(done)
    return {"heights": sizes[0], "widths": sizes[1]}


def readable(
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
    open_image: Callable[[int], BinaryIO],
    *,
    names: Names,
    where: str,
    skip_unreadable: bool,
) -> NDArray[np.int64]:
    """The ids of the images that can be read.

    Images that could not be read (0 by 0) are tried once more, since the sizes may come from a
    cache and the reason may have gone; ``heights`` and ``widths`` are updated in place.

    Raises:
        DataError: an image cannot be read and is not to be skipped, or none is left.
    """
    broken = np.flatnonzero(heights == 0)
    unreadable: list[int] = []
    for i in map(int, broken):
        size = _try_size(open_image, i)
        if not isinstance(size, Exception):
            heights[i], widths[i] = size
        elif skip_unreadable:
            unreadable.append(i)
        else:
            raise DataError(
                f"{where}/{names[i]}: cannot be read as an image ({type(size).__name__}: {size}); "
                f"{len(broken)} of {len(names)} images are unreadable; repair or remove them, or "
                "leave them out: open_store(..., skip_unreadable=True), --skip-unreadable"
            ) from size
    if len(unreadable) == len(names):
        raise DataError(f"{where}: none of its {len(names)} images can be read")
    if unreadable:
        logger.warning(
            "%s: left out %d unreadable images of %d, the first of them %s",
            where,
            len(unreadable),
            len(names),
            names[unreadable[0]],
        )
    return np.flatnonzero(heights > 0)


def _try_size(open_image: Callable[[int], BinaryIO], i: int) -> tuple[int, int] | Exception:
    """Height and width of image i, or why not."""
    try:
        with open_image(i) as file:
            return image_size(file)
    except Exception as error:  # on a broken file Pillow raises nearly anything
        return error
