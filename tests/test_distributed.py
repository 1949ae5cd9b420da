"""Several processes: every rank derives the same plan from the same table."""

import pytest
import torch

import mixpipe
from mixpipe.train.models import build_model

EPOCHS = 3


def run_rank(rank, world_size, backend, address, results):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        backend, init_method=f"file://{address}", rank=rank, world_size=world_size
    )
    tiers = [mixpipe.Tier(2, mixpipe.MeanRule(1.0)), mixpipe.Tier(4, mixpipe.MeanRule(0.5))]
    loader = mixpipe.MixLoader(
        mixpipe.embedded("test"),
        batch_size=75,  # leaves a last batch that cannot be dealt out evenly
        size=28,
        policy=mixpipe.MixTrain(tiers=tiers, batch_by="composites"),
        device=device,
        threads=1,
    )
    network = mixpipe.separate_regions(build_model("resnet8", 10, 28)).to(device)
    model = torch.nn.parallel.DistributedDataParallel(network)
    loss_fn = mixpipe.CompositeLoss(loader.table)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    lengths, seen = [], []
    for _ in range(EPOCHS):
        lengths.append(len(loader))
        ids = []
        for images, target in loader:
            optimizer.zero_grad()
            loss_fn(model(images, target.regions), target).backward()
            optimizer.step()
            ids.append(target.ids[target.ids >= 0].cpu())
        seen.append(torch.cat(ids))
    weights = torch.cat([p.detach().flatten() for p in network.parameters()]).cpu()
    table = {name: tensor.cpu() for name, tensor in loader.table.state_dict().items()}
    torch.save((lengths, seen, weights, table), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "backend",
    [
        "gloo",
        pytest.param(
            "nccl",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_ranks_agree(backend, tmp_path):
    world_size = torch.cuda.device_count() if backend == "nccl" else 2
    arguments = (world_size, backend, str(tmp_path / "rendezvous"), str(tmp_path))
    torch.multiprocessing.spawn(run_rank, arguments, nprocs=world_size)
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(world_size)]
    lengths, _, weights, table = ranks[0]
    for other_lengths, _, other_weights, other_table in ranks[1:]:
        assert other_lengths == lengths  # else the processes would wait for each other for ever
        assert torch.equal(other_weights, weights)
        assert torch.equal(other_table["losses"], table["losses"])
        assert torch.equal(other_table["epochs"], table["epochs"])
    assert lengths[-1] < lengths[0]  # it did mix
    assert (table["epochs"] == EPOCHS - 1).all()
    for epoch in range(EPOCHS):
        together = torch.cat([rank[1][epoch] for rank in ranks])
        assert sorted(together.tolist()) == list(range(2000))
