"""Twelve thousand labelled images that come with the package; see README.md beside this."""

from __future__ import annotations

import hashlib
import lzma
import os
from importlib import resources

from mixpipe.data.cache import cache_folder, write_whole
from mixpipe.data.tar import TarStore

__all__ = ["embedded"]

_SPLITS = ("train", "test")


def embedded(split: str, *, cache_dir: str | os.PathLike[str] | None = None) -> TarStore:
    """A part of Fashion-MNIST: 28 x 28 grey images of clothing, ten classes, equally many each.

    The package holds the tar compressed; it is expanded once, into the cache folder.

    Args:
        split: ``"train"`` (10,000 images) or ``"test"`` (2,000 images).
        cache_dir: where tar and index are kept; by default in the user's cache folder.
    """
    if split not in _SPLITS:
        raise ValueError(f"split: expected one of {_SPLITS}, got {split!r}")
    packed = (resources.files(__name__) / "fashion-mnist.tar.xz").read_bytes()
    # Named by its content, so that another release's tar is never taken for this one.
    name = f"fashion-mnist-{hashlib.sha256(packed).hexdigest()[:16]}.tar"
    path = cache_folder(cache_dir) / name
    if not path.exists():
        try:
            with write_whole(path) as target:
                target.write(lzma.decompress(packed))
        except OSError as error:
            raise OSError(
                f"{path}: the embedded images cannot be expanded there ({error}); name another "
                "folder by cache_dir=, or by XDG_CACHE_HOME in the environment"
            ) from error
    return TarStore(path, prefix=split, cache_dir=cache_dir, progress=False)
