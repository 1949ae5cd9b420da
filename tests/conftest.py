import numpy as np
import pytest
import torch
from PIL import Image


def pytest_configure():
    # Tests run side by side; torch's threads would wait for each other on the same cores.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A data set of its own kind: JPEGs of 40 × 52 pixels in three classes a child could tell."""
    root = tmp_path_factory.mktemp("shapes")
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        for label, name in enumerate(("dark disc", "light disc", "stripes")):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                y, x = np.mgrid[:40, :52]
                disc = (y - random.uniform(12, 28)) ** 2 + (x - random.uniform(16, 36)) ** 2 < 100
                pixels = random.integers(100, 156, (40, 52, 3)).astype(np.uint8)
                if label < 2:
                    pixels[disc] = 255 * label
                else:
                    pixels[:, ::4] = 0
                Image.fromarray(pixels).save(place / f"{i}.jpg", quality=92)
    return root
