"""Make the images that come with the package from the original Fashion-MNIST files.

    python scripts/make_embedded.py /usr/share/datasets/fashion-mnist

The folder is that of Debian's package dataset-fashion-mnist, or any with the four original files
(train-images-idx3-ubyte.gz, ...). Of each class the first 1,000 images of the training file and
the first 200 of the test file are taken, so that the result has no randomness in it. Pixels are
stored uncompressed in the PNG files: xz then compresses the tar better (4.7 MB against 5.6 MB),
decoding is faster, and the tar's bytes do not depend on the version of zlib.
"""

from __future__ import annotations

import argparse
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

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
SPLITS = {"train": ("train", 1000), "test": ("t10k", 200)}  # file prefix, images a class
TARGET = Path(__file__).parent.parent / "mixpipe" / "data" / "embedded" / "fashion-mnist.tar.xz"


def read_idx(path: Path, magic: int, dims: int) -> np.ndarray:
    """The array of a gzipped IDX file of bytes: magic number, dims big-endian int32, data."""
    data = gzip.decompress(path.read_bytes())
    head = np.frombuffer(data, dtype=">i4", count=1 + dims)
    if head[0] != magic:
        raise SystemExit(f"{path}: expected an IDX file with magic number {magic}, got {head[0]}")
    return np.frombuffer(data, dtype=np.uint8, offset=head.nbytes).reshape(head[1:])


def encode(image: np.ndarray) -> bytes:
    """A grey image as PNG, its pixels stored."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return file.getvalue()


def build(folder: Path) -> bytes:
    """The tar: SPLIT/CLASS/NUMBER.png, where NUMBER is the image's place in the original file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT) as tar:
        for split, (prefix, count) in SPLITS.items():
            images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", 2051, 3)
            labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 2049, 1)
            for label, name in sorted(enumerate(CLASSES), key=lambda item: item[1]):
                for i in np.flatnonzero(labels == label)[:count]:
                    data = encode(images[i])
                    member = tarfile.TarInfo(f"{split}/{name}/{i:05d}.png")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def main() -> None:
    """Write the compressed tar into the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the four original files are")
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    tar = build(options.folder)
    part = options.output.with_suffix(".part")
    part.write_bytes(lzma.compress(tar, preset=9 | lzma.PRESET_EXTREME))
    part.replace(options.output)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, {len(tar):,} expanded")


if __name__ == "__main__":
    main()
