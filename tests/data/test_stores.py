"""Stores number, name and read their samples as torchvision's ImageFolder would."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixpipe.data import (
    BytesStore,
    DataError,
    FolderStore,
    Index,
    Names,
    Store,
    TarStore,
    embedded,
    open_store,
)
from mixpipe.data import cache as cache_module
from mixpipe.data import folder as folder_module
from mixpipe.data.cache import cache_folder
from mixpipe.data.headers import image_size


def png(width: int = 5, height: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (width, height, 0)).save(file, "PNG")
    return file.getvalue()


def jpeg(width: int = 64, height: int = 48) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(root: Path, path: Path, arcname: str = ".") -> Path:
    with tarfile.open(path, "w:") as tar:
        tar.add(root, arcname)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names that sort differently as paths, as strings and by case."""
    return fill(
        tmp_path / "images",
        {
            "cat/b.png": png(3, 2),
            "cat/a.JPEG": jpeg(),
            "cat/sub/z.png": png(7, 6),
            "cat/sub-2/a.png": png(8, 6),
            "cat/notes.txt": b"no image",
            "cat-b/with space.png": png(9, 6),
            "Zebra/ünï.png": png(10, 6),
            "dog/10.png": png(11, 6),
            "dog/9.png": png(12, 6),
            "dog/deep/er/1.png": png(13, 6),
            "README.md": b"no class",
        },
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def open_folder(root: Path, cache: Path, **options) -> FolderStore:
    return FolderStore(root, cache_dir=cache, **options)


def test_folder_is_numbered_as_image_folder(folder, cache):
    datasets = pytest.importorskip("torchvision.datasets")
    theirs = datasets.ImageFolder(folder)
    ours = open_folder(folder, cache)
    assert list(ours.index.classes) == theirs.classes
    assert [ours.name(i) for i in range(len(ours.index))] == [path for path, _ in theirs.samples]
    assert ours.index.labels.tolist() == theirs.targets
    sizes = [Image.open(path).size for path, _ in theirs.samples]
    assert list(zip(ours.index.widths.tolist(), ours.index.heights.tolist(), strict=True)) == sizes


def test_paths_are_the_files(folder, cache):
    store = open_folder(folder, cache)
    for i, row in enumerate(store.paths):
        path = bytes(row).rstrip(b"\0").decode()
        assert path == store.name(i)
        assert Path(path).read_bytes() == store.encoded([i])[0].tobytes()


@pytest.mark.parametrize(
    ("arcname", "prefix"), [(".", ""), ("train", "train"), ("train", "train/"), ("a/b", "a/b")]
)
def test_tar_is_numbered_as_the_folder(folder, cache, tmp_path, arcname, prefix):
    disk = open_folder(folder, cache)
    tar = TarStore(pack(folder, tmp_path / "x.tar", arcname), prefix, cache_dir=cache)
    assert tar.index.classes == disk.index.classes
    assert list(tar.index.names) == list(disk.index.names)
    for field in ("labels", "heights", "widths"):
        np.testing.assert_array_equal(getattr(tar.index, field), getattr(disk.index, field))
    assert tar.index.fingerprint == disk.index.fingerprint
    everything = np.arange(len(disk.index))
    for ours, theirs in zip(tar.encoded(everything), disk.encoded(everything), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert tar.paths is None
    assert tar.name(0).startswith(str(tmp_path / "x.tar"))


def test_tar_holds_two_splits(tmp_path, cache):
    root = fill(tmp_path / "d", {"train/a/1.png": png(3, 1), "val/a/1.png": png(4, 1)})
    tar = pack(root, tmp_path / "d.tar")
    assert open_store(tar, "train", cache_dir=cache).index.widths.tolist() == [3]
    assert open_store(tar, "val", cache_dir=cache).index.widths.tolist() == [4]


def test_stores_satisfy_the_interface(folder, cache, tmp_path):
    tar = TarStore(pack(folder, tmp_path / "x.tar"), cache_dir=cache)
    stores = (open_folder(folder, cache), tar, BytesStore([png()], [0]))
    for store in stores:
        assert isinstance(store, Store)
        assert open_store(store) is store


def test_links_are_followed(folder, cache, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "tiger").symlink_to(folder / "cat")
    (linked / "one").mkdir()
    (linked / "one" / "x.png").symlink_to(folder / "dog" / "9.png")
    store = open_folder(linked, cache)
    assert store.index.classes == ("one", "tiger")
    assert len(store.index) == 5
    assert store.index.widths[0] == 12


def test_a_pipe_is_an_unreadable_image_and_not_waited_for(folder, cache):
    count = len(open_folder(folder, cache).index)
    os.mkfifo(folder / "dog" / "pipe.png")
    with pytest.raises(DataError, match=r"dog/pipe\.png: cannot be read"):
        open_folder(folder, cache)
    assert len(open_store(folder, cache_dir=cache, skip_unreadable=True).index) == count


def test_dangling_link_is_an_unreadable_image(folder, cache):
    (folder / "dog" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(DataError, match=r"dog/gone\.png: cannot be read .*skip_unreadable=True"):
        open_folder(folder, cache)


def test_tar_members_that_are_links_are_named(folder, cache, tmp_path):
    (folder / "dog" / "x.png").symlink_to("9.png")
    with pytest.raises(DataError, match=r"dog/x\.png: a link"):
        TarStore(pack(folder, tmp_path / "x.tar"), cache_dir=cache)


def test_compressed_tar_says_expand(folder, cache, tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(folder, ".")
    with pytest.raises(DataError, match="uncompressed"):
        TarStore(tmp_path / "x.tar.gz", cache_dir=cache)


def test_tar_cut_short_is_an_error_not_a_crash(folder, cache, tmp_path):
    path = pack(folder, tmp_path / "x.tar")
    store = TarStore(path, cache_dir=cache)
    os.truncate(path, 1000)
    with pytest.raises(DataError, match="changed while it was open"):
        store.encoded([len(store.index) - 1])


def test_a_tar_that_was_cut_short_before_is_no_smaller_data_set(folder, cache, tmp_path, caplog):
    path = pack(folder, tmp_path / "x.tar")
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    for cut in (last.offset + 100, last.offset_data + 3):  # in a header, in a member
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.tar: the tar is cut short"):
            TarStore(path, cache_dir=cache)
    path.write_bytes(whole[: last.offset])  # as some programs write it
    store = TarStore(path, cache_dir=cache)
    assert f"ends after {last.offset} bytes without an end marker" in caplog.text
    assert len(store.index) > 1


def test_a_tar_goes_to_another_process(folder, cache, tmp_path):
    store = TarStore(pack(folder, tmp_path / "x.tar"), cache_dir=cache)
    other = pickle.loads(pickle.dumps(store))
    store.close()
    assert len(other.encoded([0])[0]) > 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        store.encoded([0])


def test_a_user_without_a_home_has_a_cache_in_a_temporary_folder(monkeypatch, caplog):
    def nowhere(*_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("mixpipe.data.cache.platformdirs.user_cache_path", nowhere)
    assert cache_folder(None).name == f"mixpipe-{os.getuid()}"
    assert "could not determine the home directory" in caplog.text


def test_a_cache_that_cannot_take_the_embedded_images_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="embedded images cannot be expanded there .*cache_dir="):
        embedded("train", cache_dir=tmp_path / "file")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_no_classes(tmp_path, cache, kind):
    root = fill(tmp_path / "d", {"1.png": png()})
    path = root if kind == "folder" else pack(root, tmp_path / "d.tar")
    with pytest.raises(DataError, match="one folder a class"):
        open_store(path, cache_dir=cache)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_class_without_images(tmp_path, cache, kind):
    root = fill(tmp_path / "d", {"a/1.png": png(), "b/notes.txt": b""})
    (root / "c").mkdir()
    path = root if kind == "folder" else pack(root, tmp_path / "d.tar")
    with pytest.raises(DataError, match=r"no images in class folder '[bc]'"):
        open_store(path, cache_dir=cache)


def test_missing_folder_says_what_is_there(folder, cache):
    with pytest.raises(DataError, match=r"images/train: .*Zebra"):
        open_store(folder, "train", cache_dir=cache)
    with pytest.raises(DataError, match="no such folder"):
        open_store(folder / "nothing", cache_dir=cache)


def test_splits_are_not_classes(tmp_path, cache):
    root = fill(tmp_path / "d", {"train/a/1.png": png(), "val/a/1.png": png()})
    with pytest.raises(DataError, match=r"did you mean .*/train\?"):
        open_store(root, cache_dir=cache)
    assert open_store(root, "val", cache_dir=cache).index.classes == ("a",)


def test_classes_of_training_are_applied(tmp_path, cache):
    train = open_folder(fill(tmp_path / "t", {f"{c}/1.png": png() for c in "abcd"}), cache)
    val = fill(tmp_path / "v", {"d/1.png": png(), "b/1.png": png()})
    store = open_folder(val, cache, classes=train.index.classes)
    assert store.index.classes == ("a", "b", "c", "d")
    assert store.index.labels.tolist() == [1, 3]
    fill(val, {"x/1.png": png(), "y/1.png": png()})
    with pytest.raises(DataError, match=r"2 of its classes are not among the 4.*: x, y"):
        open_folder(val, cache, classes=train.index.classes)
    with pytest.raises(DataError, match=r"not among"):
        TarStore(pack(val, tmp_path / "v.tar"), cache_dir=cache, classes=train.index.classes)


BROKEN = {
    "text.jpg": b"this is no picture",
    "empty.jpg": b"",
    "head.jpg": jpeg()[:30],
    "cut.jpg": jpeg()[:-500],
    "cut.png": png()[:-20],
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_unreadable_image_is_named_or_left_out(tmp_path, cache, name, kind):
    files = {"a/1.png": png(3, 3), f"a/{name}": BROKEN[name], "b/2.jpg": jpeg(40, 30)}
    root = fill(tmp_path / "d", files)
    path = root if kind == "folder" else pack(root, tmp_path / "d.tar")
    for _ in range(2):  # anew, then from the cache
        with pytest.raises(DataError, match=rf"a/{name}: .*1 of 3 .*skip_unreadable=True"):
            open_store(path, cache_dir=cache)
    store = open_store(path, cache_dir=cache, skip_unreadable=True)
    assert list(store.index.names) == ["a/1.png", "b/2.jpg"]
    assert store.index.labels.tolist() == [0, 1]
    assert store.index.widths.tolist() == [3, 40]
    assert store.encoded([1])[0].tobytes() == files["b/2.jpg"]
    with pytest.raises(DataError, match="skip_unreadable"):
        open_store(path, cache_dir=cache)


def test_nothing_readable(tmp_path, cache):
    root = fill(tmp_path / "d", {"a/1.jpg": b"x"})
    with pytest.raises(DataError, match="none of its 1 images"):
        open_folder(root, cache, skip_unreadable=True)


def test_data_after_the_end_of_a_jpeg_is_no_fault():
    assert image_size(io.BytesIO(jpeg(40, 30) + bytes(1000))) == (30, 40)


def test_a_gif_by_another_name_is_unreadable(tmp_path, cache):
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    with pytest.raises(DataError, match=r"a/1\.jpg"):
        open_folder(fill(tmp_path / "d", {"a/1.jpg": file.getvalue()}), cache)


def count_reads(monkeypatch) -> list[int]:
    """Counts the images whose headers are read."""
    counts: list[int] = []
    original = folder_module.read_sizes

    def counted(count, *args, **options):
        counts.append(count)
        return original(count, *args, **options)

    monkeypatch.setattr(folder_module, "read_sizes", counted)
    return counts


def test_index_is_read_once_until_something_changes(folder, cache, monkeypatch):
    counts = count_reads(monkeypatch)
    first = open_folder(folder, cache)
    again = open_folder(folder, cache)
    assert counts == [9]
    assert again.index.fingerprint == first.index.fingerprint

    fill(folder, {"dog/11.png": png(1, 1)})  # a file more
    assert len(open_folder(folder, cache).index) == 10
    (folder / "dog" / "11.png").rename(folder / "dog" / "12.png")  # a name
    assert open_folder(folder, cache).index.names[7] == "dog/12.png"
    stat = (folder / "dog" / "12.png").stat()
    (folder / "dog" / "12.png").write_bytes(png(2, 1))  # content, of the same size
    os.utime(folder / "dog" / "12.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert open_folder(folder, cache).index.widths[7] == 2
    (folder / "dog" / "12.png").unlink()  # a file less
    assert len(open_folder(folder, cache).index) == 9
    assert counts == [9, 10, 10, 10, 9]


def test_changed_tar_is_indexed_again(tmp_path, cache):
    root = fill(tmp_path / "d", {"a/1.png": png(3, 3)})
    tar = pack(root, tmp_path / "d.tar")
    assert len(TarStore(tar, cache_dir=cache).index) == 1
    fill(root, {"a/2.png": png(4, 4)})
    pack(root, tar)
    assert TarStore(tar, cache_dir=cache).index.widths.tolist() == [3, 4]


@pytest.mark.parametrize("damage", [b"", b"not a zip", b"PK\x03\x04 half a zip"])
def test_damaged_cache_is_built_anew(folder, cache, damage, caplog):
    whole = open_folder(folder, cache).index
    (file,) = (cache / "index").iterdir()
    file.write_bytes(damage)
    assert open_folder(folder, cache).index.fingerprint == whole.fingerprint
    assert "building it anew" in caplog.text
    caplog.clear()
    open_folder(folder, cache)
    assert not caplog.text


def test_cache_that_cannot_be_written_costs_no_run(folder, tmp_path, caplog):
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    assert len(open_folder(folder, tmp_path / "cache").index) == 9
    assert "cannot be written" in caplog.text


def test_cache_holds_no_pickle_and_no_scraps(folder, cache):
    open_folder(folder, cache)
    (file,) = (cache / "index").iterdir()
    with np.load(file, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def fail() -> None:
        with cache_module.write_whole(target) as file:
            file.write(b"half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_bytes_store():
    store = BytesStore([png(3, 2), jpeg(40, 30)], [1, 0], classes=("x", "y"))
    assert store.index.labels.tolist() == [1, 0]
    assert store.index.heights.tolist() == [2, 30]
    assert store.name(1) == "images[1]"
    assert store.encoded([0])[0].tobytes() == png(3, 2)
    assert BytesStore([png()] * 2, [0, 4]).index.classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        ([], [], None, "at least one image"),
        ([png()], [0, 1], None, "labels: expected one for each"),
        ([png()], [2], ("a", "b"), "expected 0 to 1, got 2"),
        ([png()], [-1], None, "got -1"),
        ([png(), b"x"], [0, 0], None, r"images\[1\]: cannot be read"),
    ],
)
def test_bytes_store_checks(images, labels, classes, message):
    with pytest.raises(DataError, match=message):
        BytesStore(images, labels, classes)


def test_fingerprint_tells_data_sets_apart():
    def fingerprint(**change) -> str:
        fields = {
            "classes": ("a", "b"),
            "labels": np.array([0, 1]),
            "heights": np.array([4, 5], np.int32),
            "widths": np.array([4, 5], np.int32),
            "names": Names.of(["x", "y"]),
        }
        return Index(**(fields | change)).fingerprint

    changed = [
        fingerprint(),
        fingerprint(classes=("a", "c")),
        fingerprint(labels=np.array([1, 0])),
        fingerprint(heights=np.array([5, 4], np.int32)),
        fingerprint(widths=np.array([5, 4], np.int32)),
        fingerprint(names=Names.of(["x", "z"])),
    ]
    assert len(set(changed)) == len(changed)
    assert fingerprint() == fingerprint()
    shifted = Names(np.hstack([np.full((2, 3), 7, np.uint8), Names.of(["x", "y"]).matrix]), start=3)
    assert fingerprint(names=shifted) == fingerprint()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))))
def test_names_give_back_their_strings(names):
    assert list(Names.of(names)) == names


PART = st.text(st.sampled_from("aZ.-_ é0"), min_size=1, max_size=3).filter(
    lambda part: part not in (".", "..")
)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tree=st.sets(
        st.tuples(PART, st.lists(PART, max_size=1).map(tuple), PART), min_size=1, max_size=8
    )
)
def test_any_tree_is_numbered_as_image_folder(tree, tmp_path_factory):
    datasets = pytest.importorskip("torchvision.datasets")
    root = tmp_path_factory.mktemp("tree")
    for name, folders, base in tree:
        fill(root / "d", {"/".join([name, *(f"{f}_dir" for f in folders), f"{base}.png"]): png()})
    theirs = datasets.ImageFolder(root / "d")
    ours = FolderStore(root / "d", cache_dir=root / "cache")
    tar = TarStore(pack(root / "d", root / "d.tar"), cache_dir=root / "cache")
    assert [ours.name(i) for i in range(len(ours.index))] == [path for path, _ in theirs.samples]
    assert ours.index.labels.tolist() == theirs.targets
    assert tar.index.fingerprint == ours.index.fingerprint


@pytest.fixture(scope="session")
def embedded_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("embedded")


@pytest.mark.parametrize(("split", "each"), [("train", 1000), ("test", 200)])
def test_embedded_images(embedded_cache, split, each):
    index = embedded(split, cache_dir=embedded_cache).index
    assert len(index.classes) == 10
    assert {"t-shirt", "trouser", "ankle-boot"} <= set(index.classes)
    assert np.bincount(index.labels).tolist() == [each] * 10
    assert set(index.heights) == set(index.widths) == {28}


def test_embedded_images_are_the_original_ones(embedded_cache):
    """Trouser 21 of the test set and its neighbours, against Zalando's file where it is there."""
    original = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
    if not original.exists():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    import gzip

    pixels = np.frombuffer(gzip.decompress(original.read_bytes()), np.uint8, offset=16)
    pixels = pixels.reshape(-1, 28, 28)
    store = embedded("test", cache_dir=embedded_cache)
    for i in range(0, len(store.index), 97):
        number = int(Path(store.name(i)).stem)
        image = Image.open(io.BytesIO(store.encoded([i])[0].tobytes()))
        np.testing.assert_array_equal(np.asarray(image), pixels[number])


def test_embedded_images_are_expanded_once(embedded_cache):
    first = embedded("train", cache_dir=embedded_cache)
    written = first.path.stat().st_mtime_ns
    assert embedded("test", cache_dir=embedded_cache).path == first.path
    assert first.path.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="split"):
        embedded("val", cache_dir=embedded_cache)
