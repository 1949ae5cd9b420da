"""AddressSanitizer and UndefinedBehaviorSanitizer over every kernel, under several schedules."""

import subprocess
import sys
from pathlib import Path

from batteries import CASES, half_sources
from emulator.build import SANITIZER_EXIT, sanitized_environment

HERE = Path(__file__).parent
# Runs in a process of its own: the sanitizers must be there before anything else is.
RUN = """
import sys
from pathlib import Path
from batteries import CASES
from device import Device
for op in sys.argv[2:]:
    for seed in (0, 1, 2, 3):
        CASES[op](Device("sanitized", seed, Path(sys.argv[1])))
        print(op, seed)
"""


def run_sanitized(folder, *ops):
    environment = sanitized_environment() | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", RUN, str(folder), *ops]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_no_kernel_alarms_the_sanitizers(tmp_path):
    done = run_sanitized(half_sources(tmp_path), *CASES)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(done.stdout.split()) == 2 * 4 * len(CASES)


def test_the_sanitizers_find_a_planted_bug(tmp_path):
    """What they find besides is in test_emulator.py."""
    right, wrong = "  if (vector >= p.vectors_per_row) return;\n", ""

    def plant(name, text):
        assert name != "targets.cu" or right in text
        return text.replace(right, wrong)

    done = run_sanitized(half_sources(tmp_path, plant), "targets")
    assert done.returncode == SANITIZER_EXIT
    assert "heap-buffer-overflow" in done.stderr
