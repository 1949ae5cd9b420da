"""Encoded images that Python holds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixpipe.data.headers import image_size
from mixpipe.data.index import DataError, Index, Names

__all__ = ["BytesStore"]


class BytesStore:
    """Images as bytes objects, each an encoded file (JPEG, PNG, ...).

    Args:
        images: the encoded images.
        labels: integers, one an image.
        classes: the class names; by default "0", "1", ... up to the largest label.

    Raises:
        DataError: no images, a label that is no class, an unreadable image.
    """

    paths = None  # the samples are no files
    points = None

    def __init__(
        self,
        images: Sequence[bytes],
        labels: ArrayLike,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._images = images
        given = np.asarray(labels)
        if given.size and given.dtype.kind not in "iu":
            raise DataError(f"labels: expected integers, one an image, got {given.dtype}")
        label_array = given.astype(np.int64)
        if not len(images) or label_array.shape != (len(images),):
            raise DataError(
                f"labels: expected one for each of at least one image, got shape "
                f"{label_array.shape} for {len(images)} images"
            )
        if classes is None:
            classes = [str(i) for i in range(int(label_array.max()) + 1)]
        if label_array.min() < 0 or label_array.max() >= len(classes):
            raise DataError(
                f"labels: expected 0 to {len(classes) - 1}, got {label_array.min()} to "
                f"{label_array.max()}"
            )
        sizes = np.empty((2, len(images)), dtype=np.int32)
        i = 0
        try:
            for i, image in enumerate(images):
                sizes[:, i] = image_size(io.BytesIO(image))
        except Exception as error:  # on a broken image Pillow raises nearly anything
            raise DataError(
                f"images[{i}]: cannot be read as an image ({type(error).__name__}: {error})"
            ) from error
        names = Names.of([str(i) for i in range(len(images))])
        self.index = Index(tuple(classes), label_array, sizes[0], sizes[1], names)

    def name(self, sample: int) -> str:
        """``images[i]``."""
        return f"images[{sample}]"

    def encoded(self, ids: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The images' bytes, each a uint8 vector."""
        return [np.frombuffer(self._images[int(i)], dtype=np.uint8) for i in ids]
