"""An image folder: one folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mixpipe.data.cache import cached, points_file
from mixpipe.data.headers import read_sizes, readable
from mixpipe.data.index import DataError, Index, Names
from mixpipe.data.listing import Files, Listing, arrange, is_image

__all__ = ["FolderStore"]

_THREADS = 16  # the work is waiting for the file system


class FolderStore:
    """Images in ``root/CLASS/.../*.jpg``, numbered as torchvision's ``ImageFolder`` does.

    Symbolic links are followed. Every opening lists the folder with the files' sizes and times;
    only when these changed since the last time are the images' headers read again. A JPEG or PNG
    that is cut short counts as unreadable; one that is cut short after it was opened here may be
    decoded to a partly grey picture.

    Args:
        root: the folder.
        classes: the training set's class names, so that labels mean the same here.
        cache_dir: where index and entry points are kept; by default in the user's cache folder.
        skip_unreadable: leave out images that cannot be read, rather than raise.
        progress: show a bar while headers are read.

    Raises:
        DataError: no such folder, no class, a class without images or unknown in ``classes``, an
            unreadable image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        skip_unreadable: bool = False,
        progress: bool = True,
    ) -> None:
        self.root = Path(root).absolute()
        listing = _list(self.root)
        prefix = np.frombuffer(os.fsencode(self.root) + b"/", dtype=np.uint8)
        matrix = np.hstack(
            [np.broadcast_to(prefix, (len(listing.names), len(prefix))), listing.names.matrix]
        )

        def open_image(i: int) -> BinaryIO:
            return open(matrix[i].tobytes().rstrip(b"\0"), "rb", opener=_at_once)

        sizes = cached(
            f"folder {self.root}",
            _state(listing),
            lambda: read_sizes(len(matrix), open_image, what=self.root.name, progress=progress),
            cache_dir,
        )
        ids = readable(
            sizes["heights"],
            sizes["widths"],
            open_image,
            names=listing.names,
            where=str(self.root),
            skip_unreadable=skip_unreadable,
        )
        names = Names(matrix, start=len(prefix))
        index = Index(listing.classes, listing.labels, sizes["heights"], sizes["widths"], names)
        if len(ids) < len(index):
            index = index.take(ids)
        if classes is not None:
            index = index.with_classes(classes, str(self.root))
        self.index = index
        self.points = points_file(index.fingerprint, cache_dir)

    @property
    def paths(self) -> NDArray[np.uint8]:
        """Absolute paths, uint8 ``[N, L]``, padded with zeros."""
        return self.index.names.matrix

    def name(self, sample: int) -> str:
        """The sample's absolute path."""
        return f"{self.root}/{self.index.names[sample]}"

    def encoded(self, ids: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The files' bytes, each a uint8 vector."""
        return [np.fromfile(self.name(int(i)), dtype=np.uint8) for i in ids]


def _list(root: Path) -> Listing:
    """The images below ``root``, with their sizes and modification times (ns)."""
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; expected {root}/CLASS/*.jpg")
    with os.scandir(root) as entries:
        classes = {entry.name for entry in entries if entry.is_dir()}
    folders: dict[str, Files] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(lambda name: _walk(root, name), sorted(classes)):
            folders.update(found)
    return arrange(folders, classes, str(root))


def _walk(root: Path, folder: str) -> dict[str, Files]:
    """The image files of a folder and of those in it, by folder relative to ``root``."""
    files = Files()
    found = {folder: files}
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found.update(_walk(root, f"{folder}/{entry.name}"))
            elif is_image(entry.name):
                try:
                    stat = entry.stat()
                except OSError:  # a dangling link: an unreadable image, and reported as one
                    files.add(entry.name, 0, 0)
                else:
                    files.add(entry.name, stat.st_size, stat.st_mtime_ns)
    return found


def _at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe too, without waiting for who writes into it, and it is empty then."""
    return os.open(path, flags | os.O_NONBLOCK)


def _state(listing: Listing) -> str:
    """Changes when a file comes, goes or is written."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(listing.names.matrix.data)
    digest.update(listing.facts.data)
    return digest.hexdigest()
