"""Names of the parts: torch's profiler sees them, NVTX only while an Nsight tool listens."""

import pytest
import torch

import mixpipe
from mixpipe.trace import part


@pytest.mark.parametrize("attached", [False, True])
def test_nvtx_ranges_are_made_only_while_a_tool_is_attached(attached, monkeypatch):
    ranges = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", ranges.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: ranges.append("end"))
    if attached:
        monkeypatch.setenv("NVTX_INJECTION64_PATH", "libnvtx.so")
    else:
        monkeypatch.delenv("NVTX_INJECTION64_PATH", raising=False)
    with pytest.raises(KeyError), part("decode"):
        raise KeyError
    assert ranges == (["decode", "end"] if attached else [])


def test_the_profiler_sees_the_part_and_its_seconds_are_added():
    seconds = {"loss": 1.0}
    with torch.profiler.profile() as profiler, part("loss", seconds):
        torch.ones(3).sum()
    assert "mixpipe.loss" in {event.key for event in profiler.key_averages()}
    assert seconds["loss"] > 1.0


def test_the_profiler_sees_the_loaders_parts_as_the_docs_say(folder):
    from torch._C._profiler import _ExperimentalConfig

    loader = mixpipe.MixLoader(folder / "train", batch_size=16, size=32)
    every_thread = _ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(experimental_config=every_thread) as profiler:
        batches = sum(1 for _ in loader)
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert counts["mixpipe.compose"] == batches
    assert {"mixpipe.plan", "mixpipe.decode"} <= set(counts)
