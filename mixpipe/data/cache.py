"""Arrays kept between runs, in the user's cache folder, without pickle."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import platformdirs
from numpy.typing import NDArray

__all__ = ["cache_folder", "cached", "points_file", "write_whole"]

logger = logging.getLogger(__name__)

_VERSION = 1  # of what the cached arrays mean; older files are built anew
Arrays = Mapping[str, NDArray[Any]]


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """``cache_dir``, or the user's cache folder for mixpipe (below ``$XDG_CACHE_HOME``)."""
    if cache_dir is not None:
        return Path(cache_dir)
    try:
        return platformdirs.user_cache_path("mixpipe")
    except RuntimeError as error:  # a user without a home
        folder = Path(tempfile.gettempdir()) / f"mixpipe-{os.getuid()}"
        logger.warning("%s; what is kept between runs goes to %s", error, folder)
        return folder


def points_file(fingerprint: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    """The file for the entry points of the index of this fingerprint."""
    return cache_folder(cache_dir) / "points" / fingerprint


@contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its place only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def cached(
    key: str,
    state: str,
    build: Callable[[], Arrays],
    cache_dir: str | os.PathLike[str] | None,
) -> dict[str, NDArray[Any]]:
    """The arrays that ``build`` makes, from the cache where they were made before.

    Args:
        key: what they belong to, such as the data's absolute path: one file in the cache a key.
        state: changes when the arrays must be built anew.
        build: makes the arrays.
        cache_dir: see ``cache_folder``.

    A cache that cannot be read or written costs time, not the run: it is logged.
    """
    name = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    path = cache_folder(cache_dir) / "index" / f"{name}.npz"
    tag = np.array([f"{_VERSION} {state}"])
    try:
        with np.load(path, allow_pickle=False) as file:
            if file["state"].tolist() == tag.tolist():
                return {name: file[name] for name in file.files if name != "state"}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: cannot be read (%s), building it anew", path, error)
    arrays = build()
    try:
        with write_whole(path) as target:
            np.savez(target, state=tag, **arrays)  # type: ignore[arg-type]  # not allow_pickle
    except OSError as error:
        logger.warning("%s: cannot be written (%s); the next run builds it again", path, error)
    return dict(arrays)
