"""A contact sheet of composites: what the network really sees, regions outlined and named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mixpipe.report import open_beside
from mixpipe.target import CompositeTarget

__all__ = ["draw_sheet"]

_COLOURS = ("tab:orange", "tab:cyan", "tab:pink", "tab:olive")


def draw_sheet(
    path: str | os.PathLike[str],
    images: Tensor,
    target: CompositeTarget,
    classes: Sequence[str],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    columns: int = 6,
    rows: int = 4,
) -> None:
    """Draw composites of a batch into a PNG file: of each number of constituents in turn.

    Args:
        path: the file to write.
        images: normalised composites ``[B, 3, H, W]``.
        target: their labels and regions.
        classes: the class names.
        mean: what the images were normalised with.
        std: likewise.
        columns: composites beside each other.
        rows: at most so many rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    labels = target.to("cpu")
    chosen = in_turn((labels.ids >= 0).sum(1).tolist())[: columns * rows]
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    scale = torch.tensor(std).view(3, 1, 1)
    offset = torch.tensor(mean).view(3, 1, 1)
    pixels = (images[chosen].float().cpu() * scale + offset).clamp(0, 1).permute(0, 2, 3, 1)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places:
        axes.axis("off")
    for position, image, axes in zip(chosen, pixels, places, strict=False):
        axes.imshow(image.numpy(), interpolation="nearest")
        blended = []
        for k, colour in enumerate(_COLOURS[: labels.ids.shape[1]]):
            if labels.ids[position, k] < 0:
                continue
            # A folder's name need not be text.
            name = os.fsencode(classes[int(labels.classes[position, k])]).decode(errors="replace")
            text = f"{name} {labels.weights[position, k]:.2f}"
            y0, x0, y1, x1 = labels.regions[position, k].tolist()
            if y1 == y0:  # a blend has no regions
                blended.append(text)
                continue
            box = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=2)
            axes.add_patch(box).set_clip_on(False)
            axes.text(x0, y0, text, fontsize=8, va="top", bbox=_tag(colour), parse_math=False)
        axes.set_title("\n".join(blended), fontsize=8, parse_math=False)
    with open_beside(path) as file:
        figure.savefig(file, format="png", dpi=110)


def in_turn(sizes: Sequence[int]) -> list[int]:
    """Positions in ``sizes``: one of each size, the largest first, then another of each."""
    turns = [sizes[:position].count(size) for position, size in enumerate(sizes)]
    return sorted(range(len(sizes)), key=lambda position: (turns[position], -sizes[position]))


def _tag(colour: str) -> dict[str, Any]:
    """How a label's background looks."""
    return {"facecolor": colour, "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
