"""MixLoader against the plain image, against torchvision, and against being interrupted."""

import gc
import mmap
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

import mixpipe
from mixpipe.loader import IMAGENET_MEAN, IMAGENET_STD

SIZE = 28


def png(pixels):
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def store():
    """61 small images of noise in 5 classes: an odd number, that no batch size divides."""
    random = np.random.default_rng(0)
    sizes = random.integers(20, 60, (61, 2))
    images = [png(random.integers(0, 256, (h, w, 3), np.uint8)) for h, w in sizes]
    return mixpipe.BytesStore(images, labels=[i % 5 for i in range(61)])


POLICIES = {
    "plain": lambda: mixpipe.Plain(),
    "mixtrain": lambda: mixpipe.MixTrain(
        rule=mixpipe.QuantileRule(0.7), adaptive=mixpipe.Adaptive()
    ),
    "tiers": lambda: mixpipe.MixTrain(
        tiers=[mixpipe.Tier(2, mixpipe.MeanRule(1.2)), mixpipe.Tier(4, mixpipe.MeanRule(0.6))]
    ),
    "hysteresis": lambda: mixpipe.MixTrain(rule=mixpipe.Hysteresis()),
    "infobatch": lambda: mixpipe.InfoBatch(epochs=4),
    "cutmix": lambda: mixpipe.CutMix(),
    "mixup": lambda: mixpipe.MixUp(),
}


def make(store, policy="plain", **options):
    options = {"batch_size": 8, "size": SIZE, "threads": 1, **options}
    return mixpipe.MixLoader(store, policy=POLICIES[policy](), **options)


def learn(loader, target):
    """A stand-in for a training step: losses that depend on the sample and the epoch."""
    losses = ((target.ids * 37 + target.epoch * 11) % 23).float() / 10
    loader.table.update(target.ids, losses, target.epoch)


def run_epoch(loader, batches=None):
    seen = []
    for images, target in loader:
        learn(loader, target)
        seen.append((images, *target[:4]))
        if batches is not None and len(seen) == batches:
            break
    return seen


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_an_epoch_is_as_long_as_its_length_and_leads_every_sample_once(store, policy):
    loader = make(store, policy)
    for epoch in range(3):
        length = len(loader)
        batches = run_epoch(loader)
        assert len(batches) == length
        assert loader.epoch == epoch + 1
        ids = torch.cat([ids.flatten() for _, _, _, ids, _ in batches])
        ids = ids[ids >= 0]
        if policy not in ("infobatch", "cutmix", "mixup"):
            assert sorted(ids.tolist()) == list(range(61))
        elif policy == "infobatch":
            assert len(set(ids.tolist())) == len(ids) <= 61


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cache_changes_no_batch(store, policy):
    """Not in the first epoch, nor in later ones, nor after the loop was left and taken up again."""
    plain, cached = make(store, policy), make(store, policy, cache=True)
    assert_same(run_epoch(cached), run_epoch(plain))
    assert_same(run_epoch(cached, batches=2), run_epoch(plain, batches=2))
    assert_same(run_epoch(cached), run_epoch(plain))
    assert cached.stats.decoded == 61 < plain.stats.decoded
    resumed = make(store, policy, cache=True)
    resumed.load_state_dict(plain.state_dict())
    assert_same(run_epoch(resumed), run_epoch(plain))


def test_a_few_blocks_of_memory_serve_all_batches_that_are_not_kept(store, monkeypatch):
    made = []
    monkeypatch.setattr(
        "mixpipe.blocks.mmap",
        SimpleNamespace(mmap=lambda *args, **more: made.append(args) or mmap.mmap(*args, **more)),
    )
    loader = make(store, "tiers")
    batches = sum(1 for _ in range(4) for _ in loader)
    # The one in use, the next one and the one in the making; and for an epoch's first batches those
    # of the epoch before may not be gone yet.
    assert 1 <= len(made) <= 5 < batches


def test_batches_that_are_kept_stay_as_they_are(store):
    loader = make(store, "tiers")
    kept, copies = [], []
    for _ in range(3):
        for images, _ in loader:
            kept.append(images)
            copies.append(images.clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_labels_are_those_of_the_samples(store):
    loader = make(store, "tiers")
    constituents = set()
    for _ in range(2):
        for _, target in loader:
            learn(loader, target)
            present = target.ids >= 0
            constituents |= set(present.sum(1).tolist())
            assert torch.equal(target.classes[present], target.ids[present] % 5)
    assert constituents == {1, 2, 4}


@pytest.mark.parametrize("policy", ["mixtrain", "tiers", "cutmix"])
def test_a_cut_region_shows_what_the_plain_image_shows_there(store, policy):
    """The plan decides who shows where; what is shown is the plain epoch's image."""
    mixed, plain = make(store, policy), make(store, "plain")
    run_epoch(mixed), plain.set_epoch(1)  # after the warm-up
    whole = {}
    for images, target in plain:
        whole.update(zip(target.ids[:, 0].tolist(), images, strict=True))
    step = 1 / 255 / min(IMAGENET_STD)
    compared = 0
    for images, target in mixed:
        count = (target.ids >= 0).sum(1)
        for b in range(len(images)):
            if count[b] > 2:  # grids scale the whole crop down
                continue
            shown_by = torch.full((SIZE, SIZE), -1)
            for k, (y0, x0, y1, x1) in enumerate(target.regions[b].tolist()):
                shown_by[y0:y1, x0:x1] = k
            for k in range(2):
                if target.ids[b, k] < 0:
                    continue
                mask = shown_by == k
                difference = images[b][:, mask] - whole[int(target.ids[b, k])][:, mask]
                # The window is resampled by itself: its edges are float32, so a source position
                # may differ by some 1e-5 of a pixel.
                assert difference.abs().max() <= 0.05 * step
                compared += int(mask.sum())
    assert compared > 61 * SIZE * SIZE // 2


@pytest.mark.parametrize("size", [64, (64, 96)])
def test_evaluation_equals_torchvision(size):
    """Resize + CenterCrop of real photographs: both filter with an antialiased triangle."""
    photos = sorted((Path(__file__).parent / "photos").glob("*.jpg"))
    store = mixpipe.BytesStore([p.read_bytes() for p in photos], labels=list(range(len(photos))))
    canvas = (size, size) if isinstance(size, int) else size
    crop = mixpipe.CenterCrop(resize=110)
    loader = mixpipe.MixLoader(store, batch_size=3, size=size, train=False, crop=crop)
    transform = v2.Compose(
        [
            v2.Resize(110),
            v2.CenterCrop(canvas),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    ours = torch.cat([images for images, _ in loader])
    theirs = torch.stack([transform(Image.open(p).convert("RGB")) for p in photos])
    difference = (ours - theirs).abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    # Pillow rounds to uint8 after each of its two passes, and nothing is rounded here.
    assert difference.max() < 1.02
    assert difference.mean() < 0.4


@settings(deadline=None, max_examples=25)
@given(policy=st.sampled_from(sorted(POLICIES)), epoch=st.integers(0, 2), data=st.data())
def test_resuming_at_any_cut_equals_an_uninterrupted_run(store, policy, epoch, data):
    whole = make(store, policy, seed=3)
    for _ in range(epoch):
        run_epoch(whole)
    interrupted = make(store, policy, seed=3)
    for _ in range(epoch):
        run_epoch(interrupted)
    cut = data.draw(st.integers(1, len(whole)))
    first = run_epoch(interrupted, cut)
    state = interrupted.state_dict()
    interrupted.close()

    resumed = make(store, policy, seed=99)
    resumed.load_state_dict(state)
    # A state from an epoch's last batch goes on with the next epoch.
    assert resumed.epoch == epoch + (cut == len(whole))
    rest = run_epoch(resumed) if cut < len(whole) else []
    assert_same(run_epoch(whole), first + rest)
    assert_same(run_epoch(whole), run_epoch(resumed))
    for loader in (whole, resumed):
        loader.close()


def test_a_state_survives_a_file(store, tmp_path):
    loader = make(store, "tiers")
    run_epoch(loader), run_epoch(loader, 2)
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    resumed = make(store, "tiers")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(run_epoch(resumed), run_epoch(make_again(loader, store)))


def make_again(loader, store):
    again = make(store, "tiers")
    again.load_state_dict(loader.state_dict())
    return again


def test_a_state_of_another_data_set_is_refused(store):
    other = mixpipe.BytesStore([png(np.zeros((30, 30, 3), np.uint8))] * 61, labels=[0] * 61)
    with pytest.raises(ValueError, match="another data set"):
        make(other).load_state_dict(make(store).state_dict())


def test_leaving_early_starts_the_epoch_anew(store):
    loader = make(store)
    first = run_epoch(loader, 2)
    assert loader.epoch == 0
    assert_same(run_epoch(loader)[:2], first)
    assert loader.epoch == 1


def test_an_exception_in_the_loop_body_is_safe(store):
    loader = make(store)
    with pytest.raises(KeyError):
        for _ in loader:
            raise KeyError
    assert len(run_epoch(loader)) == 8


def test_a_second_loop_ends_the_first(store):
    loader = make(store)
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    with pytest.raises(StopIteration):
        next(first)
    assert len(list(second)) == 7


def test_a_hundred_breaks_leave_nothing_behind(store):
    loader = make(store)

    def use():
        gc.collect()
        tasks = len(list(Path("/proc/self/task").iterdir()))  # DALI's threads are not Python's
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return tasks, len(list(Path("/proc/self/fd").iterdir())), pages

    for _ in range(20):
        run_epoch(loader, 2)
    threads, files, pages = use()
    for _ in range(100):
        run_epoch(loader, 2)
    after = use()
    # Fewer where threads of earlier tests end meanwhile.
    assert after[0] <= threads
    assert after[1] <= files
    # 100 breaks may move the allocator's pools; a leaked batch each would be 7,500 pages.
    assert after[2] - pages < 2000


def test_the_next_batch_is_made_while_the_caller_works(store, monkeypatch):
    """By a thread, which ends with the loader; what it made is not handed out twice."""
    before = set(threading.enumerate())  # of loaders that nobody has collected yet
    loader = mixpipe.MixLoader(store, batch_size=4, size=32)
    composed = [threading.Event() for _ in range(len(loader) + 1)]
    compose = loader._compose

    def watched(*arguments):
        made = compose(*arguments)
        next(event for event in composed if not event.is_set()).set()
        return made

    monkeypatch.setattr(loader, "_compose", watched)
    batches = iter(loader)
    first = next(batches)[1].ids
    assert composed[1].wait(30)
    assert not composed[2].wait(0.2)  # one ahead, no more
    batches.close()
    assert torch.equal(next(iter(loader))[1].ids, first)
    (thread,) = (t for t in set(threading.enumerate()) - before if "mixpipe-ahead" in t.name)
    loader.close()
    assert not thread.is_alive()


def test_drop_last_leaves_out_the_short_batch(store):
    assert [len(images) for images, *_ in run_epoch(make(store))] == [8] * 7 + [5]
    assert [len(images) for images, *_ in run_epoch(make(store, drop_last=True))] == [8] * 7


def test_an_epoch_of_which_nothing_is_left_is_an_error(store):
    policy = mixpipe.MixTrain(rule=mixpipe.RandomRule(1.0), warmup=0, batch_by="composites")
    loader = mixpipe.MixLoader(store, batch_size=40, size=SIZE, policy=policy, drop_last=True)
    with pytest.raises(ValueError, match="61 samples in 31 composites fill no batch of 40"):
        next(iter(loader))


def test_going_to_the_epoch_of_a_resumed_state_keeps_its_position(store):
    loader = make(store, "tiers")
    run_epoch(loader)
    run_epoch(loader, 2)
    state = loader.state_dict()
    resumed = make(store, "tiers")
    resumed.load_state_dict(state)
    rest = []
    for epoch in range(resumed.epoch, 2):  # the usual loop
        resumed.set_epoch(epoch)
        rest += run_epoch(resumed)
    assert_same(rest, run_epoch(loader)[2:])
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert len(run_epoch(resumed)) == 8


def test_after_a_fork_a_used_loader_says_what_to_do(store):
    loader = make(store)
    run_epoch(loader, 1)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        code = 1
        try:
            next(iter(loader))
        except RuntimeError as error:
            code = 0 if "used before a fork" in str(error) else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_ranks_without_a_group_are_told_of_their_tables(store, caplog):
    run_epoch(make(store, rank=0, world_size=2))
    assert not caplog.records  # a plain plan needs no table
    run_epoch(make(store, "tiers", rank=0, world_size=2))
    assert "torch.distributed has no process group" in caplog.text


def test_launched_ranks_need_their_group_first(store, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RuntimeError, match="of 4 processes each .*init_process_group"):
        make(store)
    assert make(store, rank=0, world_size=1).world_size == 1


def test_a_policy_that_waits_for_losses_in_vain_says_so_once(store, caplog):
    loader = make(store, "tiers")
    for _ in range(3):
        for _ in loader:  # with a loss that does not know of the table
            pass
    assert len(caplog.records) == 1
    assert "no loss was written into loader.table yet" in caplog.text
    caplog.clear()
    loader = make(store, "tiers")
    for _ in range(3):
        run_epoch(loader)
    for _ in range(3):
        for _ in make(store, "plain"):
            pass
    assert not caplog.records


@pytest.mark.parametrize("state", [{}, {"loader": {}, "model": {}}])
def test_a_state_of_something_else_is_named(store, state):
    with pytest.raises(
        ValueError, match=r"state: got .*, without batches, data, epoch, .*expected"
    ):
        make(store).load_state_dict(state)


def test_a_used_loader_can_be_closed_in_a_forked_child(store):
    loader = make(store)
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        code = 1
        try:
            loader.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loader.close()
    assert len(run_epoch(loader)) == len(loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": mixpipe.Plain}, "policy: got <class .*Plain'>, expected a policy such as"),
        ({"crop": mixpipe.RandomResizedCrop}, "crop: got the class RandomResizedCrop"),
        ({"size": 28.0}, r"size: got 28.0, expected an integer or \(height, width\)"),
        ({"size": (28,)}, r"size: got \(28,\), expected"),
        ({"seed": None}, "NoneType"),
    ],
)
def test_arguments_of_another_kind_are_named(store, options, message):
    with pytest.raises(TypeError, match=message):
        mixpipe.MixLoader(store, **{"batch_size": 8, "size": SIZE, **options})


def test_numbers_of_numpy_and_labels_of_numpy_will_do(store):
    loader = make(store, size=np.int64(16), labels=np.arange(61) % 3)
    images, target = next(iter(loader))
    assert images.shape[2:] == (16, 16)
    assert torch.equal(target.classes, target.ids % 3)


@pytest.mark.parametrize("policy", ["plain", "tiers"])
def test_ranks_share_every_epoch_evenly(store, policy):
    alone = make(store, policy, batch_size=12)
    ranks = [make(store, policy, batch_size=4, rank=r, world_size=3) for r in range(3)]
    run_epoch(alone)
    for loader in ranks:
        run_epoch(loader)
        loader.table.load_state_dict(alone.table.state_dict())
    assert len({len(loader) for loader in ranks}) == 1
    together = [run_epoch(loader) for loader in ranks]
    ids = torch.cat([batch[3].flatten() for batches in together for batch in batches])
    assert sorted(ids[ids >= 0].tolist()) == list(range(61))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_come_in_the_dtype_and_format_asked_for(store, dtype, memory_format):
    images, _ = next(iter(make(store, dtype=dtype, memory_format=memory_format)))
    exact, _ = next(iter(make(store)))
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, exact.to(dtype))


def test_dense_labels_of_cutmix_sum_to_one(store):
    for _, target in make(store, "cutmix"):
        dense = target.dense(5)
        torch.testing.assert_close(dense.sum(1), torch.ones(len(dense)))


def test_a_state_of_other_batches_is_refused_in_mid_epoch(store):
    loader = make(store, batch_size=8)
    run_epoch(loader, 3)
    with pytest.raises(ValueError, match="saved in mid-epoch with .*'batch_size': 8"):
        make(store, batch_size=16).load_state_dict(loader.state_dict())
    run_epoch(loader)
    other = make(store, batch_size=16)  # between epochs nothing depends on it
    other.load_state_dict(loader.state_dict())
    assert other.epoch == 1


def test_an_iterator_that_is_not_used_keeps_the_position(store):
    loader = make(store)
    run_epoch(loader, 2)
    resumed = make(store)
    resumed.load_state_dict(loader.state_dict())
    iter(resumed)
    assert len(run_epoch(resumed)) == len(resumed) - 2


@pytest.mark.parametrize("how", ["set_epoch", "load_state_dict"])
def test_going_elsewhere_ends_a_running_loop(store, how):
    loader = make(store)
    state = loader.state_dict()
    seen = 0
    for _ in loader:
        seen += 1
        if how == "set_epoch":
            loader.set_epoch(5)
        else:
            loader.load_state_dict(state)
    assert seen == 1
    assert loader.epoch == (5 if how == "set_epoch" else 0)


def test_classes_must_be_the_stores_own(store):
    assert make(store, classes=store.index.classes).classes == store.index.classes
    with pytest.raises(ValueError, match="classes: this store has 5 classes of its own"):
        make(store, classes=("a", "b"))


@pytest.mark.parametrize("size", [(20, 36), (36, 20), 24])
def test_evaluation_works_on_any_canvas(store, size):
    images, _ = next(iter(make(store, size=size, train=False)))
    assert images.shape[2:] == ((size, size) if isinstance(size, int) else size)


def test_parts_of_the_time_do_not_overlap(store):
    loader = make(store)
    begin = time.perf_counter()
    run_epoch(loader)
    whole = time.perf_counter() - begin
    assert set(loader.stats.seconds) == {"plan", "decode", "compose"}
    assert sum(loader.stats.seconds.values()) <= whole


def test_whole_images_equal_torchvisions(tmp_path):
    """Plain, with the window arithmetic replaced by the full image."""
    photos = sorted((Path(__file__).parent / "photos").glob("*.jpg"))
    store = mixpipe.BytesStore([p.read_bytes() for p in photos], labels=list(range(len(photos))))
    loader = mixpipe.MixLoader(
        store,
        batch_size=4,
        size=96,
        policy=mixpipe.Plain(shuffle=False),
        crop=mixpipe.CenterCrop(resize=None),
    )
    ours, _ = next(iter(loader))
    transform = v2.Compose(
        [
            v2.Resize((96, 96)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    theirs = torch.stack([transform(Image.open(p).convert("RGB")) for p in photos])
    difference = (ours - theirs).abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    # Pillow rounds to whole values after each of its two passes; mixpipe does not round.
    assert difference.max() <= 1.02
    assert difference.mean() < 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 64, "drop_last": True}, "drop_last: nothing is left of 61 samples"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"size": 0}, "size: expected"),
        ({"dtype": torch.float64}, "dtype: expected float32"),
        ({"memory_format": torch.preserve_format}, "memory_format: expected"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 <= rank < world_size = 2, got 2"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(store, options, message):
    with pytest.raises(ValueError, match=message):
        make(store, **options)
