"""Where builds are kept, the shared strategies, and the skip where there is no compiler."""

import os
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "kernels"))  # kernel_cases


def pytest_configure(config: pytest.Config) -> None:
    # Shared by pytest-xdist's workers, kept from one run to the next.
    folder = config.rootpath / ".pytest_cache" / "d" / "cuda_on_cpu"
    os.environ.setdefault("MIXPIPE_EMULATOR_CACHE", str(folder))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("g++") is None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="g++ is not on the PATH"))
