"""Images in a tar, read in place."""

from __future__ import annotations

import io
import logging
import os
import posixpath
import tarfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mixpipe.data.cache import cached, points_file
from mixpipe.data.headers import read_sizes, readable
from mixpipe.data.index import DataError, Index, Names, byte_matrix
from mixpipe.data.listing import Files, Listing, arrange, is_image

__all__ = ["TarStore"]

logger = logging.getLogger(__name__)

_OPEN = ("_file", "_close")  # the attributes that are of this process alone


class TarStore:
    """Images in a tar of class folders, numbered as the same folder on disk would be.

    Members are found once, then read by offset, from any thread, without unpacking. The index is
    built anew when the tar's size or modification time changes.

    Args:
        path: an uncompressed tar.
        prefix: the folder in the tar that holds the class folders, such as ``"train"``.
        classes: the training set's class names, so that labels mean the same here.
        cache_dir: where index and entry points are kept; by default in the user's cache folder.
        skip_unreadable: leave out images that cannot be read, rather than raise.
        progress: show a bar while the tar is indexed.

    Raises:
        DataError: no such tar, a compressed or a damaged one, no class, a class without images or
            unknown in ``classes``, an unreadable image.
    """

    paths = None  # the samples are no files of their own

    def __init__(
        self,
        path: str | os.PathLike[str],
        prefix: str = "",
        *,
        classes: Sequence[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        skip_unreadable: bool = False,
        progress: bool = True,
    ) -> None:
        self.path = Path(path).absolute()
        self.prefix = prefix.strip("/")
        self._open()
        where = f"{self.path}/{self.prefix}".rstrip("/")
        stat = os.fstat(self._file)

        def build() -> dict[str, NDArray[Any]]:
            listing = _list(self.path, self.prefix, where, progress)
            sizes = read_sizes(
                len(listing.facts),
                lambda i: _open_member(self._file, *map(int, listing.facts[i])),
                what=self.path.name,
                progress=progress,
            )
            return {
                "classes": byte_matrix([os.fsencode(name) for name in listing.classes]),
                "labels": listing.labels,
                "names": listing.names.matrix,
                "facts": listing.facts,
                **sizes,
            }

        arrays = cached(
            f"tar {self.path} {self.prefix}",
            f"{stat.st_size} {stat.st_mtime_ns}",
            build,
            cache_dir,
        )
        names, heights, widths = Names(arrays["names"]), arrays["heights"], arrays["widths"]
        self._facts: NDArray[np.int64] = arrays["facts"]
        ids = readable(
            heights,
            widths,
            lambda i: _open_member(self._file, *map(int, self._facts[i])),
            names=names,
            where=where,
            skip_unreadable=skip_unreadable,
        )
        index = Index(tuple(Names(arrays["classes"])), arrays["labels"], heights, widths, names)
        if len(ids) < len(index):
            index, self._facts = index.take(ids), self._facts[ids]
        if classes is not None:
            index = index.with_classes(classes, where)
        self.index = index
        self.points = points_file(index.fingerprint, cache_dir)
        self._where = where

    def name(self, sample: int) -> str:
        """The tar's path, then the member's name."""
        return f"{self._where}/{self.index.names[sample]}"

    def encoded(self, ids: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The members' bytes, each a uint8 vector."""
        return [self._read(int(i)) for i in ids]

    def __getstate__(self) -> dict[str, Any]:
        """All but the open file, which another process opens anew."""
        return {name: value for name, value in vars(self).items() if name not in _OPEN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what `__getstate__` gave, and open the tar."""
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be opened ({error.strerror}); expected a tar"
            ) from error
        self._close = weakref.finalize(self, os.close, self._file)

    def close(self) -> None:
        """Close the tar; the index stays."""
        self._close()
        self._file = -1  # the number may be another file's by now

    def _read(self, sample: int) -> NDArray[np.uint8]:
        offset, length = map(int, self._facts[sample])
        # Not mmap: a tar cut short under a mapping kills the process, here it is an error.
        data = os.pread(self._file, length, offset)
        if len(data) < length:
            raise DataError(
                f"{self.name(sample)}: expected {length} bytes at {offset}, found {len(data)}; "
                "the tar was changed while it was open"
            )
        return np.frombuffer(data, dtype=np.uint8)


def _list(path: Path, prefix: str, where: str, progress: bool) -> Listing:
    """The images of a tar below ``prefix``, with their offsets and lengths."""
    folders: dict[str, Files] = {}
    classes: set[str] = set()
    head = f"{prefix}/" if prefix else ""
    try:
        with (
            tarfile.open(path, "r:") as tar,
            tqdm(desc=path.name, unit="members", disable=None if progress else True) as bar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all: 1 kB each
                bar.update()
                name = posixpath.normpath(member.name)
                if not name.startswith(head):
                    continue
                folder, _, base = name[len(head) :].rpartition("/")
                if member.isdir() and not folder and base != ".":
                    classes.add(base)
                if member.isdir() or not folder or not is_image(base):
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(
                        f"{path}/{name}: a link or a sparse file cannot be read in place; make the "
                        "tar with --dereference and without --sparse"
                    )
                classes.add(folder.partition("/")[0])
                folders.setdefault(folder, Files()).add(base, member.offset_data, member.size)
            end = tar.offset
    except tarfile.TarError as error:
        if "unexpected end of data" in str(error):
            raise DataError(f"{path}: the tar is cut short; get it anew") from error
        raise DataError(
            f"{path}: expected an uncompressed tar, since images are read in place ({error}); "
            "expand it first"
        ) from error
    _check_end(path, end)
    return arrange(folders, classes, where)


def _check_end(path: Path, end: int) -> None:
    """Whether what lies behind the last member is a tar's end, a block of zeros."""
    with path.open("rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    if not block:
        logger.warning(
            "%s: ends after %d bytes without an end marker, as if it were cut short", path, end
        )
    elif block != bytes(tarfile.BLOCKSIZE):
        raise DataError(
            f"{path}: the tar is cut short or damaged at byte {end} of {path.stat().st_size}; get "
            "it anew"
        )


def _open_member(file: int, offset: int, length: int) -> BinaryIO:
    """A member as a file of its own, of which only what is asked for is read."""
    return cast(BinaryIO, io.BufferedReader(_Span(file, offset, length)))


class _Span(io.RawIOBase):
    """A span of an open file; it does not move the file's position."""

    def __init__(self, file: int, offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), max(0, self._length - self._position))
        data = os.pread(self._file, count, self._offset + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
