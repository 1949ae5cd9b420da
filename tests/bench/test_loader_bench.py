"""The comparison of loaders: its corpus, its contenders' outputs, the arithmetic of its rows."""

import gc
import io
import itertools
import multiprocessing
from pathlib import Path

import pytest
from PIL import Image

from mixpipe.bench.corpus import find_photos, make_corpus
from mixpipe.bench.loader import compare_loaders, loader_figures
from mixpipe.bench.measure import Cost, LoaderProcess, _serve
from mixpipe.bench.parts import PARTS, time_parts
from mixpipe.bench.rivals import CONTENDERS, Settings
from mixpipe.bench.steady import steady_figures, watch_epochs

PHOTOS = Path(__file__).parents[1] / "photos"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_corpus(PHOTOS, 32, tmp_path_factory.mktemp("cache"))


def test_the_corpus_is_like_imagenet(corpus):
    files = sorted(corpus.rglob("*.jpg"))
    assert len(files) == 32
    assert len(list(corpus.iterdir())) == 16
    assert all(40_000 <= file.stat().st_size <= 220_000 for file in files)
    with Image.open(files[0]) as image:
        assert sorted(image.size)[1] in (480, 500)


def test_the_corpus_is_the_same_every_time_and_kept(corpus, tmp_path):
    again = make_corpus(PHOTOS, 32, tmp_path)
    for one, other in zip(sorted(corpus.rglob("*.jpg")), sorted(again.rglob("*.jpg")), strict=True):
        assert one.read_bytes() == other.read_bytes()
    changed = next(again.rglob("*.jpg"))
    changed.write_bytes(b"kept")
    assert make_corpus(PHOTOS, 32, tmp_path) == again
    assert changed.read_bytes() == b"kept"


def test_photographs_that_cannot_serve(tmp_path):
    with pytest.raises(FileNotFoundError, match="--photos .*expected JPEG"):
        find_photos(tmp_path)
    file = io.BytesIO()
    Image.new("RGB", (800, 600), "red").save(file, "JPEG")
    (tmp_path / "smooth.jpg").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="--photos: 1 photographs gave 0 JPEGs"):
        make_corpus(tmp_path, 4, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_contenders_have_an_output_for_every_so_many_images(contender, corpus):
    if contender.missing:
        pytest.skip(f"{contender.missing} is not installed")
    if contender.name == "SPDL":
        try:
            import spdl.io

            spdl.io.get_video_filter_desc()
        except RuntimeError:
            pytest.skip("SPDL finds no FFmpeg libraries")
    # Of another test, a DALI pipeline that nobody holds any more: collected in a forked worker, it
    # would wait for threads that the worker does not have.
    gc.collect()
    epoch = contender.make(Settings(corpus, batch_size=8, size=64, threads=1))
    for _ in range(2):
        assert epoch() == 32 // contender.images


def test_a_process_tells_its_cost(corpus):
    process = LoaderProcess("mixpipe", Settings(corpus, batch_size=8, size=64, threads=1))
    process.ready()
    cost = process.run()
    assert cost.outputs == 32
    assert 0 < cost.cpu_seconds < 60
    assert 0 < cost.wall_seconds < 60
    assert process.peak_mib() > 50
    process.close()


def test_a_process_that_is_never_quiet_costs_what_it_did_until_its_answer(corpus, monkeypatch):
    process = LoaderProcess("mixpipe", Settings(corpus, batch_size=8, size=64, threads=1))
    process.ready()
    monkeypatch.setattr("mixpipe.bench.measure._MOST_WAIT", 0.2)
    used = itertools.count(step=1.0)
    monkeypatch.setattr(process, "_cpu_seconds", lambda: next(used))
    assert process.run().cpu_seconds == 1.0
    process.close()


def test_a_process_tells_its_failure(corpus):
    ours, theirs = multiprocessing.Pipe()
    _serve(theirs, "mixpipe", Settings(corpus / "nowhere"))
    assert "there is no such folder" in ours.recv()


def test_rows_are_medians_and_ratios_of_the_same_round(corpus, monkeypatch):
    """Two contenders, two rounds each slower than the last: the ratios stay."""
    cpu = {"mixpipe": 1.0, "torchvision PIL": 4.0}
    monkeypatch.setattr("mixpipe.bench.loader.make_corpus", lambda photos, images: corpus)

    class Fake:
        def __init__(self, name, settings):
            self.name, self.slower = name, 1.0

        def ready(self):
            pass

        def run(self):
            self.slower *= 2
            return Cost(100, cpu[self.name] * self.slower, 0.5 * cpu[self.name] * self.slower)

        def peak_mib(self):
            return 7.0

        def close(self):
            pass

    monkeypatch.setattr("mixpipe.bench.loader.LoaderProcess", Fake)
    ours, theirs = compare_loaders(rounds=3, only=list(cpu))
    assert ours["cpu_ms_per_output"] == pytest.approx(40)
    assert ours["outputs_per_s"] == pytest.approx(50)
    assert theirs["cpu_ratio"] == {"median": 4.0, "least": 4.0, "most": 4.0}
    assert theirs["speed_ratio"]["median"] == 0.25
    (figure,) = loader_figures([ours, theirs])
    assert (figure.name, figure.value) == ("plain: images/s against torchvision PIL", 4.0)
    assert figure.met
    (figure,) = loader_figures([ours, theirs], "cuda")
    assert (figure.value, figure.goal) == (4.0, None)


def test_a_contender_that_fails_is_noted(corpus, monkeypatch):
    monkeypatch.setattr("mixpipe.bench.loader.make_corpus", lambda photos, images: corpus)

    class Broken:
        def __init__(self, name, settings):
            pass

        def ready(self):
            raise RuntimeError("Traceback ...\nOSError: disk gone")

        def close(self):
            pass

    monkeypatch.setattr("mixpipe.bench.loader.LoaderProcess", Broken)
    (row,) = compare_loaders(rounds=1, only=["DALI"])
    assert row == {"name": "DALI", "kind": "plain", "note": "OSError: disk gone"}
    with pytest.raises(ValueError, match="--only: expected one of mixpipe, DALI"):
        compare_loaders(only=["nobody"])


def test_epochs_are_watched_over_a_small_and_a_large_data_set(corpus):
    settings = Settings(corpus, batch_size=4, size=64, threads=1)
    rows = watch_epochs(settings, epochs=5)
    assert [row["images"] for row in rows] == [32, 128]
    assert [len(row["mib"]) for row in rows] == [20, 5]  # as many batches
    for row in rows:
        assert all(mib > 50 for mib in row["mib"])
        assert 0 < row["batch_ms"]["least"] <= row["batch_ms"]["median"]
        assert row["gap_batches"] == row["gap_ms"]["median"] / row["batch_ms"]["median"]
    assert sorted(path.name for path in corpus.parent.iterdir()) == [
        corpus.name,
        f"{corpus.name}-x4",
    ]
    gap, _, _ = steady_figures(rows)
    assert gap.value == rows[0]["gap_batches"]


def test_parts_add_up_to_the_loader(corpus):
    rows = time_parts(Settings(corpus, batch_size=8, size=64, threads=1), rounds=1)
    assert [row["images_per_output"] for row in rows] == [1, 2, 4, 4]
    for row in rows:
        parts = {part: row["cpu_ms_of"][part]["median"] for part in PARTS}
        assert sum(parts.values()) == pytest.approx(row["cpu_ms"]["median"])
        assert min(parts["plan"], parts["read"], parts["decode"]) > 0
        assert row["cpu_ms"]["median"] < 1000


def test_memory_that_grows_in_one_of_two_data_sets_is_seen():
    def rows(one, larger):
        mib = {"one": [90.0, *one], "larger": [70.0, *larger]}
        return [
            {"kind": "steady", "images": images, "gap_batches": 2.0, "mib": mib[name]}
            for name, images in (("one", 100), ("larger", 400))
        ]

    flat, growing = [100.0] * 6, [100.0, 100.0, 100.0, 100.0, 110.0, 110.0]
    for one, larger, growth, more in (
        (flat, flat, 1.0, 1.0),
        (growing, flat, 1.1, 1 / 1.1),
        (flat, growing, 1.1, 1.1),
    ):
        _, late, of_larger = steady_figures(rows(one, larger))
        assert late.value == pytest.approx(growth)
        assert of_larger.value == pytest.approx(more)
        assert late.met == (growth <= 1.02)
