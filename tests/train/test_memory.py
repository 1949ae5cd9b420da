import subprocess
import sys

PROGRAM = """
import resource, sys
import torch
from mixpipe.train.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def step(size):
    torch.ones(size * 1_000_000)

sizes = (40, 30, 20, 38, 25)  # as composites' batches, each of another size
for size in sizes * 2:
    step(size)  # the heap grows
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in sizes * 2:
    step(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that ten steps of 80 to 160 MB take anew."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_freed_memory_is_used_again():
    assert faults("keep") < faults("leave") / 10
