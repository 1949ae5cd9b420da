"""The cache of decoded images, against the decoder that it saves."""

import io
import os
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixpipe.data import BytesStore
from mixpipe.decode import CachedDecoder, DecodeError, Decoder
from mixpipe.decode.cached import _room
from mixpipe.plan import DecodeJob

COUNT = 300  # more than are decoded at a time


@pytest.fixture(scope="module")
def store():
    """Images of all sizes down to one pixel, JPEG and PNG, coloured and grey."""
    random = np.random.default_rng(0)
    images = []
    for i in range(COUNT):
        height, width = random.integers(1, 40, 2)
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        file = io.BytesIO()
        image.convert("L" if i % 5 == 0 else "RGB").save(file, "JPEG" if i % 2 else "PNG")
        images.append(file.getvalue())
    return BytesStore(images, labels=[0] * COUNT)


@pytest.fixture(scope="module")
def decoders(store):
    return CachedDecoder(Decoder(store)), Decoder(store)


def reading(ids, reads) -> DecodeJob:
    reads = np.asarray(reads, dtype=np.int32)
    sizes = np.full((len(ids), 2), 5, dtype=np.int32)
    return DecodeJob(np.asarray(ids), reads, reads.astype(np.float32), sizes)


def whole(store, ids) -> DecodeJob:
    index = store.index
    return reading(ids, [(0, 0, index.heights[i], index.widths[i]) for i in ids])


def pixels_of(decoder, *jobs):
    return [[image.clone() for image in images] for _, images in decoder.decode(jobs)]


@st.composite
def jobs(draw, store):
    ids = draw(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=8))
    reads = []
    for i in ids:
        height, width = int(store.index.heights[i]), int(store.index.widths[i])
        y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, max(width - 2, 0)))
        # Two columns at least: asked for the first or last alone, DALI upsamples a JPEG's colours
        # otherwise than it does in the whole image.
        x1 = draw(st.integers(min(x0 + 2, width), width))
        reads.append((y0, x0, draw(st.integers(y0 + 1, height)), x1))
    return reading(ids, reads)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_every_rectangle_is_the_decoders(store, decoders, data):
    cached, decoder = decoders
    given_jobs = data.draw(st.lists(jobs(store), min_size=1, max_size=3))
    expected = pixels_of(decoder, *given_jobs)
    for (given_job, ours), theirs, planned in zip(
        cached.decode(given_jobs), expected, given_jobs, strict=True
    ):
        assert given_job is planned
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_images_are_decoded_once(store):
    cached = CachedDecoder(Decoder(store))
    assert cached.decoded == 0
    for _ in range(3):
        for _ in cached.decode([whole(store, [7, 8]), whole(store, [7])]):
            assert cached.decoded == COUNT
    cached.close()
    assert len(pixels_of(cached, whole(store, [1]))) == 1
    assert cached.decoded == 2 * COUNT


def test_jobs_are_taken_as_they_are_needed(store, decoders):
    """Their plans are made then: an epoch's must not all be made, nor kept, at its start."""
    taken = []

    def planned():
        for i in range(5):
            taken.append(i)
            yield whole(store, [i])

    for count, _ in enumerate(decoders[0].decode(planned()), start=1):
        assert len(taken) == count


def test_a_filling_that_was_cut_short_begins_anew(store, decoders, monkeypatch):
    """By an interrupt, or by another thread's close: half of a cache is none."""
    decoder = Decoder(store)
    cached, jobs = CachedDecoder(decoder), [whole(store, range(i, i + 5)) for i in range(0, 300, 5)]
    decode = decoder.decode

    def interrupted(jobs):
        yield next(decode(jobs))
        raise KeyboardInterrupt

    def closed(jobs):
        batches = decode(jobs)
        yield next(batches)
        cached.close()
        yield from batches

    for broken, error in ((interrupted, KeyboardInterrupt), (closed, RuntimeError)):
        monkeypatch.setattr(decoder, "decode", broken)
        with pytest.raises(error):
            cached.decode(jobs)
    monkeypatch.setattr(decoder, "decode", decode)
    for ours, theirs in zip(pixels_of(cached, *jobs), pixels_of(decoders[1], *jobs), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_large_images_are_decoded_a_few_at_a_time(store, monkeypatch):
    """DALI keeps the memory of its largest batches."""
    monkeypatch.setattr("mixpipe.decode.cached._BATCH_BYTES", 5000)
    decoder = Decoder(store)
    area = 3 * store.index.heights.astype(int) * store.index.widths
    batches = [job.ids for job in CachedDecoder(decoder)._whole()]
    assert np.concatenate(batches).tolist() == list(range(COUNT))
    assert all(len(ids) == 1 or area[ids].sum() <= 5000 for ids in batches)
    assert len(batches) < COUNT / 2


def test_closing_gives_the_memory_back(store):
    cached = CachedDecoder(Decoder(store))
    pixels_of(cached, whole(store, [0]))
    kept = weakref.ref(cached._pixels)
    assert kept() is not None
    cached.close()
    assert kept() is None


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (reading([COUNT], [(0, 0, 1, 1)]), rf"job\.ids: expected samples 0 to {COUNT - 1}"),
        (reading([0], [(0, 0, 99, 1)]), r"job\.reads\[0\]: expected .* within"),
        (reading([0], [(-1, 0, 1, 1)]), r"job\.reads\[0\]"),
    ],
)
def test_pixels_outside_an_image_are_refused(decoders, job, message):
    """They would be other images'."""
    with pytest.raises(ValueError, match=message):
        pixels_of(decoders[0], job)


def test_an_image_that_cannot_be_decoded_is_named_at_once(store):
    images = [bytes(image) for image in store.encoded(range(3))]
    broken = BytesStore(images, labels=[0] * 3)
    broken.encoded = lambda ids: [
        np.frombuffer(images[i][: 40 if i == 2 else None], np.uint8) for i in ids
    ]
    cached = CachedDecoder(Decoder(broken))
    with pytest.raises(DecodeError) as caught:
        pixels_of(cached, whole(store, [0]))
    assert caught.value.sample == 2


def test_more_than_the_memory_is_refused(store, monkeypatch):
    heights = np.full(COUNT, 2**15, np.int32)
    store = BytesStore([bytes(image) for image in store.encoded(range(COUNT))], [0] * COUNT)
    store.index = replace(store.index, heights=heights, widths=heights)
    assert store.index.decoded_bytes == COUNT * 3 * 2**30
    monkeypatch.setattr("mixpipe.decode.cached._room", lambda device: 4 * 2**30)
    with pytest.raises(ValueError, match=r"cache: 300 decoded .* 900.0 GiB, and cpu has 4.0 GiB"):
        CachedDecoder(Decoder(store))


def test_a_containers_memory_is_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr("mixpipe.decode.cached._CGROUPS", tmp_path)

    def write(folder, limit, used, stat):
        folder.mkdir(exist_ok=True)
        for name, text in {**limit, **used, "memory.stat": stat}.items():
            (folder / name).write_text(f"{text}\n")

    stat = "anon 5000000\ninactive_file 1500000"
    write(tmp_path, {"memory.max": 10_000_000}, {"memory.current": 7_000_000}, stat)
    assert _room(torch.device("cpu")) == 4_500_000
    write(tmp_path, {"memory.max": "max"}, {"memory.current": 7_000_000}, stat)
    assert _room(torch.device("cpu")) > 10_000_000
    write(  # as version 1 has it
        tmp_path / "memory",
        {"memory.limit_in_bytes": 2_000_000},
        {"memory.usage_in_bytes": 2_500_000},
        "total_inactive_file 100000",
    )
    assert _room(torch.device("cpu")) == 100_000


def test_there_is_memory_here():
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < _room(torch.device("cpu")) <= memory
