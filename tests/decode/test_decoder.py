"""The decoder on real photographs against Pillow and torchvision, and its behaviour over epochs."""

import gc
import io
import itertools
import os
import weakref
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixpipe.data import BytesStore, FolderStore, TarStore
from mixpipe.decode import DecodeError, Decoder, graph
from mixpipe.decode import decoder as decoder_module
from mixpipe.kernels import compose_resampled
from mixpipe.plan import (
    CenterCrop,
    CutMix,
    DecodeJob,
    LossTable,
    MixTrain,
    MixUp,
    Plain,
    RandomResizedCrop,
    plan_batch,
)

PHOTOS = {
    path.stem: path
    for path in sorted((Path(__file__).parent.parent / "photos").iterdir())
    if path.suffix == ".jpg"
}
PIXELS = {name: np.asarray(Image.open(path).convert("RGB")) for name, path in PHOTOS.items()}


@pytest.fixture(scope="module")
def photos() -> BytesStore:
    return BytesStore([path.read_bytes() for path in PHOTOS.values()], range(len(PHOTOS)))


def job(ids, sizes, reads=None, windows=None, store=None) -> DecodeJob:
    """A job; by default for whole images."""
    ids = np.asarray(ids, dtype=np.int64)
    if reads is None:
        heights, widths = store.index.heights[ids], store.index.widths[ids]
        zero = np.zeros_like(heights)
        reads = np.stack([zero, zero, heights, widths], axis=1)
    reads = np.asarray(reads, dtype=np.int32).reshape(-1, 4)
    windows = reads if windows is None else np.asarray(windows).reshape(-1, 4)
    sizes = np.broadcast_to(np.asarray(sizes, dtype=np.int32), (len(ids), 2))
    return DecodeJob(ids, reads, windows.astype(np.float32), sizes)


def decode(store, *jobs, **options) -> list[list[np.ndarray]]:
    """What is decoded of each job: its ``reads``, uint8."""
    decoder = Decoder(store, **options)
    return [[pixels.numpy().copy() for pixels in decoded] for _, decoded in decoder.decode(jobs)]


def patches(store, *jobs) -> list[list[np.ndarray]]:
    """What the kernel makes of it: the windows at their sizes, float32 levels of 255, unrounded."""
    return [
        [
            patch_of(torch.from_numpy(pixels), window - np.tile(read[:2], 2), size)
            for pixels, window, read, size in zip(
                decoded, done.windows, done.reads, done.sizes, strict=True
            )
        ]
        for done, decoded in zip(jobs, decode(store, *jobs), strict=True)
    ]


def patch_of(pixels, window, size) -> np.ndarray:
    size = [int(edge) for edge in size]
    image = compose_resampled(
        [pixels],
        torch.tensor(np.array(window)[None], dtype=torch.float32),
        torch.tensor([size], dtype=torch.int32),
        torch.zeros(1, 1, dtype=torch.int32),
        torch.tensor([[[0, 0, *size]]], dtype=torch.int32),
        size=tuple(size),
        mean=(0, 0, 0),
        std=(1 / 255,) * 3,
    )
    return image[0].permute(1, 2, 0).numpy()


def difference(ours, theirs) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(float) - theirs.astype(float)).max())


def test_decoding_alone_is_exact(photos):
    """Any rectangle is bit for bit what Pillow decodes there, whatever becomes of it then."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, len(PHOTOS), 60)
    reads = []
    for i in ids:
        h, w = photos.index.heights[i], photos.index.widths[i]
        y, x = sorted(rng.choice(h + 1, 2, replace=False)), sorted(rng.choice(w + 1, 2, False))
        reads.append((y[0], x[0], y[1], x[1]))
    reads = np.array(reads)
    (decoded,) = decode(photos, job(ids, (5, 7), reads))
    for i, (y0, x0, y1, x1), ours in zip(ids, reads, decoded, strict=True):
        np.testing.assert_array_equal(ours, list(PIXELS.values())[i][y0:y1, x0:x1])


@st.composite
def windows_in_reads(draw):
    """A photograph, a rectangle of it, a window in that and a size."""
    name = draw(st.sampled_from(list(PHOTOS)))
    height, width = PIXELS[name].shape[:2]
    read, window = [0] * 4, [0.0] * 4
    for axis, extent in enumerate((height, width)):
        start = draw(st.integers(0, extent - 2))
        stop = draw(st.integers(start + 2, extent))
        low = draw(st.floats(0, 0.9))
        high = draw(st.floats(low + 0.05, 1))
        read[axis], read[axis + 2] = start, stop
        window[axis] = np.float32(start + low * (stop - start))
        window[axis + 2] = min(np.float32(start + high * (stop - start)), np.float32(stop))
    size = (draw(st.integers(1, 80)), draw(st.integers(1, 80)))
    return name, read, [float(edge) for edge in window], size


@settings(deadline=None, max_examples=25)
@given(st.lists(windows_in_reads(), min_size=1, max_size=6))
def test_windows_are_resampled_as_pillow_does(cases):
    """Pillow rounds to a byte after each of its two passes: half a level and half a level."""
    names = list(PHOTOS)
    ids = [names.index(name) for name, *_ in cases]
    reads, windows, sizes = zip(*(case[1:] for case in cases), strict=True)
    store = BytesStore([path.read_bytes() for path in PHOTOS.values()], range(len(PHOTOS)))
    (ours,) = patches(store, job(ids, sizes, reads, np.array(windows)))
    for (name, read, window, size), patch in zip(cases, ours, strict=True):
        y0, x0, y1, x1 = read
        part = Image.fromarray(PIXELS[name][y0:y1, x0:x1])
        box = (window[1] - x0, window[0] - y0, window[3] - x0, window[2] - y0)
        theirs = part.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
        assert difference(patch, np.asarray(theirs)) < 1.02


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("size", [(224, 224), (97, 160), (32, 32)])
def test_whole_image_equals_torchvision(photos, name, size):
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    image = Image.open(PHOTOS[name]).convert("RGB")
    theirs = np.asarray(functional.resize(image, list(size), antialias=True))
    ((ours,),) = patches(photos, job([list(PHOTOS).index(name)], size, store=photos))
    assert difference(ours, theirs) < 1.02  # Pillow rounds twice
    # Once rounded, a value is off by a quarter on average.
    assert np.abs(ours - theirs).mean() < 0.4


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_part_of_a_crop_is_that_part_of_its_patch(photos, data):
    """The claim that lets a composite decode only what it shows.

    The window's edges are float32, so a source position may differ by some 1e-5 pixels between the
    whole and the part.
    """
    draw = data.draw
    canvas = draw(st.sampled_from([(224, 224), (96, 64), (28, 28)]))
    wholes, parts, slices = [], [], []
    for _ in range(6):
        i = draw(st.integers(0, len(PHOTOS) - 1))
        extent = (int(photos.index.heights[i]), int(photos.index.widths[i]))
        crop, window, read, size, cut = [0] * 4, [0.0] * 4, [0] * 4, [0, 0], [None, None]
        for axis in range(2):
            start = draw(st.integers(0, extent[axis] - 30))
            stop = draw(st.integers(start + 30, extent[axis]))
            scale = (stop - start) / canvas[axis]
            low = draw(st.integers(0, canvas[axis] - 1))
            high = draw(st.integers(low + 1, canvas[axis]))
            crop[axis], crop[axis + 2] = start, stop
            window[axis], window[axis + 2] = start + low * scale, start + high * scale
            read[axis] = max(start, int(np.floor(window[axis] - max(1, scale))))
            read[axis + 2] = min(stop, int(np.ceil(window[axis + 2] + max(1, scale))))
            size[axis], cut[axis] = high - low, slice(low, high)
        wholes.append((i, canvas, crop, crop))
        parts.append(
            (i, size, read, np.clip(np.float32(window), np.tile(read[:2], 2), read[2:] * 2))
        )
        slices.append(tuple(cut))
    jobs = [job(*map(np.array, zip(*cases, strict=True))) for cases in (wholes, parts)]
    whole, part = patches(photos, *jobs)
    for full, piece, cut in zip(whole, part, slices, strict=True):
        assert difference(full[cut], piece) < 0.05


@pytest.mark.parametrize("axis", [0, 1])
def test_halves_of_random_crops_make_up_the_whole(photos, axis):
    """As above, and from end to end of real crops."""
    rng = np.random.default_rng(5)
    canvas = np.array([224, 224])
    ids = rng.integers(0, len(PHOTOS), 40)
    extents = np.stack([photos.index.heights[ids], photos.index.widths[ids]], axis=1)
    shape = rng.integers(extents // 3, extents + 1)
    start = rng.integers(0, extents - shape + 1)
    crops = np.hstack([start, start + shape])
    at = rng.integers(1, canvas[axis], len(ids))
    scale = shape / canvas
    low, high = crops.astype(float), crops.astype(float)
    low[:, axis + 2] = high[:, axis] = start[:, axis] + at * scale[:, axis]
    reach = np.maximum(1, scale)
    jobs = [job(ids, canvas, crops)]
    for window, length in ((low, at), (high, canvas[axis] - at)):
        reads = np.hstack([np.floor(window[:, :2] - reach), np.ceil(window[:, 2:] + reach)])
        reads = np.hstack(
            [np.maximum(reads[:, :2], crops[:, :2]), np.minimum(reads[:, 2:], crops[:, 2:])]
        )
        sizes = np.tile(canvas, (len(ids), 1))
        sizes[:, axis] = length
        jobs.append(job(ids, sizes, reads, window))
    wholes, *halves = patches(photos, *jobs)
    joined = [np.concatenate(pair, axis=axis) for pair in zip(*halves, strict=True)]
    assert max(map(difference, joined, wholes)) < 0.05


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    return exif


def rocket() -> Image.Image:
    return Image.open(PHOTOS["rocket"]).convert("RGB").resize((160, 107))


KINDS = {
    "grey jpeg": lambda: encode(rocket().convert("L"), "JPEG"),
    "4:2:2 jpeg": lambda: encode(rocket(), "JPEG", subsampling=1),
    "progressive jpeg": lambda: encode(rocket(), "JPEG", progressive=True),
    "exif jpeg": lambda: encode(rocket(), "JPEG", exif=exif_rotated()),
    "png": lambda: encode(rocket(), "PNG"),
    "grey png": lambda: encode(rocket().convert("L"), "PNG"),
    "one-bit png": lambda: encode(rocket().convert("1"), "PNG"),
    "palette png": lambda: encode(rocket().quantize(64), "PNG"),
    "rgba png": lambda: encode(rocket().convert("RGBA"), "PNG"),
    "bmp": lambda: encode(rocket(), "BMP"),
    "tiff": lambda: encode(rocket(), "TIFF"),
    "ppm": lambda: encode(rocket(), "PPM"),
    "pgm": lambda: encode(rocket().convert("L"), "PPM"),
    "webp": lambda: encode(rocket(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images(kind):
    """All become RGB, in the orientation they are stored in, exactly as Pillow decodes them."""
    data = KINDS[kind]()
    store = BytesStore([data], [0])
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (store.index.heights[0], store.index.widths[0]) == theirs.shape[:2]
    ((ours,),) = decode(store, job([0], theirs.shape[:2], store=store))
    np.testing.assert_array_equal(ours, theirs)


def test_cmyk_jpeg():
    """DALI and Pillow have different formulas from CMYK to RGB; the picture must be the same."""
    data = encode(rocket().convert("CMYK"), "JPEG", quality=95)
    store = BytesStore([data], [0])
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    ((ours,),) = decode(store, job([0], theirs.shape[:2], store=store))
    assert np.abs(ours.astype(float) - theirs).mean() < 2


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, (name, path) in enumerate(PHOTOS.items()):
        target = tmp_path / "images" / f"klasse {i % 2} ü" / f"{name} – 写真.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path / "images"


def test_folder_tar_and_bytes_decode_alike(folder, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "x.tar", "w:") as tar:
        tar.add(folder, ".")
    disk = FolderStore(folder, cache_dir=tmp_path / "cache")
    packed = TarStore(tmp_path / "x.tar", cache_dir=tmp_path / "cache")
    memory = BytesStore([data.tobytes() for data in disk.encoded(range(4))], disk.index.labels)
    outputs = [
        decode(store, job([3, 0, 1, 2, 0], (50, 60), store=store))
        for store in (disk, packed, memory)
    ]
    for other in outputs[1:]:
        for ours, theirs in zip(outputs[0][0], other[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_pixels_are_tensors_on_dalis_memory(photos):
    decoder = Decoder(photos)
    reads = [(0, 10, 30, 50), (7, 0, 57, 20)]
    ((done, decoded),) = decoder.decode([job([0, 1], (8, 8), reads)])
    assert done.ids.tolist() == [0, 1]
    assert [tuple(p.shape) for p in decoded] == [(30, 40, 3), (50, 20, 3)]
    assert all(p.dtype == torch.uint8 and p.is_contiguous() for p in decoded)
    kept = [p.clone() for p in decoded]
    # Held longer than promised, they still stand: the graph's executor counts references.
    for _ in decoder.decode([job([2, 3], (64, 64), store=photos)] * 5):
        pass
    assert all(torch.equal(a, b) for a, b in zip(kept, decoded, strict=True))


def test_order_of_a_batch_changes_nothing(photos):
    reads = [(10, 20, 250, 300), (0, 0, 300, 451), (100, 7, 228, 400)]
    ids, sizes = [0, 2, 1], [(33, 44), (64, 64), (1, 90)]
    (straight,) = decode(photos, job(ids, sizes, reads), threads=1)
    (turned,) = decode(photos, job(ids[::-1], sizes[::-1], reads[::-1]), threads=2, prefetch=1)
    for one, other in zip(straight, turned[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_epochs_give_their_own_jobs(photos, prefetch):
    """Batches of any number of images, epochs of any number of batches, left at any point."""
    rng = np.random.default_rng(3)
    decoder = Decoder(photos, prefetch=prefetch)
    for epoch in range(12):
        batches = epoch % 5
        jobs = []
        for number in range(batches):
            ids = rng.integers(0, 4, rng.integers(1, 6))
            jobs.append(job(ids, (8, 8), [(0, 0, epoch + 1, number + 1)] * len(ids)))
        leave = rng.integers(0, batches + 1) if epoch % 2 else None
        outputs = decoder.decode(iter(jobs))
        seen = list(itertools.islice(outputs, leave))
        outputs.close()
        assert len(seen) == (batches if leave is None else leave)
        for expected, (given_job, decoded) in zip(jobs, seen, strict=False):
            assert given_job is expected
            assert len(decoded) == len(expected.ids)
            assert all(tuple(p.shape[:2]) == tuple(expected.reads[0, 2:]) for p in decoded)


def test_jobs_are_taken_as_they_are_needed(photos):
    taken = []

    def jobs():
        for number in range(10):
            taken.append(number)
            yield job([0], (8, 8), store=photos)

    outputs = Decoder(photos, prefetch=2).decode(jobs())
    next(outputs)
    assert len(taken) <= 3
    outputs.close()
    assert len(taken) <= 3


def test_batch_larger_than_any_before(photos):
    sizes = [1, 300, 2, 1000, 256]
    decoder = Decoder(photos)
    jobs = [job(np.arange(n) % 4, (4, n % 7 + 1), [(0, 0, 8, 8)] * n) for n in sizes]
    for _ in range(2):
        outputs = list(decoder.decode(jobs))
        assert [len(decoded) for _, decoded in outputs] == sizes
        assert all(
            given_job is expected for (given_job, _), expected in zip(outputs, jobs, strict=True)
        )


@pytest.mark.parametrize("crop", [RandomResizedCrop(), CenterCrop(resize=72), CenterCrop(None)])
@pytest.mark.parametrize("policy", [Plain(), CutMix(), MixUp(), MixTrain(k=3, warmup=0)])
def test_plans_are_decoded(photos, policy, crop):
    """Whatever the planner asks for is a job that works, and gives what it asked for."""
    store = BytesStore([photos.encoded([i % 4])[0].tobytes() for i in range(12)], [0] * 12)
    table = LossTable(len(store.index))
    table.update(torch.arange(12), torch.linspace(0.1, 2, 12), 0)
    plan = policy.plan(table, 1, 7)
    index = store.index
    jobs = [
        plan_batch(plan, batch, index.heights, index.widths, (64, 64), crop).job
        for batch in plan.batches(4)
    ]
    outputs = decode(store, *jobs)
    for planned, decoded in zip(jobs, outputs, strict=True):
        shapes = planned.reads[:, 2:] - planned.reads[:, :2]
        assert [pixels.shape[:2] for pixels in decoded] == [tuple(shape) for shape in shapes]


def test_evaluation_equals_torchvision(photos):
    """Resize(256) and CenterCrop(224), though only what the crop shows is decoded."""
    transforms = pytest.importorskip("torchvision.transforms.v2")
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    plan = Plain(shuffle=False).plan(LossTable(len(PHOTOS)), 0, 0)
    index = photos.index
    (batch,) = plan.batches(len(PHOTOS))
    planned = plan_batch(plan, batch, index.heights, index.widths, (224, 224), CenterCrop(256)).job
    (ours,) = patches(photos, planned)
    for i, patch in zip(planned.ids, ours, strict=True):
        image = Image.fromarray(list(PIXELS.values())[i])
        assert difference(patch, np.asarray(theirs(image))) < 1.02  # Pillow rounds twice
    whole = int((index.heights * index.widths).sum())
    decoded = int(np.prod(planned.reads[:, 2:] - planned.reads[:, :2], axis=1).sum())
    assert decoded < 0.75 * whole


def usage() -> tuple[int, int, float]:
    """Threads, open files, resident MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        len(list(Path("/proc/self/task").iterdir())),
        len(list(Path("/proc/self/fd").iterdir())),
        pages * os.sysconf("SC_PAGESIZE") / 1e6,
    )


@pytest.mark.parametrize(
    "given",
    [{}, {"DALI_MALLOC_POOL_THRESHOLD": "4M"}, {"MALLOC_MMAP_THRESHOLD_": "65536"}],
    ids=str,
)
def test_dali_is_asked_for_its_pool_unless_the_caller_has_settings(photos, monkeypatch, given):
    """What it does for memory is measured: `mixpipe bench loader`."""
    names = ("DALI_MALLOC_POOL_THRESHOLD", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    decode(photos, job([0], (8, 8), store=photos))
    expected = given or {"DALI_MALLOC_POOL_THRESHOLD": "1M"}
    assert {name: os.environ[name] for name in names if name in os.environ} == expected


@pytest.mark.parametrize("ended", ["at the end", "early", "by an error"])
def test_an_epoch_holds_nothing_that_the_garbage_collector_must_find(photos, ended):
    """Jobs and encoded images are megabytes, and it counts objects."""
    refs = []

    def jobs():
        for i in range(6):
            one = job([0, 1], (8, 8), store=photos)
            refs.append(weakref.ref(one))
            if ended == "by an error" and i == 3:
                raise OSError("gone")
            yield one
            del one

    decoder = Decoder(photos)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            before = len(refs)
            with closing(decoder.decode(jobs())) as decoding, suppress(OSError):
                for number, _ in enumerate(decoding):
                    if ended == "early" and number == 2:
                        break
            del _, decoding
        # What was under way in the last epoch is forgotten as the next one begins.
        assert before >= 8
        assert [ref() for ref in refs[:before]] == [None] * before
    finally:
        gc.enable()


def test_a_hundred_early_ends_leave_nothing_behind(folder, tmp_path):
    store = FolderStore(folder, cache_dir=tmp_path / "cache")
    decoder = Decoder(store)
    jobs = [job(np.arange(8) % 4, (64, 64), [(0, 0, 64, 64)] * 8)] * 6

    def leave(times: int) -> None:
        for i in range(times):
            if i % 3 == 0:
                for _ in decoder.decode(jobs):
                    break
            elif i % 3 == 1:
                with pytest.raises(KeyError):
                    for _ in decoder.decode(jobs):
                        raise KeyError
            else:
                outputs = decoder.decode(jobs)
                next(outputs)
                next(outputs)
                outputs.close()

    leave(20)
    before = usage()
    leave(100)
    after = usage()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert after[2] < before[2] + 20
    assert len(list(decoder.decode(jobs))) == 6


def test_closing_frees_the_threads(photos):
    jobs = [job([0], (8, 8), store=photos)]

    def use() -> None:
        decoder = Decoder(photos, threads=4)
        for _ in range(2):  # closed, it can be used again
            assert len(list(decoder.decode(jobs))) == 1
            decoder.close()

    use()
    before = usage()
    for _ in range(10):
        use()
    after = usage()
    # Fewer where threads of earlier tests end meanwhile.
    assert after[0] <= before[0]
    assert after[1] <= before[1]


def test_one_epoch_at_a_time(photos):
    decoder = Decoder(photos)
    jobs = [job([0], (8, 8), store=photos)] * 3
    outputs = decoder.decode(jobs)
    next(outputs)
    with pytest.raises(RuntimeError, match="close its iterator first"):
        next(decoder.decode(jobs))
    assert len(list(outputs)) == 2
    assert len(list(decoder.decode(jobs))) == 3


def test_error_in_the_jobs_comes_after_the_batches_before_it(photos):
    def jobs():
        yield job([0], (8, 8), store=photos)
        yield job([1], (8, 8), store=photos)
        raise RuntimeError("no plan")

    decoder = Decoder(photos)
    seen = []
    with pytest.raises(RuntimeError, match="^no plan$"):
        for given_job, _ in decoder.decode(jobs()):
            seen.append(int(given_job.ids[0]))
    assert seen == [0, 1]
    assert len(list(decoder.decode([job([0], (8, 8), store=photos)]))) == 1


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"nonsense"),
    "head only": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "smaller": lambda path: path.write_bytes(encode(Image.new("RGB", (9, 9)), "JPEG")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("at", [0, 1, 5])
def test_image_that_fails_is_named(folder, tmp_path, damage, at):
    """Wherever it is, the epoch after it works."""
    store = FolderStore(folder, cache_dir=tmp_path / "cache")
    broken = 2
    whole = [i for i in range(4) if i != broken]
    DAMAGE[damage](Path(store.name(broken)))
    decoder = Decoder(store)
    good = job(np.resize(whole, 7), (16, 16), store=store)
    bad = job([0, 1, 3, broken, 0], (16, 16), store=store)
    with pytest.raises(DecodeError) as caught:
        for _ in decoder.decode([good] * at + [bad] + [good] * 3):
            pass
    assert caught.value.sample == broken
    assert str(caught.value).startswith(store.name(broken))
    assert "traceback" not in str(caught.value)
    assert len(list(decoder.decode([good] * 3))) == 3


def test_image_that_fails_after_an_early_end(folder, tmp_path):
    """In a batch that nobody waits for it is no error, and the next epoch works."""
    store = FolderStore(folder, cache_dir=tmp_path / "cache")
    Path(store.name(2)).write_bytes(b"nonsense")
    decoder = Decoder(store)
    good = job([0, 1, 3], (16, 16), store=store)
    for _ in decoder.decode([good, job([2], (16, 16), store=store), good]):
        break
    assert len(list(decoder.decode([good] * 4))) == 4


def test_bytes_that_cannot_be_had(tmp_path):
    class Lost(BytesStore):
        def encoded(self, ids):
            raise OSError("disk gone")

    store = Lost([PHOTOS["coffee"].read_bytes()], [0])
    with pytest.raises(OSError, match="disk gone"):
        next(Decoder(store).decode([job([0], (8, 8), store=store)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array([4])}, r"job\.ids: expected samples 0 to 3, got 4"),
        ({"ids": np.array([-1])}, r"job\.ids"),
        ({"ids": np.array([], np.int64)}, "at least one"),
        ({"reads": np.array([[0, 0, 10, 10, 3]])}, r"job\.reads: expected shape \(1, 4\)"),
        ({"reads": np.array([[0, 0, 9999, 10]])}, r"job\.reads\[0\]: .*512 x 512.*got \[0, 0, 99"),
        ({"reads": np.array([[-1, 0, 20, 20]])}, r"job\.reads\[0\]"),
        ({"reads": np.array([[5, 0, 5, 20]])}, r"job\.reads\[0\]"),
        ({"windows": np.array([[0, 0, 20.5, 20]], np.float32)}, r"job\.windows\[0\]: .*20\.5"),
        ({"windows": np.array([[3, 0, 3, 20]], np.float32)}, r"job\.windows\[0\]"),
        ({"windows": np.array([[np.nan, 0, 3, 20]], np.float32)}, r"job\.windows\[0\]"),
        ({"sizes": np.array([[0, 5]])}, r"job\.sizes\[0\]: expected at least 1 x 1"),
    ],
)
def test_jobs_that_cannot_work(photos, change, message):
    from dataclasses import replace

    good = job([0], (5, 5), reads=[(0, 0, 20, 20)])
    decoder = Decoder(photos)
    with pytest.raises(ValueError, match=message):
        next(decoder.decode([replace(good, **change)]))
    assert len(list(decoder.decode([good]))) == 1


@pytest.mark.parametrize(
    "options",
    [{"device": "meta"}, {"decode_device": "cuda"}, {"threads": 0}, {"prefetch": 0}],
)
def test_arguments_that_cannot_work(photos, options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected"):
        Decoder(photos, **options)


def test_a_batch_of_another_epoch_would_be_noticed(photos):
    """The ids come through the graph; a stale batch is an error, never a silent mix-up."""
    decoder = Decoder(photos)
    outputs = decoder.decode(job([i], (8, 8), store=photos) for i in (0, 1, 2))
    next(outputs)
    decoder._feed.under_way.reverse()
    decoder._feed.under_way.append(job([3], (8, 8), store=photos))
    decoder._feed.under_way.rotate(1)
    with pytest.raises(RuntimeError, match="another batch"):
        next(outputs)


def quarters(store) -> DecodeJob:
    """The four quarters of every photo: excerpts that begin and end in the middle of blocks."""
    ids = np.repeat(np.arange(len(store.index)), 4)
    h, w = store.index.heights[ids] // 2, store.index.widths[ids] // 2
    y, x = np.tile([0, 0, 1, 1], len(ids) // 4) * h, np.tile([0, 1, 0, 1], len(ids) // 4) * w
    return job(ids, (64, 64), reads=np.stack([y, x, y + h, x + w], axis=1), store=store)


def test_the_gpus_graph_decodes_the_same(photos, monkeypatch):
    """Decoding excerpts whole and slicing, as on a GPU, but here on the CPU: bit for bit."""
    jobs = [job([0, 1, 2, 3], (64, 64), store=photos), quarters(photos)]
    parts = decode(photos, *jobs)
    monkeypatch.setattr(graph, "decode_part", partial(graph.decode_and_slice, device="cpu"))
    for one, other in zip(parts, decode(photos, *jobs), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("handle", "number"), [(0, 1), (4711, 4711)])
def test_rectangles_are_asked_for_on_the_stream_of_their_reader(photos, handle, number):
    """The DLPack protocol forbids 0, which is torch's handle of the default stream."""
    asked = []

    class Rectangle:
        def __dlpack__(self, *, stream):
            asked.append(stream)
            return torch.zeros(1).__dlpack__()

    class Ids:
        def as_array(self):
            return np.array([0])

    stream = SimpleNamespace(cuda_stream=handle)
    decoder_module._tensors([Rectangle()], Ids(), job([0], (8, 8), store=photos), stream)
    assert asked == [number]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_decoding_on_the_cpu_for_a_gpu_is_exact(photos):
    jobs = [quarters(photos)]
    (cpu,) = decode(photos, *jobs)
    ((_, gpu),) = Decoder(photos, device="cuda", decode_device="cpu").decode(jobs)
    for ours, theirs in zip(gpu, cpu, strict=True):
        assert ours.is_cuda
        assert np.array_equal(ours.cpu().numpy(), theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("parts", [False, True])
def test_gpu_gives_the_same_pixels(photos, parts, capfd):
    """nvJPEG's inverse DCT rounds otherwise than libjpeg's: a few levels."""
    jobs = [quarters(photos) if parts else job([0, 1, 2, 3], (224, 224), store=photos)]
    (cpu,) = decode(photos, *jobs)
    ((_, gpu),) = Decoder(photos, device="cuda").decode(jobs)
    levels = []
    for ours, theirs in zip(gpu, cpu, strict=True):
        assert ours.is_cuda
        levels.append(np.abs(ours.cpu().numpy().astype(int) - theirs))
        assert levels[-1].mean() < 1
        assert levels[-1].max() <= 24
    # The very same would be the CPU's, which DALI falls back to with a warning an image.
    assert max(level.max() for level in levels) > 0
    assert "WARNING" not in capfd.readouterr().err
