"""Layouts: the rules that make regions.

A layout places k constituents on a canvas: from each one's share of the canvas and a few random
numbers a composite, to regions and visible areas. All of it is vectorised over composites.

Every layout also names its window rule, that is, which part of a sample's crop a region shows:

``"cut"``: that part of a whole-canvas crop that lies under the region, as CutMix shows it;
``"fit"``: the whole crop, scaled into the region. A 2 x 2 grid keeps the aspect ratio, a strip
    does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrays import Floats, Ids, Mask, Size

__all__ = [
    "MAX_CONSTITUENTS",
    "WHOLE",
    "Blend",
    "CutMixBox",
    "Grid",
    "Layout",
    "Placement",
    "Split",
    "Strips",
    "Whole",
    "Window",
    "check_window",
    "default_layout",
    "layout_from_state",
    "painted",
]

MAX_CONSTITUENTS = 4
Window = Literal["cut", "fit"]


class Placement(NamedTuple):
    """Where n composites' constituents are."""

    regions: Ids  # [n, k, 4] (y0, x0, y1, x1), half open; all 0 for a blend
    weights: Floats  # [n, k] share of the canvas that is seen of each; rows sum to 1
    # uint8 [n, H, W], which constituent each pixel shows; None: that of the last region there
    index_map: npt.NDArray[np.uint8] | None = None


class Layout(ABC):
    """A rule that makes regions. Layouts are values: frozen, compared by content."""

    draws: ClassVar[int] = 0  # random numbers it takes a composite
    blends: ClassVar[bool] = False  # a weighted sum of whole canvases: no regions
    maps: ClassVar[bool] = False  # places by an index map; regions are only bounding boxes
    window: Window = "cut"

    @property
    @abstractmethod
    def counts(self) -> tuple[int, ...]:
        """Numbers of constituents it can place."""

    @property
    def draws_shares(self) -> bool:
        """Whether the layout draws the shares itself, instead of keeping to those it is given."""
        return False

    @abstractmethod
    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """Place n composites of k constituents.

        shares: float64 [n, k], rows sum to 1: the wanted share of the canvas, kept to the nearest
        pixel, but never less than one pixel. draws: float64 [self.draws, n], uniform in [0, 1).
        canvas: (H, W) pixels, each at least `MAX_CONSTITUENTS`.
        """

    def state(self) -> dict[str, Any]:
        """The layout as plain values, for a checkpoint: what `layout_from_state` takes."""
        settings: dict[str, Any] = asdict(self) if is_dataclass(self) else {}
        return {"layout": type(self).__name__, **settings}


def check_window(window: str) -> None:
    """Raises ValueError for another window rule than those of this module."""
    if window not in ("cut", "fit"):
        raise ValueError(f"window: got {window!r}, expected 'cut' or 'fit'")


def _check_alpha(alpha: float | None) -> None:
    if alpha is not None and not alpha > 0:
        raise ValueError(
            f"alpha: got {alpha}, expected a number above 0, or None to keep to shares"
        )


def _areas(regions: Ids, canvas: Size) -> Floats:
    """Share of the canvas of each region."""
    heights = regions[..., 2] - regions[..., 0]
    widths = regions[..., 3] - regions[..., 1]
    return heights * widths / float(canvas[0] * canvas[1])


def symmetric_beta(alpha: float, draws: Floats) -> Floats:
    """Beta(alpha, alpha) from three uniform numbers [3, n], for any alpha above 0.

    Devroye, "Random variate generation in one line of code", 1996: the symmetric beta law.
    """
    with np.errstate(over="ignore", divide="ignore"):  # both ends are right in the limit
        radius = np.maximum(draws[0], 1e-300) ** (-1.0 / alpha) - 1.0
        half = 0.5 / np.sqrt(1.0 + 1.0 / (radius * np.cos(2.0 * np.pi * draws[1]) ** 2))
    first: Floats = np.where(draws[2] < 0.5, 0.5 - half, 0.5 + half)
    return first


@dataclass(frozen=True)
class Whole(Layout):
    """One constituent that fills the canvas: a plain input."""

    counts: ClassVar[tuple[int, ...]] = (1,)

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`."""
        regions = np.zeros((*shares.shape, 4), np.int64)
        regions[..., 2:] = canvas
        return Placement(regions, np.ones(shares.shape))


WHOLE = Whole()


@dataclass(frozen=True)
class Strips(Layout):
    """k parallel strips, upright or lying, in either order."""

    window: Window = "cut"
    counts: ClassVar[tuple[int, ...]] = (2, 3, 4)
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_window(self.window)

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`."""
        upright, mirrored = draws[0] < 0.5, draws[1] < 0.5
        n, k = shares.shape
        length = np.where(upright, canvas[1], canvas[0])
        edges = np.zeros((n, k + 1), np.int64)
        edges[:, 1:k] = np.rint(np.cumsum(shares, axis=1)[:, :-1] * length[:, None])
        edges[:, k] = length
        for j in range(1, k):  # at least one pixel each, from either end
            edges[:, j] = np.maximum(edges[:, j], edges[:, j - 1] + 1)
        for j in range(1, k):
            edges[:, j] = np.minimum(edges[:, j], length - (k - j))
        low, high = edges[:, :-1], edges[:, 1:]
        low, high = (
            np.where(mirrored[:, None], length[:, None] - high, low),
            np.where(mirrored[:, None], length[:, None] - low, high),
        )
        zero = np.zeros_like(low)
        regions = np.where(
            upright[:, None, None],
            np.stack([zero, low, zero + canvas[0], high], axis=-1),
            np.stack([low, zero, high, zero + canvas[1]], axis=-1),
        )
        return Placement(regions, _areas(regions, canvas))


@dataclass(frozen=True)
class Split(Strips):
    """Two parts by one straight cut, upright or lying, either one first.

    spread: the cut lies up to this share of the canvas (0 to 0.5) away from where the shares put
    it, uniformly.
    """

    spread: float = 0.0
    counts: ClassVar[tuple[int, ...]] = (2,)
    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.spread <= 0.5:
            raise ValueError(f"spread: got {self.spread}, expected a share from 0 to 0.5")

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`."""
        shift = (2.0 * draws[2] - 1.0) * self.spread
        first = np.clip(shares[:, 0] + shift, 0.0, 1.0)
        return super().place(np.stack([first, 1.0 - first], axis=1), draws[:2], canvas)


@dataclass(frozen=True)
class Grid(Layout):
    """Two rows of two (k = 4), or one wide and two halves (k = 3); turned and mirrored at random.

    With equal shares and k = 4 every region has the canvas's aspect ratio.
    """

    window: Window = "fit"
    counts: ClassVar[tuple[int, ...]] = (3, 4)
    draws: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_window(self.window)

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`."""
        n, k = shares.shape
        turned = draws[0] < 0.5  # rows become columns
        main = np.where(turned, canvas[1], canvas[0])
        cross = np.where(turned, canvas[0], canvas[1])
        rows = [range(k - 2), range(k - 2, k)]  # constituents of each row
        top = shares[:, : k - 2].sum(axis=1)
        row_edge = np.clip(np.rint(top * main), 1, main - 1).astype(np.int64)
        # [n, k, 4] as (main0, cross0, main1, cross1)
        boxes = np.zeros((n, k, 4), np.int64)
        for row, members in enumerate(rows):
            first, last = members[0], members[-1]
            boxes[:, members, 0] = (row_edge * row)[:, None]
            boxes[:, members, 2] = (main if row else row_edge)[:, None]
            boxes[:, last, 3] = cross
            if first != last:
                ratio = shares[:, first] / (shares[:, first] + shares[:, last])
                edge = np.clip(np.rint(ratio * cross), 1, cross - 1).astype(np.int64)
                boxes[:, first, 3] = edge
                boxes[:, last, 1] = edge
        boxes = _mirror(boxes, 0, main, draws[1] < 0.5)
        boxes = _mirror(boxes, 1, cross, draws[2] < 0.5)
        regions = np.where(turned[:, None, None], boxes[..., [1, 0, 3, 2]], boxes)
        return Placement(regions, _areas(regions, canvas))


def _mirror(boxes: Ids, axis: int, length: Ids, mirrored: Mask) -> Ids:
    """Boxes [n, k, 4] mirrored along an axis (0 or 1) where asked."""
    out: Ids = boxes.copy()
    out[mirrored, :, axis] = length[mirrored, None] - boxes[mirrored, :, axis + 2]
    out[mirrored, :, axis + 2] = length[mirrored, None] - boxes[mirrored, :, axis]
    return out


@dataclass(frozen=True)
class CutMixBox(Layout):
    """A box of the second constituent over the first, which has the whole canvas.

    alpha: None keeps to the shares: the box has the canvas's aspect ratio and lies wholly inside,
    anywhere. A number is CutMix as torchvision has it: the first's share is drawn from
    Beta(alpha, alpha), the box's centre lies anywhere and the canvas's border cuts the box off.
    Then a constituent may come out with no pixel at all; it counts as absent.
    """

    alpha: float | None = None
    window: Window = "cut"
    counts: ClassVar[tuple[int, ...]] = (2,)
    draws: ClassVar[int] = 5

    def __post_init__(self) -> None:
        check_window(self.window)
        _check_alpha(self.alpha)

    @property
    def draws_shares(self) -> bool:
        """See `Layout.draws_shares`."""
        return self.alpha is not None

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`."""
        height, width = canvas
        if self.alpha is None:
            side = np.sqrt(shares[:, 1])
            box_h = np.clip(np.rint(height * side), 1, height)
            # one column at least is left to the base
            box_w = np.clip(np.rint(width * side), 1, width - 1)
            y0 = np.floor(draws[0] * (height - box_h + 1))
            x0 = np.floor(draws[1] * (width - box_w + 1))
            box = np.stack([y0, x0, y0 + box_h, x0 + box_w], axis=-1)
        else:
            half = 0.5 * np.sqrt(1.0 - symmetric_beta(self.alpha, draws[2:5]))
            half_h, half_w = np.floor(half * height), np.floor(half * width)
            y, x = np.floor(draws[0] * height), np.floor(draws[1] * width)
            box = np.stack([y - half_h, x - half_w, y + half_h, x + half_w], axis=-1)
            np.clip(box, 0, [height, width, height, width], out=box)
        regions = np.zeros((len(shares), 2, 4), np.int64)
        regions[:, 0, 2:] = canvas
        regions[:, 1] = box
        over = _areas(regions[:, 1], canvas)
        return Placement(regions, np.stack([1.0 - over, over], axis=1))


@dataclass(frozen=True)
class Blend(Layout):
    """The pixels' weighted sum (MixUp): no regions. MixTrain's naive baseline.

    alpha: None keeps to the shares; a number draws the first's share from Beta(alpha, alpha), for
    two constituents.
    """

    alpha: float | None = None
    counts: ClassVar[tuple[int, ...]] = (2, 3, 4)
    draws: ClassVar[int] = 3
    blends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)

    @property
    def draws_shares(self) -> bool:
        """See `Layout.draws_shares`."""
        return self.alpha is not None

    def place(self, shares: Floats, draws: Floats, canvas: Size) -> Placement:
        """See `Layout.place`."""
        if self.alpha is not None:
            first = symmetric_beta(self.alpha, draws)
            shares = np.stack([first, 1.0 - first], axis=1)
        return Placement(np.zeros((*shares.shape, 4), np.int64), shares)


_DEFAULTS: Mapping[int, type[Layout]] = {1: Whole, 2: Split, 3: Strips, 4: Grid}
_BY_NAME: Mapping[str, type[Layout]] = {
    kind.__name__: kind for kind in (Whole, Split, Strips, Grid, CutMixBox, Blend)
}


def default_layout(k: int) -> Layout:
    """The layout for k constituents where none is named."""
    return _DEFAULTS[k]()


def layout_from_state(state: Mapping[str, Any]) -> Layout:
    """The layout that `Layout.state` was made of; a caller's own is imported by its name."""
    settings = dict(state)
    name = settings.pop("layout", None)
    if isinstance(name, str) and ":" in name:
        return _imported(name, state)
    if name not in _BY_NAME:
        raise ValueError(
            f"state['layout']: got {name!r}, expected one of {sorted(_BY_NAME)}, or "
            "'package.module:name' for a layout of your own"
        )
    return _BY_NAME[name](**settings)


def _imported(name: str, state: Mapping[str, Any]) -> Layout:
    """The layout that a module holds as ``"package.module:name"``."""
    module, _, path = name.partition(":")
    try:
        found = attrgetter(path)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"state['layout']: {name!r} cannot be imported ({error}): define it at the top level "
            "of a module that can be, or load the state into a loader whose policy has it"
        ) from error
    if not isinstance(found, Layout) or found.state() != dict(state):
        raise ValueError(
            f"state['layout']: {name!r} is now {found!r}, but was saved as {dict(state)}: resume "
            "with the layout that was saved"
        )
    return found


def painted(regions: Ids, canvas: Size) -> npt.NDArray[np.uint8]:
    """The index map [n, H, W] of regions [n, k, 4] of which later ones lie over earlier ones."""
    shown = np.zeros((len(regions), *canvas), np.uint8)
    for j in range(1, regions.shape[1]):
        for composite, (y0, x0, y1, x1) in zip(shown, regions[:, j].tolist(), strict=True):
            composite[y0:y1, x0:x1] = j
    return shown
