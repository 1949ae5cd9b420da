"""Which images a tree of class folders holds, in torchvision's order.

Folders on disk and folders in a tar go through the same code, so that both number their samples
alike: classes by name; in a class the folders by path; in a folder the files by name
(``torchvision.datasets.ImageFolder``). Names are compared as UTF-8 bytes, which is the order of
code points.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mixpipe.data.index import DataError, Names, byte_matrix

__all__ = ["EXTENSIONS", "Files", "Listing", "arrange", "is_image"]

# The extensions torchvision.datasets.ImageFolder takes for images.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def is_image(name: str) -> bool:
    """Whether torchvision's ``ImageFolder`` would take this file for an image."""
    return name.lower().endswith(EXTENSIONS)


@dataclass
class Files:
    """The image files of one folder, not yet in order.

    Attributes:
        names: without the folder.
        facts: two int64 for each name: size and modification time on disk, offset and length in
            a tar.
    """

    names: list[bytes] = field(default_factory=list)
    facts: array[int] = field(default_factory=lambda: array("q"))

    def add(self, name: str, first: int, second: int) -> None:
        """Add one file."""
        self.names.append(os.fsencode(name))
        self.facts.extend((first, second))


@dataclass(frozen=True)
class Listing:
    """The N images of a tree in their order.

    Attributes:
        classes: sorted names.
        labels: int64 ``[N]``.
        names: relative to the tree's root, with "/".
        facts: int64 ``[N, 2]``, see ``Files``.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    names: Names
    facts: NDArray[np.int64]


def arrange(folders: Mapping[str, Files], classes: set[str], where: str) -> Listing:
    """Put folders of images in order.

    Args:
        folders: files by folder; a folder's first component is its class.
        classes: all classes there are, with images or without.
        where: the tree, for messages.

    Raises:
        DataError: there is no class, or a class without images.
    """
    ordered = sorted(classes)
    if not ordered:
        raise DataError(f"{where}: expected one folder a class (CLASS/*.jpg), found none")
    label_of = {name: label for label, name in enumerate(ordered)}
    paths = sorted(folders, key=lambda path: (label_of[path.partition("/")[0]], path))
    full = {path.partition("/")[0] for path in paths if folders[path].names}
    empty = [name for name in ordered if name not in full]
    if empty:
        raise DataError(
            f"{where}: no images in class folder {empty[0]!r}"
            + (f" and {len(empty) - 1} more" if len(empty) > 1 else "")
            + f"; expected files with one of {' '.join(EXTENSIONS)}; remove folders that are "
            "no classes"
        )
    labels, names, facts = [], [], []
    for path in paths:
        files = folders[path]
        if not files.names:
            continue
        base = byte_matrix(files.names)
        order = np.argsort(base.view(f"S{base.shape[1]}").ravel(), kind="stable")
        head = np.frombuffer(os.fsencode(path) + b"/", dtype=np.uint8)
        names.append(np.hstack([np.broadcast_to(head, (len(base), len(head))), base[order]]))
        facts.append(np.frombuffer(files.facts, dtype=np.int64).reshape(-1, 2)[order])
        labels.append(np.full(len(base), label_of[path.partition("/")[0]], dtype=np.int64))
    length = max(block.shape[1] for block in names)
    matrix = np.zeros((sum(map(len, names)), length), dtype=np.uint8)
    row = 0
    for block in names:
        matrix[row : row + len(block), : block.shape[1]] = block
        row += len(block)
    return Listing(tuple(ordered), np.concatenate(labels), Names(matrix), np.concatenate(facts))
