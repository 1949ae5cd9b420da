"""Functions timed side by side: round after round, each in turn, on the clock and in CPU time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Copy", "Cost", "calls_a_turn", "interleave", "replay", "spread"]

logger = logging.getLogger(__name__)

Work = Callable[[], object]
_MIB = 1 << 20
SLOW_SECONDS = 0.2
_SLOW_ROUNDS = 3


class Cost(NamedTuple):
    """One call: seconds on the clock (on a GPU, between CUDA events), and of all CPU threads."""

    wall: float
    cpu: float


class Copy:
    """A copy that no cache holds: what "memory bandwidth" means here.

    Args:
        device: where the memory lies.
        size: bytes of each of the two blocks; by default twice the last-level cache, and 64 MiB at
            least.
    """

    def __init__(self, device: torch.device, size: int | None = None) -> None:
        size = max(64 * _MIB, 2 * cache_bytes(device)) if size is None else size
        self._source = torch.ones(size // 4, dtype=torch.int32, device=device)
        self._target = torch.zeros_like(self._source)

    @property
    def bytes(self) -> int:
        """Moved by a copy: read and written."""
        return 2 * self._source.nbytes

    def __call__(self) -> torch.Tensor:
        """Copy once."""
        return self._target.copy_(self._source)


def cache_bytes(device: torch.device) -> int:
    """The size of the device's last-level cache; 0 where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": _MIB, "G": 1 << 30}.get(text[-1], 1)
        sizes.append(int(text.rstrip("KMG")) * unit)
    return max(sizes)


def calls_a_turn(work: Work, seconds: float, device: torch.device) -> int:
    """How often to call it to be busy for ``seconds``: 1 to 1000 times; 0 where it is slow."""
    first = _turn(work, 1, device).wall
    # The first call of many things is slower than the others.
    if first > 3 * SLOW_SECONDS or _turn(work, 1, device).wall > SLOW_SECONDS:
        return 0
    return int(min(1000, max(1, seconds / _turn(work, 1, device).wall)))


def interleave(
    ways: Mapping[str, Work],
    *,
    rounds: int,
    device: torch.device,
    seconds: float = 0.02,
) -> dict[str, list[Cost]]:
    """Time all, round after round; every second round goes in reverse order.

    Whatever else the machine does falls on all alike, so ratios are to be taken round by round.

    Args:
        ways: what to call, by name.
        rounds: how many turns each has.
        device: on a GPU, times are between CUDA events.
        seconds: a turn lasts about as long, or one call.

    Returns:
        The cost of a call, by name, one for each round; of what takes longer than ``SLOW_SECONDS``
        one for each of the first three.
    """
    calls = {name: calls_a_turn(work, seconds, device) for name, work in ways.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            if calls[name] or number < _SLOW_ROUNDS:
                costs[name].append(_turn(ways[name], max(1, calls[name]), device))
    return costs


def replay(
    ways: Mapping[str, Work], *, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds that a GPU works for a call, by round: the call is replayed as a CUDA graph.

    A call that is small for a GPU is over before its host has issued the next one, so that
    `interleave` times the host. What cannot be captured is left out. A captured call of a mixpipe
    op carries its plan's table in the parameters of a few small kernels, where a call that is not
    captured copies it; these count.
    """
    graphs = {name: graph for name, work in ways.items() if (graph := _captured(work))}
    costs = interleave(graphs, rounds=rounds, device=device)
    return {name: [cost.wall for cost in turns] for name, turns in costs.items()}


def _captured(work: Work) -> Work | None:
    """Replays of the work; None where it cannot be captured."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()  # loads and allocates, which a capture may not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=side):
            work()
    except Exception as error:  # whatever a way's library raises
        logger.debug("cannot be captured: %s", error)
        return None
    replay: Work = graph.replay
    return replay


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": float(np.median(values)), "least": min(values), "most": max(values)}


def _turn(work: Work, calls: int, device: torch.device) -> Cost:
    if device.type == "cuda":
        return _turn_on_gpu(work, calls)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        work()
    wall = time.perf_counter() - wall
    return Cost(wall / calls, (time.process_time() - cpu) / calls)


def _turn_on_gpu(work: Work, calls: int) -> Cost:
    event: Callable[..., Any] = torch.cuda.Event
    start, stop = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    cpu = time.process_time()
    start.record()
    for _ in range(calls):
        work()
    stop.record()
    stop.synchronize()
    cpu = time.process_time() - cpu
    return Cost(1e-3 * start.elapsed_time(stop) / calls, cpu / calls)
