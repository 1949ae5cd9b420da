"""`mixpipe bench kernels`: the kernels beside every other way to compute the same."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from tqdm.auto import tqdm

from mixpipe.bench.kernel_cases import (
    LIBRARIES,
    Case,
    Spec,
    Way,
    box_bytes_launched,
    default_grid,
    full_grid,
    installed,
    make_case,
    mix_bytes,
)
from mixpipe.bench.rounds import Copy, Cost, interleave, replay, spread
from mixpipe.report import Figure

__all__ = ["kernel_figures", "missing_libraries", "run_kernels"]

logger = logging.getLogger(__name__)

_OURS, _COPY, _COPY_AS_LARGE = "mixpipe", "copy", "copy of as many bytes"


def run_kernels(
    specs: Iterable[Spec] | None = None,
    *,
    device: str = "cpu",
    full: bool = False,
    compiled: bool = False,
    rounds: int = 7,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Time every way of every case, and a large copy beside them in the same rounds.

    Before the timing, each way's result is compared with mixpipe's, so that what is compared in
    time is the same work; a way that fails is left out with a warning.

    Args:
        specs: the cases; by default those of `default_grid`, or of `full_grid` with ``full``.
        device: "cpu", or "cuda" to time with events there.
        full: the whole grid.
        compiled: torch.compile too; it compiles for a few seconds a case.
        rounds: turns of each way.
        progress: show a progress bar.

    Returns:
        A row for each way of each case, and for a copy of as many bytes. ``wall_ms`` and ``cpu_ms``
        are of one call, ``ratio`` is its time over mixpipe's in the same round, ``copy_share`` its
        bytes a second over the copy's in the same round: median, least and most over the rounds.
        What takes longer than a fifth of a second has three turns. On a GPU ``device_ms`` is what
        the device works for a call, its host left out (see `replay`), and bandwidths are by that;
        None for a way that cannot be captured in a CUDA graph.
    """
    target = torch.device(device)
    if specs is None:
        specs = full_grid() if full else default_grid()
    work = list(specs)
    copy = Copy(target)
    libraries = installed()
    rows = []
    with tqdm(work, unit="case", disable=not progress) as bar:
        for spec in bar:
            bar.set_description(str(spec))
            case = make_case(spec, device=device, compiled=compiled, libraries=libraries)
            rows += _measure(case, copy, target, rounds)
            del case
            gc.collect()
    return rows


def missing_libraries() -> list[str]:
    """Those that could take part, but are not installed."""
    there = installed()
    return [name for name in LIBRARIES if name not in there]


def kernel_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The figures that the kernels are judged by, of those rows that were run."""
    figures = []
    spec = Spec("compose")
    ours = _find(rows, spec).get(_OURS)
    if ours is not None and ours["copy_share"] is not None:
        figures.append(
            Figure(f"{spec}: share of copy bandwidth", ours["copy_share"]["median"], ">= 0.6")
        )
        as_large = _find(rows, spec).get(_COPY_AS_LARGE)
        if as_large is not None:
            name = f"{spec}: share of the bandwidth of a {_COPY_AS_LARGE}"
            figures.append(Figure(name, as_large["ratio"]["median"], ">= 0.6"))
        figures += _against_torch(rows, spec, ">= 4.0")
    mix = Spec("mix_", "fp32", "contiguous", what="box")
    box, whole = (
        _find(rows, Spec("mix_", "fp32", "contiguous", what=what)).get(_OURS)
        for what in ("box", "whole")
    )
    if box is not None and whole is not None:
        told = Figure("mix_: bytes its kernel is told to move over the box's", _told(mix), "<= 1")
        figures.append(told)
        figures.append(
            Figure(
                "mix_: time for a box of a quarter of the pixels over that for whole images",
                _work_ms(box) / _work_ms(whole),
                "<= 0.35",
            )
        )
        figures += _against_torch(rows, mix)
    loss = Spec("composite_cross_entropy", "fp32", "", batch=256)
    soft = _against_torch(rows, loss, ">= 2.0", among="torch eager, soft labels")
    fastest = _against_torch(rows, loss)  # which may be another way
    figures += soft
    figures += [figure for figure in fastest if figure.name not in {f.name for f in soft}]
    for other in (Spec("compose_resampled"), Spec("dense_targets", "fp32", "", batch=256)):
        figures += _against_torch(rows, other)
    return figures


def _work_ms(row: Mapping[str, Any]) -> float:
    """A call's time; of a GPU's work, its host left out."""
    return float((row.get("device_ms") or row["wall_ms"])["median"])


def _against_torch(
    rows: Sequence[Mapping[str, Any]],
    spec: Spec,
    goal: str | None = None,
    *,
    among: str = "torch eager",
) -> list[Figure]:
    """How many times the time of mixpipe the fastest torch way takes whose name begins so."""
    found = [row for way, row in _find(rows, spec).items() if way.startswith(among)]
    if not found:
        return []
    fastest = min(found, key=lambda row: float(row["ratio"]["median"]))
    name = f"{spec}: times faster than {fastest['way']}"
    return [Figure(name, fastest["ratio"]["median"], goal)]


def _find(rows: Sequence[Mapping[str, Any]], spec: Spec) -> dict[str, Mapping[str, Any]]:
    """A case's rows, by way."""
    return {row["way"]: row for row in rows if row["case"] == str(spec)}


def _told(spec: Spec) -> float:
    """Bytes that mix_'s links name, over the bytes of the boxes."""
    count, half = spec.batch, spec.size // 2
    images = torch.empty(count, 3, spec.size, spec.size)
    regions = torch.tensor([[0, 0, half, half]] * count, dtype=torch.int32)
    partners = torch.arange(count).roll(1)
    told = box_bytes_launched(regions, partners, images)
    return told / mix_bytes(regions.numpy(), partners.numpy(), 3, 4)


def _measure(case: Case, copy: Copy, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """A row for each way that works."""
    ways = {}
    expected = case.ways[0].run().float()
    largest = float(expected.abs().max())
    # The large copy comes from memory, where a case may be in the caches; this one is where it is.
    as_large = Way(_COPY_AS_LARGE, Copy(device, case.bytes // 2), same=False)
    for way in (*case.ways, as_large):
        try:
            result = expected if way.name == _OURS else way.run().float()
        except Exception as error:
            # A rival that cannot do a case (no such dtype, no compiler) must not end the run.
            logger.warning("%s, %s is left out: %s", case.spec, way.name, error)
            continue
        if way.same and float((result - expected).abs().max()) > case.tolerance * largest:
            logger.warning("%s, %s is left out: its result is another", case.spec, way.name)
            continue
        ways[way.name] = way.run
    timed: dict[str, Callable[[], object]] = {**ways, _COPY: copy}
    costs = interleave(timed, rounds=rounds, device=device)
    ours = costs[_OURS]
    seconds = {name: [cost.wall for cost in turns] for name, turns in costs.items()}
    on_gpu = device.type == "cuda"
    if on_gpu:
        seconds = replay(timed, rounds=rounds, device=device)
    bandwidths = [copy.bytes / wall for wall in seconds[_COPY]]
    return [
        _row(case, name, costs[name], ours, seconds.get(name), bandwidths)
        | ({"device_ms": _milliseconds(seconds.get(name))} if on_gpu else {})
        for name in ways
    ]


def _milliseconds(seconds: list[float] | None) -> dict[str, float] | None:
    return None if seconds is None else spread([1e3 * value for value in seconds])


def _row(
    case: Case,
    name: str,
    costs: list[Cost],
    ours: list[Cost],
    seconds: list[float] | None,
    bandwidths: list[float],
) -> dict[str, Any]:
    spec = case.spec
    speeds = None if seconds is None else [case.bytes / value for value in seconds]
    return {
        "case": str(spec),
        "kernel": spec.kernel,
        "what": spec.what,
        "dtype": spec.dtype,
        "layout": spec.layout,
        "k": spec.k,
        "batch": spec.batch,
        "way": name,
        "bytes": case.bytes,
        "wall_ms": spread([1e3 * cost.wall for cost in costs]),
        "cpu_ms": spread([1e3 * cost.cpu for cost in costs]),
        "gb_per_s": None if speeds is None else median(speeds) / 1e9,
        "copy_gb_per_s": median(bandwidths) / 1e9,
        "copy_share": None
        if speeds is None
        else spread([s / b for s, b in zip(speeds, bandwidths, strict=False)]),
        "ratio": spread([a.wall / b.wall for a, b in zip(costs, ours, strict=False)]),
    }
