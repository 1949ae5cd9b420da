"""Make the images that come with the package from the original Fashion-MNIST files.

    python scripts/make_embedded.py /usr/share/datasets/fashion-mnist

Of each class the first 1,000 images of the training file and the first 200 of the test file are
taken.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

from mixpipe.bench.fashion import build_tar
from mixpipe.report import open_beside

SPLITS = {"train": ("train", slice(1000)), "test": ("t10k", slice(200))}
TARGET = Path(__file__).parent.parent / "mixpipe" / "data" / "embedded" / "fashion-mnist.tar.xz"


def main() -> None:
    """Write the compressed tar into the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the four original files are")
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    tar = build_tar(options.folder, SPLITS)
    with open_beside(options.output) as file:
        file.write(lzma.compress(tar, preset=9 | lzma.PRESET_EXTREME))
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, {len(tar):,} expanded")


if __name__ == "__main__":
    main()
