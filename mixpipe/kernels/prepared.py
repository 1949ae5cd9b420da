"""A kernel call that is ready but for a table, which must lie where the kernel runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mixpipe import _C


@dataclass(frozen=True)
class Prepared:
    """A call with its arguments checked; ready once its table is on the device.

    Attributes:
        table: what the host worked out for the kernel: structs of csrc/ as bytes, in order.
        launch: the kernel's parameters and launch geometry for a table that lies at an address.
    """

    table: NDArray[np.uint8]
    launch: Callable[[int], _C.Launch]

    def run_cpu(self) -> None:
        """Runs the CPU kernel on as many threads as torch uses."""
        self.launch(self.table.ctypes.data).run_cpu(torch.get_num_threads())
