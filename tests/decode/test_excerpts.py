"""Excerpts: JPEGs cut out of JPEGs show the very pixels of the whole."""

import io
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixpipe import _C
from mixpipe.data import BytesStore, FolderStore
from mixpipe.decode import Decoder
from mixpipe.decode.excerpts import Excerpts
from mixpipe.plan import DecodeJob

HERE = Path(__file__).parent
PHOTOS = HERE.parent / "photos"
BASELINE = {path.stem: path.read_bytes() for path in PHOTOS.glob("*.jpg") if path.stem != "rocket"}
# Other samplings of the colours than Pillow writes, and kinds that no excerpt is cut from.
KINDS = {path.stem: path.read_bytes() for path in (HERE / "jpegs").glob("*.jpg")}
REFUSED = ("restarts", "three_scans", "arithmetic")
SAMPLINGS = {name: data for name, data in KINDS.items() if name not in REFUSED}


def pixels(data) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def make(images, reads, file=None, sizes=None):
    """Excerpts as bytes, and where they begin. `file`: of the entry points."""
    if sizes is None:
        sizes = [Image.open(io.BytesIO(image)).size[::-1] for image in images]
    sizes = np.array(sizes, dtype=np.int32)
    own = os.memfd_create("points") if file is None else None
    try:
        slots = _C.point_slots(sizes[:, 0].copy(), sizes[:, 1].copy())
        encoded, origins = _C.ExcerptMaker(own if file is None else file).make(
            [np.frombuffer(image, dtype=np.uint8) for image in images],
            sizes,
            np.array(reads, dtype=np.int32),
            slots[:-1],
            2,
        )
    finally:
        if own is not None:
            os.close(own)
    return [array.tobytes() for array in encoded], origins


def check(image, reads, whole=None):
    """The excerpt shows what the image shows. Returns whether it is smaller."""
    whole = pixels(image) if whole is None else whole
    y0, x0, y1, x1 = reads
    ((excerpt,), ((y, x),)) = make([image], [reads])
    shown = pixels(excerpt)[y0 - y : y1 - y, x0 - x : x1 - x]
    np.testing.assert_array_equal(shown, whole[y0:y1, x0:x1])
    return excerpt != image


def encode(array, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", **options)
    return file.getvalue()


def span(extent: int):
    """The ends of a part, not too often at the border."""
    return st.tuples(st.integers(0, extent), st.integers(0, extent)).map(
        lambda ends: (min(ends), max(ends)) if ends[0] != ends[1] else (0, extent)
    )


@st.composite
def rectangles(draw, height: int, width: int):
    (y0, y1), (x0, x1) = draw(span(height)), draw(span(width))
    return y0, x0, y1, x1


@st.composite
def images(draw):
    """Smooth, noisy and extreme ones, of any size, as JPEGs of many makes."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    grey = draw(st.booleans())
    shape = (height, width) if grey else (height, width, 3)
    kind = draw(st.sampled_from(["smooth", "noise", "black and white", "flat"]))
    if kind == "smooth":
        y, x = np.mgrid[:height, :width]
        array = 127 + 120 * np.sin(y / 9 + rng.random())[..., None] * np.cos(x / 7)[..., None]
        array = (array + np.array([0, 9, 40])).clip(0, 255)[:, :, : 1 if grey else 3]
        array = array.reshape(shape).astype(np.uint8)
    elif kind == "noise":
        array = rng.integers(0, 256, shape, dtype=np.uint8)
    elif kind == "black and white":  # the largest DC differences
        blocks = rng.integers(0, 2, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)
        array = (255 * blocks[:height, :width]).astype(np.uint8)
        array = array if grey else np.repeat(array[..., None], 3, axis=2)
    else:
        array = np.full(shape, rng.integers(0, 256), dtype=np.uint8)
    options = {"quality": draw(st.sampled_from([5, 40, 75, 95, 100]))}
    options["optimize"] = draw(st.booleans())
    if not grey:
        options["subsampling"] = draw(st.sampled_from([0, 1, 2]))
    if draw(st.booleans()):
        options["comment"] = b"\xff\xd9" * 5
    return encode(array, **options), (height, width)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_rectangle_of_any_image(data):
    image, size = data.draw(images())
    check(image, data.draw(rectangles(*size)))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_sampling(data):
    name = data.draw(st.sampled_from(sorted(SAMPLINGS)))
    reads = data.draw(rectangles(75, 117))
    smaller = check(SAMPLINGS[name], reads)
    # Else all of its MCUs may be needed.
    assert smaller or (reads[2] - reads[0]) * (reads[3] - reads[1]) > 0.25 * 75 * 117


@pytest.mark.parametrize("name", BASELINE)
def test_photographs(name):
    image, whole = BASELINE[name], pixels(BASELINE[name])
    height, width = whole.shape[:2]
    rng = np.random.default_rng(0)
    for _ in range(40):
        y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
        h, w = rng.integers(1, height - y + 1), rng.integers(1, width - x + 1)
        smaller = check(image, (y, x, y + h, x + w), whole)
        assert smaller == (h * w < 0.9 * height * width)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_every_edge(subsampling):
    """Where the last MCU is cut off by the image's border libjpeg has ways of its own."""
    rng = np.random.default_rng(0)
    for extent in range(33, 49):
        array = rng.integers(0, 256, (extent, extent, 3), dtype=np.uint8)
        image = encode(array, quality=90, subsampling=subsampling)
        whole = pixels(image)
        for start in range(extent):
            check(image, (start, start, extent, extent), whole)
            check(image, (0, 0, extent - start, extent - start), whole)
            check(image, (20, start, 21, start + 1), whole)
            check(image, (start, 20, start + 1, 21), whole)


def test_tables_that_lack_a_category():
    """Optimised tables have codes for the differences that they need; excerpts have others."""
    rng = np.random.default_rng(0)
    levels = np.linspace(0, 255, 40).astype(np.uint8)  # a ramp: all differences are small
    array = np.repeat(levels[None].repeat(40, 0).repeat(8, 0).repeat(8, 1)[..., None], 3, axis=2)
    array ^= rng.integers(0, 2, array.shape, dtype=np.uint8)
    image = encode(array, quality=90, optimize=True)
    whole = pixels(image)
    for y, x in rng.integers(0, 240, (50, 2)):
        assert check(image, (y, x, y + 70, x + 70), whole)


def test_excerpts_are_small():
    """A quarter of the pixels is about a quarter of the bytes."""
    image = BASELINE["astronaut"]
    ((excerpt,), _) = make([image], [(128, 128, 384, 384)])
    assert len(excerpt) < 0.45 * len(image)
    ((excerpt,), _) = make([image], [(500, 500, 501, 501)])
    assert len(excerpt) < 2000


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_dali_decodes_them_alike(data):
    """DALI on whole images and on excerpts, through the decoder."""
    drawn = [data.draw(images()) for _ in range(4)]
    drawn += [(SAMPLINGS[name], (75, 117)) for name in sorted(SAMPLINGS)]
    store = BytesStore([image for image, _ in drawn], [0] * len(drawn))
    ids = np.arange(len(drawn))
    whole = np.array([(0, 0, *size) for _, size in drawn], dtype=np.int32)
    parts = np.array([data.draw(rectangles(*size)) for _, size in drawn], dtype=np.int32)
    # DALI itself decodes the first column of an image otherwise where it is asked for nothing else.
    parts[:, 3] = np.maximum(parts[:, 3], np.minimum(parts[:, 1] + 2, whole[:, 3]))
    jobs = [
        DecodeJob(ids, reads, reads.astype(np.float32), np.full((len(ids), 2), 8, np.int32))
        for reads in (whole, parts)
    ]
    full, shown = ([p.numpy() for p in decoded] for _, decoded in Decoder(store).decode(jobs))
    for (y0, x0, y1, x1), one, other in zip(parts, full, shown, strict=True):
        np.testing.assert_array_equal(one[y0:y1, x0:x1], other)


def other_kinds():
    """What excerpts are not cut from: a name and the bytes of each."""
    array = pixels(BASELINE["chelsea"])[:120, :160]
    plain = encode(array, quality=90)
    yield "progressive", encode(array, progressive=True)
    yield "restart intervals", encode(array, restart_marker_blocks=4)
    yield "no end", plain[:-2]
    yield "cut short", plain[: len(plain) // 2]
    yield "header only", plain[:300]
    yield "junk before the end", plain[:-2] + b"junk" + plain[-2:]
    yield "of another size", encode(array[:100])
    yield "text", b"nonsense"
    yield "start only", b"\xff\xd8"
    for kind, mode in (("JPEG", "CMYK"), ("PNG", "RGB")):
        file = io.BytesIO()
        Image.fromarray(array).convert(mode).save(file, kind)
        yield f"{mode} {kind}", file.getvalue()
    yield from ((name, KINDS[name]) for name in REFUSED)


OTHERS = dict(other_kinds())


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_cut_comes_whole(kind):
    image = OTHERS[kind]
    size = (75, 117) if kind in REFUSED else (120, 160)
    encoded, origins = make([image], [(10, 20, 40, 50)], sizes=[size])
    assert encoded == [image]
    assert origins.tolist() == [[0, 0]]


def test_nearly_whole_comes_whole():
    image = BASELINE["astronaut"]
    assert make([image], [(0, 0, 512, 462)])[0] == [image]
    assert make([image], [(0, 0, 512, 459)])[0] != [image]


def mutated(draw, image: bytes) -> bytes:
    data = bytearray(image)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(["set", "drop", "insert", "end"]))
        if what == "set":
            data[at] = draw(st.sampled_from([0, 1, 0xFF, 0xD9, 0xC4, 0x7F]) | st.integers(0, 255))
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 20))]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            del data[at + 1 :]
        assume(data)
    return bytes(data)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_damaged_images(data):
    """Whatever the bytes are, nothing breaks; what libjpeg decodes, it decodes the same."""
    name = data.draw(st.sampled_from(sorted(KINDS)))
    image = mutated(data.draw, KINDS[name])
    reads = data.draw(rectangles(75, 117))
    ((excerpt,), ((y, x),)) = make([image], [reads], sizes=[(75, 117)])
    try:
        whole = pixels(image)
    except Exception:
        return
    if whole.shape[:2] != (75, 117):
        assert excerpt == image
        return
    y0, x0, y1, x1 = reads
    shown = pixels(excerpt)[y0 - y : y1 - y, x0 - x : x1 - x]
    np.testing.assert_array_equal(shown, whole[y0:y1, x0:x1])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_points(data):
    """A slot with anything in it is as good as an empty one."""
    image, reads = KINDS["1x2"], data.draw(rectangles(75, 117))
    file = os.memfd_create("points")
    try:
        first = make([image], [reads], file)
        size = os.fstat(file).st_size
        if size == 0:  # nearly the whole image
            return
        at = data.draw(st.integers(0, size - 1))
        os.pwrite(file, data.draw(st.binary(min_size=1, max_size=size - at)), at)
        if data.draw(st.booleans()):
            os.ftruncate(file, data.draw(st.integers(0, size)))
        again = make([image], [reads], file)
    finally:
        os.close(file)
    assert first[0] == again[0]


def test_points_of_other_bytes_are_not_used():
    """A file that was changed in place, to one of the same length even."""
    one = encode(pixels(BASELINE["astronaut"])[:200, :200], quality=80)
    other = encode(pixels(BASELINE["astronaut"])[200:400, :200], quality=80)
    length = max(len(one), len(other))
    one, other = (
        image[:2] + b"\xff\xfe" + (2 + length - len(image)).to_bytes(2, "big")
        + bytes(length - len(image)) + image[2:]
        for image in (one, other)
    )  # fmt: skip
    assert len(one) == len(other)
    reads = [(50, 60, 120, 130)]
    file = os.memfd_create("points")
    try:
        first = make([one], reads, file)
        assert make([other], reads, file)[0] == make([other], reads)[0]
        assert make([one], reads, file)[0] == first[0]
    finally:
        os.close(file)


def job(store, reads) -> DecodeJob:
    ids = np.arange(len(store.index))
    reads = np.broadcast_to(np.array(reads, dtype=np.int32), (len(ids), 4))
    return DecodeJob(ids, reads, reads.astype(np.float32), np.full((len(ids), 2), 8, np.int32))


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, image in enumerate(BASELINE.values()):
        target = tmp_path / "images" / "class" / f"{i}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image)
    return tmp_path / "images"


def test_points_are_kept_from_run_to_run(folder, tmp_path):
    """The file is not written a second time, and is not needed."""
    stores = [FolderStore(folder, cache_dir=tmp_path / "cache") for _ in range(2)]
    reads = (20, 30, 150, 160)
    first = Excerpts(stores[0], 2)(job(stores[0], reads))
    points = stores[0].points
    assert points.is_relative_to(tmp_path / "cache")
    os.utime(points, ns=(0, 0))
    second = Excerpts(stores[1], 1)(job(stores[1], reads))
    assert points.stat().st_mtime_ns == 0
    points.unlink()
    third = Excerpts(stores[1], 1)(job(stores[1], reads))
    for other in (second, third):
        assert [a.tobytes() for a in first[0]] == [b.tobytes() for b in other[0]]
        np.testing.assert_array_equal(first[1], other[1])
    assert sum(len(a) for a in first[0]) < 0.6 * sum(map(len, BASELINE.values()))


def test_a_file_is_read_anew_when_it_changes(folder, tmp_path):
    store = FolderStore(folder, cache_dir=tmp_path / "cache")
    excerpts = Excerpts(store, 1)
    work = job(store, (20, 30, 150, 160))
    excerpts(work)
    path = Path(store.name(0))
    turned = pixels(path.read_bytes())[::-1]
    path.write_bytes(encode(turned, quality=70))
    encoded, origins = excerpts(work)
    y, x = origins[0]
    expected = pixels(path.read_bytes())[20:150, 30:160]
    shown = pixels(encoded[0].tobytes())[20 - y : 150 - y, 30 - x : 160 - x]
    np.testing.assert_array_equal(shown, expected)


def test_cache_that_cannot_be_written(folder, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "points").write_text("a file in the folder's place")
    store = FolderStore(folder, cache_dir=tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        excerpts = Excerpts(store, 1)
    assert "points" in caplog.text
    encoded, _ = excerpts(job(store, (20, 30, 150, 160)))
    assert sum(len(a) for a in encoded) < 0.6 * sum(map(len, BASELINE.values()))


def _cut_often(folder, cache, seed):
    store = FolderStore(folder, cache_dir=cache, progress=False)
    excerpts = Excerpts(store, 2)
    rng = np.random.default_rng(seed)
    for _ in range(30):
        if rng.random() < 0.2:
            store.points.write_bytes(rng.bytes(rng.integers(0, 4000)))
        y, x = map(int, rng.integers(0, 200, 2))
        encoded, origins = excerpts(job(store, (y, x, y + 90, x + 80)))
        for image, data, (top, left) in zip(BASELINE.values(), encoded, origins, strict=True):
            shown = pixels(data.tobytes())[y - top : y - top + 90, x - left : x - left + 80]
            np.testing.assert_array_equal(shown, pixels(image)[y : y + 90, x : x + 80])


def test_processes_share_the_points(folder, tmp_path):
    """Even while one of them writes rubbish to the file."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_cut_often, args=(folder, tmp_path / "cache", seed))
        for seed in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def test_a_file_that_cannot_be_read_has_no_bytes(folder, tmp_path):
    store = FolderStore(folder, cache_dir=tmp_path / "cache")
    Path(store.name(1)).unlink()
    encoded, _ = Excerpts(store, 1)(job(store, (20, 30, 150, 160)))
    assert [len(array) > 0 for array in encoded] == [True, False, True]
