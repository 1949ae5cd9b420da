"""Fashion-MNIST's original files as a tar of PNG files, which a store opens."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CLASSES", "build_tar"]

# In the order of Fashion-MNIST's labels.
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)


def build_tar(folder: str | os.PathLike[str], splits: Mapping[str, tuple[str, slice]]) -> bytes:
    """A tar with ``SPLIT/CLASS/NUMBER.png``, NUMBER being the image's place in its original file.

    Pixels are stored uncompressed in the PNG files: that decodes faster, xz compresses the tar
    better, and its bytes do not depend on the version of zlib. There is no randomness in it.

    Args:
        folder: where the four original files are (``train-images-idx3-ubyte.gz``, …): that of
            Debian's package dataset-fashion-mnist, or where torchvision downloaded them to.
        splits: for each split the original file's prefix (``"train"`` or ``"t10k"``), and which
            of each class's images to take.

    Raises:
        FileNotFoundError: an original file is not in ``folder``.
        ValueError: a file is not what its name says.
    """
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for split, (prefix, chosen) in splits.items():
            images = _read_idx(Path(folder) / f"{prefix}-images-idx3-ubyte.gz", 2051, 3)
            labels = _read_idx(Path(folder) / f"{prefix}-labels-idx1-ubyte.gz", 2049, 1)
            for label, name in sorted(enumerate(CLASSES), key=lambda item: item[1]):
                for i in np.flatnonzero(labels == label)[chosen]:
                    data = _encode(images[i])
                    member = tarfile.TarInfo(f"{split}/{name}/{i:05d}.png")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _read_idx(path: Path, magic: int, dims: int) -> NDArray[np.uint8]:
    """The array of a gzipped IDX file of bytes: magic number, dims big-endian int32, data."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there; expected Fashion-MNIST's original files, as in Debian's package "
            "dataset-fashion-mnist or torchvision's download"
        )
    data = gzip.decompress(path.read_bytes())
    head = np.frombuffer(data, dtype=">i4", count=1 + dims)
    if head[0] != magic:
        raise ValueError(f"{path}: expected an IDX file with magic number {magic}, got {head[0]}")
    shape = [int(size) for size in head[1:]]
    return np.frombuffer(data, dtype=np.uint8, offset=head.nbytes).reshape(shape)


def _encode(image: NDArray[np.uint8]) -> bytes:
    """A grey image as PNG, its pixels stored."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return file.getvalue()
