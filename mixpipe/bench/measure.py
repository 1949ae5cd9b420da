"""What a loader costs: it runs in a process of its own, and its whole tree of processes counts."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

from mixpipe.bench.rivals import CONTENDERS, Settings

__all__ = ["Cost", "LoaderProcess", "held_mib"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_QUIET_SECONDS = 0.15  # without CPU use, after which an epoch's work has ended
_MOST_WAIT = 5.0  # for that: some threads poll for as long as they live


class Cost(NamedTuple):
    """One epoch.

    Attributes:
        outputs: images or composites that came out.
        cpu_seconds: user and system time of the process tree.
        wall_seconds: until the last of the work was done, what is read ahead included.
    """

    outputs: int
    cpu_seconds: float
    wall_seconds: float


class LoaderProcess:
    """A contender in a process that lives from round to round.

    Args:
        name: of one of ``CONTENDERS``.
        settings: for all contenders.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, name, settings))
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until it is made; to be called once, before the first epoch.

        Raises:
            RuntimeError: it cannot be made, with its traceback.
        """
        self._answer()

    def run(self) -> Cost:
        """One epoch, from a quiet process to a quiet process; of one that never is, to its answer.

        Raises:
            RuntimeError: it failed, with its traceback, or nothing came out.
        """
        before, start = self._cpu_seconds(), time.perf_counter()
        self._connection.send("epoch")
        outputs = self._answer()
        if outputs == 0:
            raise RuntimeError("an epoch gave no output")
        answered = end = time.perf_counter()
        at_answer = after = self._cpu_seconds()
        while time.perf_counter() - end < _QUIET_SECONDS:
            if time.perf_counter() - answered > _MOST_WAIT:
                return Cost(outputs, at_answer - before, answered - start)
            time.sleep(_QUIET_SECONDS / 5)
            now = self._cpu_seconds()
            if now > after + 1.5 * _TICK:
                after, end = now, time.perf_counter()
        return Cost(outputs, self._cpu_seconds() - before, end - start)

    def peak_mib(self) -> float:
        """The most memory that the process tree holds during an epoch that is not timed.

        Pages that processes share count once.
        """
        peak, stop = 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            ended = False
            while not ended:  # looks at an epoch's end too, however short it was
                ended = stop.wait(0.5)
                peak = max(peak, sum(map(held_mib, self._tree())))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.run()
        finally:
            stop.set()
            watcher.join()
        return peak

    def close(self) -> None:
        """End the process."""
        self._connection.close()  # which ends its loop
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> int:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError("its process ended") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return int(answer)

    def _cpu_seconds(self) -> float:
        return sum(map(_used_seconds, self._tree()))

    def _tree(self) -> list[int]:
        pid = self._process.pid
        return [] if pid is None else list(_descendants(pid))


def _serve(connection: Connection, name: str, settings: Settings) -> None:
    """The child's side: an answer for being made, then one for each epoch."""
    try:
        torch.set_num_threads(settings.threads)
        (contender,) = (c for c in CONTENDERS if c.name == name)
        epoch = contender.make(settings)
        connection.send(0)
        while True:
            connection.recv()
            connection.send(epoch())
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # the bench has ended
    except Exception:
        connection.send(traceback.format_exc())


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = children.read_text().split()
        except OSError:  # the thread has ended
            continue
        for child in pids:
            yield from _descendants(int(child))


def _used_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # User and system time, its own and of children that have ended and been waited for.
    return sum(map(int, fields[11:15])) * _TICK


def held_mib(pid: int) -> float:
    """The memory that a process holds; pages that it shares count in part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
