"""A corpus of ImageNet-like JPEGs, cut from real photographs: about 500 × 375, 40 to 220 KB."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from PIL import Image
from tqdm import tqdm

__all__ = ["find_photos", "make_corpus", "multiplied"]

logger = logging.getLogger(__name__)

# Where Debian's packages lomiri-wallpapers-16.04 and mate-backgrounds keep their photographs.
_SYSTEM_PHOTOS = (Path("/usr/share/backgrounds"), Path("/usr/share/backgrounds/mate/nature"))
_LEAST, _MOST = 40_000, 220_000  # bytes
_CLASSES = 16
_SHAPES = ((500, 375), (500, 333), (375, 500), (500, 400), (480, 360))  # width, height
_VERSION = 2  # of what is made; older corpora are made anew


def find_photos(photos: Path | None) -> list[Path]:
    """The photographs to cut from: those of a folder, of the system, or of scikit-image.

    Raises:
        FileNotFoundError: there are none.
    """
    if photos is not None:
        found = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        if not found:
            raise FileNotFoundError(f"--photos {photos}: expected JPEG photographs there")
        return found
    found = [path for folder in _SYSTEM_PHOTOS for path in sorted(folder.glob("*.jpg"))]
    if found:
        return found
    try:
        from skimage import data
    except ImportError:
        raise FileNotFoundError(
            "no photographs found: install Debian's packages lomiri-wallpapers-16.04 and "
            "mate-backgrounds or Python's scikit-image, or name a folder with --photos"
        ) from None
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
    folder = Path(data.__file__).parent
    return [folder / name for name in names if (folder / name).exists()]


def make_corpus(photos: Path | None, count: int, cache_dir: Path | None = None) -> Path:
    """A folder with one folder a class and ``count`` JPEGs in all, the same ones every time.

    Args:
        photos: a folder of photographs, see ``find_photos``.
        count: JPEGs to make.
        cache_dir: keeps the corpus; by default the user's cache folder.

    Raises:
        FileNotFoundError: no photographs.
        ValueError: they do not yield images of the size sought.
    """
    sources = find_photos(photos)
    state = hashlib.sha256(repr((_VERSION, count)).encode())
    for path in sources:
        state.update(f"{path}\0{path.stat().st_size}\0".encode())
    cache = cache_dir or platformdirs.user_cache_path("mixpipe")
    corpus = cache / f"photos-{state.hexdigest()[:16]}"
    if corpus.exists():
        return corpus
    cache.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=cache, prefix=f".{corpus.name}."))
    try:
        _fill(beside, sources, count)
        beside.rename(corpus)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    logger.info("%d JPEGs from %d photographs in %s", count, len(sources), corpus)
    return corpus


def multiplied(corpus: Path, times: int) -> Path:
    """A corpus with every JPEG of another so many times, beside it and kept, of hard links."""
    if times == 1:
        return corpus
    larger = corpus.with_name(f"{corpus.name}-x{times}")
    if larger.exists():
        return larger
    beside = Path(tempfile.mkdtemp(dir=corpus.parent, prefix=f".{larger.name}."))
    try:
        for path in sorted(corpus.glob("*/*.jpg")):
            place = beside / path.parent.name
            place.mkdir(exist_ok=True)
            for i in range(times):
                os.link(path, place / f"{path.stem}_{i}.jpg")
        beside.rename(larger)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return larger


def _fill(folder: Path, sources: list[Path], count: int) -> None:
    for number in range(_CLASSES):
        (folder / f"class_{number:02d}").mkdir()
    with tqdm(total=count, desc="making JPEGs", unit="image", disable=None) as bar:
        done = 0
        for number, source in enumerate(sources):
            share = math.ceil((count - done) / (len(sources) - number))
            with Image.open(source) as image:
                photo = image.convert("RGB")
            for i in range(done, done + share):
                data = _encoded_part(photo, np.random.default_rng(i))
                if data is None:  # a smooth one: the others make up for it
                    logger.info("left out: %s", source)
                    break
                path = folder / f"class_{i % _CLASSES:02d}" / f"image_{i:05d}.jpg"
                path.write_bytes(data)
                done += 1
                bar.update()
    if done < count:
        raise ValueError(
            f"--photos: {len(sources)} photographs gave {done} JPEGs of {_LEAST // 1000} to "
            f"{_MOST // 1000} KB, expected {count}; the last are too smooth"
        )


def _encoded_part(photo: Image.Image, rng: np.random.Generator) -> bytes | None:
    """A random part of a photograph as a JPEG of the size sought; None if that cannot be found."""
    for _ in range(20):
        width, height = _SHAPES[rng.integers(len(_SHAPES))]
        fit = min(photo.width / width, photo.height / height)
        scale = fit * rng.uniform(0.35, 1.0)
        box = _random_box(photo, width * scale, height * scale, rng)
        part = photo.resize((width, height), Image.Resampling.LANCZOS, box=box)
        file = io.BytesIO()
        part.save(file, "JPEG", quality=int(rng.integers(93, 99)))
        if _LEAST <= file.tell() <= _MOST:
            return file.getvalue()
    return None


def _random_box(
    photo: Image.Image, width: float, height: float, rng: np.random.Generator
) -> tuple[Any, ...]:
    x, y = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    return x, y, x + width, y + height
