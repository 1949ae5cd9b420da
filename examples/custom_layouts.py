"""Three layouts of one's own, and a picture of them.

    python examples/custom_layouts.py PHOTOS --out layouts.png

PHOTOS is a folder of .jpg files. Each row of the picture is a layout, each column a composite.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

import mixpipe
from mixpipe.report import open_beside


@mixpipe.layout
def diagonal(y, x, height, width, ratio, u0, u1):
    """Cut along either diagonal (u0), the first constituent on either side of it (u1)."""
    down, across = (y + 0.5) / height, (x + 0.5) / width
    if u0 < 0.5:
        across = 1 - across
    corner = ratio if u1 < 0.5 else 1 - ratio
    edge = math.sqrt(2 * corner) if corner < 0.5 else 2 - math.sqrt(2 * (1 - corner))
    in_corner = down + across < edge
    return in_corner != (u1 < 0.5)


@mixpipe.layout
def circle(y, x, height, width, ratio, u0, u1):
    """The second constituent in a circle over the first, anywhere inside the canvas."""
    radius = math.sqrt((1 - ratio) * height * width / math.pi)
    centre_y = radius + u0 * (height - 2 * radius) if 2 * radius < height else height / 2
    centre_x = radius + u1 * (width - 2 * radius) if 2 * radius < width else width / 2
    return (y + 0.5 - centre_y) ** 2 + (x + 0.5 - centre_x) ** 2 < radius**2


@mixpipe.layout
def checkerboard(y, x, height, width, _ratio, u0, u1):
    """Squares of a quarter of the canvas, shifted at random; half and half, whatever the ratio."""
    side = max(height, width) // 4
    row = (y + int(u0 * 2 * side)) // side
    column = (x + int(u1 * 2 * side)) // side
    return (row + column) % 2


def composites(photos: Path, layout: mixpipe.CustomLayout, count: int, size: int) -> torch.Tensor:
    """``count`` composites of a folder's photos in pairs, uint8 [count, size, size, 3]."""
    files = sorted(photos.glob("*.jpg"))
    store = mixpipe.BytesStore([file.read_bytes() for file in files], labels=[0] * len(files))
    loader = mixpipe.MixLoader(
        store,
        batch_size=2,
        size=size,
        policy=mixpipe.MixTrain(rule=mixpipe.RandomRule(1.0), layout=layout, warmup=0),
        crop=mixpipe.RandomResizedCrop(scale=(0.6, 1.0)),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        memory_format=torch.channels_last,
    )
    images: list[torch.Tensor] = []
    while len(images) < count:  # an epoch of few photos has few composites
        for batch, target in loader:
            images += batch[(target.ids >= 0).sum(1) == 2]
    loader.close()
    pixels = torch.stack(images[:count]).permute(0, 2, 3, 1)
    return (pixels * 255).round().clamp(0, 255).byte()


def main() -> None:
    """Draw the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="a folder of .jpg files")
    parser.add_argument("--out", type=Path, default=Path("layouts.png"))
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--size", type=int, default=192, help="pixels a side")
    options = parser.parse_args()

    layouts = {"diagonal": diagonal, "circle": circle, "checkerboard": checkerboard}
    figure = Figure(figsize=(1.7 * options.columns, 1.8 * len(layouts)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(layouts), options.columns, squeeze=False)
    for row, (name, layout) in zip(rows, layouts.items(), strict=True):
        images = composites(options.photos, layout, options.columns, options.size)
        for axes, image in zip(row, images.numpy(), strict=True):
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    with open_beside(options.out) as file:
        figure.savefig(file, format="png", dpi=80)


if __name__ == "__main__":
    main()
