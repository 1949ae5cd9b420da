"""The whole path on a real device, against the CPU. Skips itself where there is none."""

import itertools

import pytest
import torch

import mixpipe
from mixpipe.train import PolicyOptions, TrainConfig, Trainer, make_policy
from mixpipe.train.models import build_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TIERS = [mixpipe.Tier(2, mixpipe.RandomRule(0.8)), mixpipe.Tier(4, mixpipe.RandomRule(0.4))]


def loader_on(device, **options):
    return mixpipe.MixLoader(
        mixpipe.embedded("train"),
        batch_size=64,
        size=28,
        policy=mixpipe.MixTrain(tiers=TIERS, warmup=0),
        device=device,
        **options,
    )


@pytest.mark.parametrize("cache", [False, True])
def test_batches_equal_the_cpus(cache):
    """PNGs decode to the same bytes on both; resampling sums in another order."""
    ours, theirs = loader_on("cuda", cache=cache), loader_on("cpu")
    for (gpu, gpu_target), (cpu, cpu_target) in itertools.islice(
        zip(ours, theirs, strict=True), 20
    ):
        assert gpu.device.type == "cuda"
        for one, other in zip(gpu_target[:4], cpu_target[:4], strict=True):
            assert torch.equal(one.cpu(), other)
        step = 1 / 255 / 0.224
        assert (gpu.cpu() - cpu).abs().max() <= 2.01 * step


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_dtype_and_format(dtype, memory_format):
    images, _ = next(iter(loader_on("cuda", dtype=dtype, memory_format=memory_format)))
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=memory_format)
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("model_name", ["resnet8", "vit_small"])
def test_a_step_does_not_stop_the_host(model_name):
    """Only DALI's hand-over may; torch's debug mode sees every synchronisation of torch's own."""
    loader = loader_on("cuda")
    model = mixpipe.separate_regions(build_model(model_name, 10, 28).cuda())
    loss_fn = mixpipe.CompositeLoss(loader.table)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = iter(loader)
    try:
        for step in range(8):
            # After warming up: first launches and allocations may wait.
            torch.cuda.set_sync_debug_mode("error" if step >= 3 else "default")
            images, target = next(batches)
            loss = loss_fn(model(images, target.regions), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int((loader.table.epochs >= 0).sum()) > 0


def test_batches_kept_by_the_caller_stay_as_they_are():
    """Batches are made ahead on a side stream: its memory must not be given out too early."""
    loader = loader_on("cuda")
    kept = [(images, images.clone()) for images, _ in itertools.islice(loader, 30)]
    torch.cuda.synchronize()
    assert all(torch.equal(images, copy) for images, copy in kept)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_training_learns(precision, tmp_path):
    config = TrainConfig(epochs=4, device="cuda", precision=precision)
    options = PolicyOptions(tiers=((2, 1.0), (4, 0.3)))
    summary = Trainer(config, make_policy(options, 4), output=tmp_path, progress=False).fit()
    assert summary.accuracy > 0.75
    assert summary.speedup > 1.2


def test_resuming_in_mid_epoch_gives_the_same_batches():
    whole, other = loader_on("cuda"), loader_on("cuda")
    batches = [images.cpu() for images, _ in itertools.islice(whole, 12)]
    for _ in itertools.islice(other, 5):
        pass
    resumed = loader_on("cuda")
    resumed.load_state_dict(other.state_dict())
    rest = [images.cpu() for images, _ in itertools.islice(resumed, 7)]
    assert all(torch.equal(a, b) for a, b in zip(batches[5:], rest, strict=True))
