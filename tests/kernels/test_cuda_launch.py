"""The launching of CUDA kernels, with a stand-in that records the launches. The kernels themselves
run in tests/cuda_on_cpu (emulated) and, marked gpu, on a device."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import mixpipe
from mixpipe import _C
from mixpipe.kernels import cuda
from mixpipe.kernels.debug import debug


class Recorder:
    """Modules and kernels that note how they are called."""

    def __init__(self) -> None:
        self.capturing = False
        self.calls: list[tuple[str, str, tuple[int, ...], tuple[int, ...], int]] = []
        self.loads: list[str] = []

    def load(self, source: str) -> object:
        self.loads.append(source)

        def get_function(name: str) -> object:
            def kernel(grid, block, args, *, shared_mem=0) -> None:
                (params,) = args
                assert params.size == 1  # CuPy passes an array of one element by value
                self.calls.append((source, name, grid, block, params.nbytes))

            return kernel

        return SimpleNamespace(get_function=get_function)

    def launcher(self) -> cuda.Launcher:
        return cuda.Launcher(self.load, lambda _: nullcontext(), lambda _: self.capturing)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def debug_mode() -> Iterator[None]:
    with debug(sync=True):
        yield


CLASSES = torch.tensor([[0, 1], [2, 2]])
WEIGHTS = torch.full((2, 2), 0.5)


def cross_entropy(launcher: cuda.Launcher, batch: int = 2, num_classes: int = 1000):
    return cuda.composite_cross_entropy(
        launcher,
        torch.zeros(batch, num_classes),
        CLASSES[:batch],
        WEIGHTS[:batch],
        *(None, None, None, 0, None, 0.0, -100, True),
    )


def test_each_op_is_one_launch(recorder: Recorder) -> None:
    launcher = recorder.launcher()
    launcher.store(np.zeros(4, np.uint8), torch.device("cpu"))
    recorder.calls.clear()
    out = torch.empty(1, 3, 8, 16, dtype=torch.float16)
    source, regions = torch.zeros(1, 1).int(), torch.tensor([[[0, 0, 8, 16]]]).int()
    patch = torch.zeros(8, 16, 3, dtype=torch.uint8)
    cuda.compose(launcher, out, [patch], source, regions, *[None] * 4, [1.0] * 3, [0.0] * 3)
    cuda.mix_(launcher, torch.zeros(4, 3, 8, 8), None, WEIGHTS, None)
    cuda.dense_targets(launcher, CLASSES, WEIGHTS, 10, 0.1, torch.bfloat16)
    _, _, gradient = cross_entropy(launcher)
    cuda.scale_gradient(launcher, gradient, torch.ones(()), 0.5)
    assert [call[:4] for call in recorder.calls] == [
        ("compose.cu", "compose_f16_nchw_wide", (1,), (256,)),
        ("mix.cu", "mix_f32_wide", (2,), (256,)),
        ("targets.cu", "dense_targets_bf16_narrow", (2,), (128,)),
        ("cross_entropy.cu", "softmax_cross_entropy_f32_4", (2,), (256,)),
        ("cross_entropy.cu", "scale_gradient_f32", (2,), (256,)),
    ]
    assert recorder.loads == ["stage.cu", "compose.cu", "mix.cu", "targets.cu", "cross_entropy.cu"]


def test_tables_are_copied_but_while_a_graph_is_captured(recorder: Recorder) -> None:
    """Then kernels carry them, which the graph keeps; and the first time, to load that kernel."""
    launcher = recorder.launcher()

    def mix() -> list[str]:
        recorder.calls.clear()
        cuda.mix_(launcher, torch.zeros(4, 3, 8, 8), None, WEIGHTS, None)
        return [name for _, name, *_ in recorder.calls]

    assert mix() == ["stage", "mix_f32_wide"]
    assert mix() == ["mix_f32_wide"]
    recorder.capturing = True
    assert mix() == ["stage", "mix_f32_wide"]
    # Whatever the table's size: 4 KB a launch.
    launcher.store(np.zeros(3 * 4080 + 4, np.uint8), torch.device("cpu"))
    assert [call[1:] for call in recorder.calls[2:]] == [("stage", (1,), (256,), 4096)] * 4


def test_a_first_launch_while_a_graph_is_captured_is_refused(recorder: Recorder) -> None:
    launcher = recorder.launcher()
    recorder.capturing = True
    with pytest.raises(RuntimeError, match="softmax_cross_entropy_f32_4 .* first time .* captured"):
        cross_entropy(launcher)
    assert recorder.calls == []
    assert recorder.loads == []


def test_empty_input_launches_nothing(recorder: Recorder) -> None:
    launcher = recorder.launcher()
    source, regions = torch.zeros(0, 1).int(), torch.zeros(0, 1, 4).int()
    out = torch.empty(0, 3, 8, 8)
    cuda.compose(launcher, out, [], source, regions, *[None] * 4, [1.0] * 3, [0.0] * 3)
    cuda.mix_(launcher, torch.zeros(2, 3, 8, 8), torch.zeros(1, 2, 4).int(), None, None)
    cuda.dense_targets(launcher, CLASSES[:0], WEIGHTS[:0], 10, 0.1, torch.float32)
    loss, _, _ = cross_entropy(launcher, batch=0)
    assert loss == 0
    assert recorder.calls == []


def test_too_many_classes_are_refused_before_a_launch(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match="22529 classes, .* at most 22528"):
        cross_entropy(recorder.launcher(), num_classes=_C.MAX_CUDA_CLASSES + 1)
    assert recorder.calls == []


@pytest.mark.usefixtures("debug_mode")
def test_debug_mode_checks_values_before_a_launch(recorder: Recorder) -> None:
    with pytest.raises(ValueError, match=r"classes\[1, 0\] is 2, expected a class in 0 .. 1"):
        cross_entropy(recorder.launcher(), num_classes=2)
    assert recorder.calls == []


def test_debug_mode_names_the_kernel_that_failed(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    launch = torch.empty(1, 3, 8, 8)
    launch = _C.scale_gradient(gradient=0, grad_loss=0, result=0, count=5000, factor=1.0, dtype=0)
    launcher = recorder.launcher()
    launcher(launch, torch.device("cuda", 0))  # not in debug mode: errors surface later
    with debug(sync=True), pytest.raises(RuntimeError) as error:
        launcher(launch, torch.device("cuda", 0))
    assert str(error.value) == (
        "CUDA kernel scale_gradient_f32 failed on cuda:0 with grid 5, block 256, 0 bytes of shared "
        "memory and elements 5000: CUDA error: an illegal memory access was encountered"
    )


def test_a_launch_that_is_refused_names_the_kernel() -> None:
    """CuPy raises a RuntimeError of its own, in any mode."""

    def kernel(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")

    module = SimpleNamespace(get_function=lambda _: kernel)
    launcher = cuda.Launcher(lambda _: module, lambda _: nullcontext(), lambda _: False)
    with pytest.raises(RuntimeError, match=r"softmax_cross_entropy_f32_4 failed .* CUDA_ERROR_INV"):
        cross_entropy(launcher)


def test_debug_mode_ends_with_its_context() -> None:
    from mixpipe.kernels.debug import debugging

    assert not debugging()
    with debug(sync=True):
        assert debugging()
        with debug(sync=False):
            assert not debugging()
        assert debugging()
    assert not debugging()


def test_missing_cupy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    cuda.launcher.cache_clear()
    with pytest.raises(ImportError, match=r"need CuPy.*pip install 'mixpipe\[cuda13\]'"):
        cuda.launcher()


def test_cupy_for_another_cuda_says_what_to_change() -> None:
    cuda.check_driver(12090, 13000)
    cuda.check_driver(12090, 12020)
    with pytest.raises(RuntimeError, match=r"CUDA 13, but the driver supports CUDA 12.4: update"):
        cuda.check_driver(13000, 12040)
    with pytest.raises(RuntimeError, match="no NVIDIA driver was found"):
        cuda.check_driver(12090, 0)


def test_an_old_device_is_refused() -> None:
    cuda.check_device((7, 5), "T4")
    with pytest.raises(RuntimeError, match=r"P100 has compute capability 6.0, .* need 7.5"):
        cuda.check_device((6, 0), "P100")


@pytest.mark.parametrize("source", [n for n in _C.device_sources() if n.endswith(".cu")])
def test_sources_are_self_contained(source: str) -> None:
    """NVRTC gets one text, with each header once and no file to look for."""
    text = cuda.self_contained(source)
    assert "#include" not in text
    assert text.count("enum DType") == 1
    assert "__global__" in text


def test_a_fatbin_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(cuda, "__file__", str(tmp_path / "cuda.py"))
    folder = tmp_path / "fatbin"
    folder.mkdir()
    assert cuda.fatbin("mix.cu") is None
    (folder / "mix.fatbin").write_bytes(b"")
    assert cuda.fatbin("mix.cu") is None
    (folder / "mix.fatbin.sha256").write_text("of other sources")
    assert cuda.fatbin("mix.cu") is None
    (folder / "mix.fatbin.sha256").write_text(_C.DEVICE_SOURCES_HASH)
    assert cuda.fatbin("mix.cu") == folder / "mix.fatbin"


def test_cuda_tensors_reach_the_cuda_kernels() -> None:
    """The ops are registered for CUDA, and importing mixpipe does not import CuPy."""
    for op in ("compose", "mix_", "dense_targets", "composite_cross_entropy", "scale_gradient"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mixpipe::{op}", "CUDA")
    assert mixpipe.__name__ == "mixpipe"


@pytest.mark.filterwarnings("error")  # CuPy 14 says of its older class that it is deprecated
def test_kernels_are_launched_on_the_handle_of_torchs_stream() -> None:
    for handle in (0, 12345):  # 0: torch's default stream
        assert cuda.stream_of(pytest.importorskip("cupy"), handle).ptr == handle
    older = SimpleNamespace(cuda=SimpleNamespace(Stream=object, ExternalStream=lambda ptr: ptr))
    assert cuda.stream_of(older, 12345) == 12345
