"""CPU kernels in threads: torch's own on the main thread; a pool elsewhere, and after a fork."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mixpipe import kernels


def losses() -> torch.Tensor:
    """Large enough for several pieces of work."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(256, 1000, generator=draw)
    classes = torch.randint(1000, (256, 2), generator=draw)
    return kernels.composite_cross_entropy(logits, classes, torch.full((256, 2), 0.5))[1]


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_another_thread_gives_the_same():
    expected = losses()
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda _: losses(), range(12)):
            assert torch.equal(found, expected)
    assert torch.equal(losses(), expected)


def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    expected = losses()  # starts torch's threads
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        code = 1
        try:
            code = 0 if torch.equal(losses(), expected) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_main_thread_uses_the_threads_that_torch_has():
    program = """
import os, torch
from mixpipe import kernels
torch.set_num_threads(2)
torch.rand(2000, 2000).exp()
threads = len(os.listdir("/proc/self/task"))
logits, classes = torch.randn(256, 1000), torch.zeros(256, 1, dtype=torch.int64)
kernels.composite_cross_entropy(logits, classes, torch.ones(256, 1))
print(len(os.listdir("/proc/self/task")) - threads)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
