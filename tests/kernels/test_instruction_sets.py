import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixpipe import _C

HERE = Path(__file__).parent


def test_the_instruction_set_is_named() -> None:
    assert _C.instruction_set() in ("avx512", "avx2", "baseline")


@pytest.mark.parametrize("name", ["baseline", "avx2"])
def test_with_fewer_instructions_the_results_are_right(name: str) -> None:
    """The comparisons with the reference again, on kernels that run on lesser machines."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-k", "equals_the_reference", str(HERE)),
        ],
        env={**os.environ, "MIXPIPE_CPU": name},
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", ["baseline", "avx2"])
def test_the_environment_picks_it(name: str) -> None:
    if _C.instruction_set() == "baseline":
        name = "baseline"  # there is nothing else
    named = subprocess.run(
        [sys.executable, "-c", "from mixpipe import _C; print(_C.instruction_set())"],
        env={**os.environ, "MIXPIPE_CPU": name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert named.stdout.strip() == name


def test_all_instruction_sets_give_the_same_bits() -> None:
    """Of what is summed; the other kernels are compared bit for bit with the reference above."""
    program = """
import hashlib, torch
from mixpipe import kernels
draw = torch.Generator().manual_seed(0)
digest = hashlib.sha256()
for classes in (1, 10, 15, 16, 17, 1000, 1500):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        logits = (4 * torch.randn(7, classes, generator=draw)).to(dtype).requires_grad_()
        indices = torch.randint(classes, (7, 2), generator=draw)
        labels = torch.rand(7, 2, classes, generator=draw)
        for targets in (indices, labels):
            logits.grad = None
            loss, losses = kernels.composite_cross_entropy(
                logits, targets, torch.rand(7, 2, generator=draw), label_smoothing=0.1
            )
            loss.backward()
            for result in (loss.detach(), losses, logits.grad.float()):
                digest.update(result.numpy().tobytes())
print(digest.hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "MIXPIPE_CPU": name},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in ("baseline", "avx2", "")
    }
    assert len(found) == 1
