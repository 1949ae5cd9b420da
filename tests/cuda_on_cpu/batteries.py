"""A few cases a kernel that touch every path of it, for the builds in which a case is dear.

float16 only, so that the kernels of the other types need not be compiled.
"""

import re
from collections.abc import Callable
from pathlib import Path

import torch
from comparisons import (
    compare_compose,
    compare_cross_entropy,
    compare_mix,
    compare_resampled,
    compare_selection,
    compare_targets,
)
from device import CSRC, Device, unwritten

F16 = torch.float16


def compose_cases(device: Device) -> None:
    """Aligned and odd widths, both layouts, a cut between multiples of a vector, flips, a gap."""
    rng = torch.Generator().manual_seed(0)
    for width in (40, 37):
        regions = torch.tensor([[[0, 0, 9, 13], [0, 13, 9, width]], [[0, 0, 5, 20], [0] * 4]]).int()
        shapes = [(9, 13), (9, width - 13), (5, 20)]
        patches = [torch.randint(0, 256, (*s, 3), generator=rng, dtype=torch.uint8) for s in shapes]
        source = torch.tensor([[0, 1], [2, -1]]).int()
        for channels_last in (False, True):
            for flip in (False, True):
                flips = torch.tensor([[flip, not flip], [flip, False]])
                how = {"dtype": F16, "channels_last": channels_last, "size": (9, width)}
                arguments = {"patches": patches, "source": source, "regions": regions}
                compare_compose(device, **arguments, flips=flips, **how)
    canvases = [
        torch.randint(0, 256, (9, 40, 3), generator=rng, dtype=torch.uint8) for _ in range(2)
    ]
    blend = torch.tensor([[0.3, 0.7]])
    for channels_last in (False, True):
        compare_compose(
            device,
            patches=canvases,
            source=torch.tensor([[0, 1]]).int(),
            regions=None,
            blend=blend,
            size=(9, 40),
            dtype=F16,
            channels_last=channels_last,
        )


def resample_cases(device: Device) -> None:
    """Up, down and by parts of a pixel; aligned and odd widths; flips; tiles beyond the canvas; a
    blend."""
    rng = torch.Generator().manual_seed(0)
    rectangles = [
        torch.randint(0, 256, (h, w, 3), generator=rng, dtype=torch.uint8)
        for h, w in ((30, 50), (7, 9))
    ]
    windows = torch.tensor([[1.5, 2.25, 29.0, 47.5], [0.0, 0.0, 7.0, 9.0]])
    for width in (40, 37):
        for channels_last in (False, True):
            compare_resampled(
                device,
                rectangles=rectangles,
                windows=windows,
                sizes=torch.tensor([[9, 13], [9, width - 13]]).int(),
                source=torch.tensor([[0, 1]]).int(),
                regions=torch.tensor([[[0, 0, 9, 13], [0, 13, 9, width]]]).int(),
                flips=torch.tensor([[True, False]]),
                size=(9, width),
                dtype=F16,
                channels_last=channels_last,
            )
    compare_resampled(
        device,
        rectangles=rectangles,
        windows=windows,
        sizes=torch.tensor([[9, 40], [9, 40]]).int(),
        source=torch.tensor([[0, 1]]).int(),
        regions=None,
        blend=torch.tensor([[0.3, 0.7]]),
        size=(9, 40),
        dtype=F16,
        channels_last=False,
    )


def select_cases(device: Device) -> None:
    """Each rule on a table of several blocks that ends within a warp; equal losses, unseen ones."""
    rng = torch.Generator().manual_seed(0)
    losses = torch.rand(1055, generator=rng).mul(50).round() / 16
    epochs = torch.randint(-1, 4, (1055,), generator=rng).int()
    table = (losses, epochs)
    compare_selection(device, *table, "mean", [1.0, 0.5])
    compare_selection(device, *table, "share", [0.5, 0.25], seed=4)
    compare_selection(device, *table, "budget", [1.0, 0.3], savings=[0.5, 0.25], target=250.0)


def mix_cases(device: Device) -> None:
    """A cycle of six, more than are read ahead, and two that stay; groups; both blends."""
    rng = torch.Generator().manual_seed(0)
    partners = torch.tensor([1, 2, 3, 4, 5, 0, 6, 7])
    boxes = torch.tensor([[1, 3, 7, 21], [0, 0, 8, 24], [2, 8, 5, 16], [0, 0, 8, 8]]).int()
    boxes = boxes.repeat(2, 1)  # at odd places
    for width in (24, 23):
        for channels_last in (False, True):
            for how in (
                {"partners": partners, "regions": boxes.clamp(max=width)},
                {"partners": partners, "weights": torch.rand(8, generator=rng)},
                {"regions": boxes.clamp(max=width).view(2, 4, 4)},
                {"weights": torch.rand(2, 4, generator=rng)},
            ):
                images = unwritten((8, 3, 8, width), F16, channels_last)
                images.copy_(torch.randn(8, 3, 8, width, generator=rng))
                compare_mix(device, images, how)


def targets_cases(device: Device) -> None:
    """Whole and broken vectors; a class given twice, one absent."""
    classes = torch.tensor([[0, 3], [5, 5], [2, -1]])
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    for num_classes in (16, 1200, 13):
        compare_targets(device, classes, weights, num_classes, smoothing=0.1, dtype=F16)


def cross_entropy_cases(device: Device) -> None:
    """Shared and own rows, ids that repeat, absent constituents, smoothing, several labels."""
    rng = torch.Generator().manual_seed(0)
    for shape in ((6, 2, 300), (6, 77)):
        logits = (3 * torch.randn(shape, generator=rng)).to(F16)
        targets = torch.randint(0, shape[-1], (6, 2), generator=rng)
        weights = torch.rand(6, 2, generator=rng)
        weights[2, 1] = 0.0
        how = {
            "ids": torch.tensor([[0, 1], [1, 2], [0, 3], [3, 4], [4, 4], [0, -1]]),
            "table_losses": torch.full((5,), -1.0),
            "table_epochs": torch.full((5,), -1, dtype=torch.int32),
            "epoch": 3,
            "label_smoothing": 0.1,
        }
        compare_cross_entropy(device, logits, targets, weights, how)
    labels = torch.rand(6, 2, 77, generator=rng)
    compare_cross_entropy(device, logits, labels, weights, {"label_smoothing": 0.1})


def stage_cases(device: Device) -> None:
    """Tables of one launch, of several, and of less than a block's threads."""
    rng = torch.Generator().manual_seed(0)
    for size in (4, 4080, 3 * 4080 + 204):
        table = torch.randint(0, 256, (size,), generator=rng, dtype=torch.uint8)
        with device.watching():
            staged = device.launcher.store(table.numpy(), torch.device("cpu"))
        assert torch.equal(staged, table), "elements differ"


CASES = {
    "compose": compose_cases,
    "resample": resample_cases,
    "mix": mix_cases,
    "targets": targets_cases,
    "cross_entropy": cross_entropy_cases,
    "select": select_cases,
    "stage": stage_cases,
}


def half_sources(folder: Path, change: Callable[[str, str], str] = lambda name, text: text) -> Path:
    """A copy of csrc's device code in a folder, with a change, that has kernels of float16 only."""
    for file in [*CSRC.glob("*.cu"), *CSRC.glob("*.h")]:
        text = change(file.name, file.read_text())
        text = re.sub(r"^MIXPIPE_\w+\((f32|bf16)\w*, .*\)$", "", text, flags=re.MULTILINE)
        (folder / file.name).write_text(text)
    return folder
