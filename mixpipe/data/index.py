"""The index: what is known of every sample without decoding it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["DataError", "Index", "Names"]


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file or folder and what to do."""


class Names(Sequence[str]):
    """File names of N samples in one byte matrix, since a million Python strings take 100 MB.

    Args:
        matrix: uint8 ``[N, L]``, each row a name as the file system has it (UTF-8 as a rule),
            padded with zeros at its end.
        start: the column at which the names begin; what stands before it is left out.
    """

    def __init__(self, matrix: NDArray[np.uint8], start: int = 0) -> None:
        self.matrix = matrix
        self.start = start

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """Names from strings."""
        return cls(byte_matrix([os.fsencode(name) for name in names]))

    def __len__(self) -> int:
        return len(self.matrix)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> Names: ...
    def __getitem__(self, item: int | slice) -> str | Names:
        if isinstance(item, slice):
            return Names(self.matrix[item], self.start)
        return os.fsdecode(self.matrix[item, self.start :].tobytes().rstrip(b"\0"))


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of N samples without decoding them.

    Attributes:
        classes: the class names; a label is an index into them.
        labels: int64 ``[N]``.
        heights: int32 ``[N]``, pixels, as stored: an EXIF orientation is not applied, as
            torchvision's loader does not either.
        widths: int32 ``[N]``, pixels.
        names: each sample's name, relative to its store.
    """

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    names: Names

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all images decoded, uint8 RGB."""
        return 3 * int((self.heights.astype(np.int64) * self.widths).sum())

    @cached_property
    def fingerprint(self) -> str:
        """Tells data sets apart: the same for the same names, labels, classes and sizes.

        It says nothing of where the data lies nor when it was written, so that a run can resume
        on a copy.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join(self.classes).encode(errors="surrogateescape"))
        names = np.ascontiguousarray(self.names.matrix[:, self.names.start :])
        for array in (names, self.labels, self.heights, self.widths):
            digest.update(repr(array.shape).encode())
            digest.update(array.data)
        return digest.hexdigest()

    def take(self, ids: NDArray[np.int64]) -> Index:
        """The index of these samples alone, renumbered in the given order."""
        return replace(
            self,
            labels=self.labels[ids],
            heights=self.heights[ids],
            widths=self.widths[ids],
            names=Names(self.names.matrix[ids], self.names.start),
        )

    def with_classes(self, classes: Sequence[str], where: str) -> Index:
        """The same samples, labelled by ``classes``.

        Args:
            classes: the training set's class names; they may be more than this index has.
            where: the data's place, for the message.

        Raises:
            DataError: this index has a class that is not among ``classes``.
        """
        unknown = [name for name in self.classes if name not in set(classes)]
        if unknown:
            raise DataError(
                f"{where}: {len(unknown)} of its classes are not among the {len(classes)} classes "
                f"of the training set: {_some(unknown)}; every class to evaluate on needs a folder "
                "of the same name there"
            )
        new = {name: label for label, name in enumerate(classes)}
        table = np.array([new[name] for name in self.classes], dtype=np.int64)
        return replace(self, classes=tuple(classes), labels=table[self.labels])


def byte_matrix(names: Sequence[bytes]) -> NDArray[np.uint8]:
    """Names as a zero-padded uint8 matrix ``[N, L]``, L the longest name's length."""
    array = np.array(names, dtype=np.bytes_)
    return array.view(np.uint8).reshape(len(names), array.itemsize if names else 0)


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
