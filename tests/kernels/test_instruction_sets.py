import os
import subprocess
import sys
from pathlib import Path

from mixpipe import _C

HERE = Path(__file__).parent


def test_the_instruction_set_is_named() -> None:
    assert _C.instruction_set() in ("avx2", "baseline")


def test_without_vector_instructions_the_results_are_the_same() -> None:
    """The comparisons with the reference again, on kernels that run on every machine."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-k", "equals_the_reference", str(HERE)),
        ],
        env={**os.environ, "MIXPIPE_CPU": "baseline"},
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_environment_picks_it() -> None:
    named = subprocess.run(
        [sys.executable, "-c", "from mixpipe import _C; print(_C.instruction_set())"],
        env={**os.environ, "MIXPIPE_CPU": "baseline"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert named.stdout.strip() == "baseline"
