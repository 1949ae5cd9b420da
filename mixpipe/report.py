"""Results in one form: what was measured, on what, by which command, and against which goal."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

__all__ = ["Figure", "environment", "open_beside", "write_json", "write_report"]

PACKAGES = (
    "mixpipe",
    "torch",
    "torchvision",
    "timm",
    "kornia",
    "numpy",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "spdl",
    "ffcv",
)


class Figure(NamedTuple):
    """One figure with its goal.

    Attributes:
        name: what was measured, with its unit.
        value: what came out.
        goal: the bound to meet, as ``">= 1.6"`` or ``"<= 1.05"``; None for a figure without one.
    """

    name: str
    value: float
    goal: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value keeps to the goal; None without a goal."""
        if self.goal is None:
            return None
        relation, bound = self.goal.split()
        if relation not in (">=", "<="):
            raise ValueError(f"goal: expected '>= x' or '<= x', got {self.goal!r}")
        return self.value >= float(bound) if relation == ">=" else self.value <= float(bound)


def environment(command: str | None = None) -> dict[str, Any]:
    """Hardware, versions, commit, date and command: the ``meta`` of every result.

    Args:
        command: the command line that measured; by default this process's own.
    """
    return {
        "hardware": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command or _command(),
    }


def write_report(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[Figure],
    command: str | None = None,
) -> None:
    """Write ``{"meta", "rows", "figures"}`` to ``path``, whole or not at all."""
    shown = [{**figure._asdict(), "met": figure.met} for figure in figures]
    write_json(path, {"meta": environment(command), "rows": list(rows), "figures": shown})


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON to ``path``, whole or not at all."""
    with open_beside(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


@contextmanager
def open_beside(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that takes ``path``'s place when the block ends well, and else is gone."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _command() -> str:
    """This process's command line, for a shell; of paths from the root only the name."""
    name = Path(sys.argv[0]).name
    words = ["mixpipe" if name == "__main__.py" else name, *sys.argv[1:]]
    return shlex.join(Path(word).name if Path(word).is_absolute() else word for word in words)


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, with a mark where it was changed."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # An installed package may lie in somebody else's checkout.
        if Path(git("rev-parse", "--show-toplevel")) != root.resolve():
            return None
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return None
