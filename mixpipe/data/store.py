"""What every store offers, and how to open one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mixpipe.data.folder import FolderStore
from mixpipe.data.index import DataError, Index
from mixpipe.data.tar import TarStore

__all__ = ["Store", "open_store"]

_SPLITS = {"train", "val", "valid", "validation", "test"}


@runtime_checkable
class Store(Protocol):
    """Encoded images by sample id.

    Its methods are called from several threads.
    """

    @property
    def index(self) -> Index:
        """Classes, labels and sizes of the samples."""

    @property
    def paths(self) -> NDArray[np.uint8] | None:
        """The samples' files: uint8 ``[N, L]``, padded with zeros.

        None where the samples are no files of their own; ``encoded`` is asked then.
        """

    @property
    def points(self) -> Path | None:
        """The file that keeps the entry points of the samples' JPEGs from run to run.

        None: they are kept in memory, and found anew by each run.
        """

    def name(self, sample: int) -> str:
        """Where the sample lies, for messages."""

    def encoded(self, ids: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The encoded bytes of these samples, each a uint8 vector."""


def open_store(
    data: str | os.PathLike[str] | Store,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> Store:
    """Open an image folder or a tar; a store is handed back as it is.

    Args:
        data: ``PATH`` with ``PATH/CLASS/*.jpg``, or a tar of such folders.
        split: with a split, ``PATH/SPLIT/CLASS/*.jpg``.
        classes: the training set's class names, so that labels mean the same here.
        cache_dir: where the index is kept; by default in the user's cache folder.
        skip_unreadable: leave out images that cannot be read, rather than raise.
        progress: show a bar while the index is built.

    Raises:
        DataError: there is nothing there to train on; the message says what was expected.
    """
    if isinstance(data, Store):
        return data
    path = Path(data)
    if path.is_file():
        return TarStore(
            path,
            prefix=split or "",
            classes=classes,
            cache_dir=cache_dir,
            skip_unreadable=skip_unreadable,
            progress=progress,
        )
    root = path / split if split else path
    if not root.is_dir():
        there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        raise DataError(
            f"{root}: there is no such folder; expected {root}/CLASS/*.jpg"
            + (f"; {path} holds {', '.join(there[:8])}" if there else "")
        )
    folders = {entry.name for entry in root.iterdir() if entry.is_dir()}
    if "train" in folders and folders <= _SPLITS:
        raise DataError(
            f"{root}: holds splits ({', '.join(sorted(folders))}), not classes; "
            f"did you mean {root}/train?"
        )
    return FolderStore(
        root,
        classes=classes,
        cache_dir=cache_dir,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
