from functools import partial

import pytest
import timm
import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.convnext import CNBlockConfig

from mixpipe.nn import separate_regions
from mixpipe.train.models import build_model

SIZE = 64
TORCHVISION = (
    "resnet18",
    "regnet_y_400mf",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "densenet121",
)
TIMM = (
    "resnet18",
    "mobilenetv2_100",
    "mobilenetv3_small_050",
    "densenet121",
    "regnetx_002",
    "convnext_atto",
)
MODELS = {
    **{
        name: partial(torchvision.models.get_model, name, weights=None, num_classes=7)
        for name in TORCHVISION
    },
    "vit": lambda: torchvision.models.VisionTransformer(SIZE, 16, 2, 2, 32, 64, num_classes=7),
    "swin": lambda: torchvision.models.SwinTransformer(
        [4, 4], 24, [1, 1], [2, 2], [7, 7], num_classes=7
    ),
    "convnext": lambda: torchvision.models.ConvNeXt(
        [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=7
    ),
    **{f"timm {name}": partial(timm.create_model, name, num_classes=7) for name in TIMM},
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=7),
    "resnet8": lambda: build_model("resnet8", 7, SIZE),
    "mobilenet_small": lambda: build_model("mobilenet_small", 7, SIZE),
    "vit_small": lambda: build_model("vit_small", 7, 28),
}


def images_for(name, batch=2):
    size = 28 if name == "vit_small" else SIZE
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)), size


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    # Fresh networks say nothing (vanishing signals, a zero head), and any two nothings are equal.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # one pass sets the statistics
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    model(images_for(name, batch=8)[0])
    return model.eval()


def test_plain_evaluation_is_the_model_bit_for_bit(name, model):
    images, _ = images_for(name)
    expected = model(images)
    assert torch.equal(separate_regions(model)(images), expected)
    assert expected.abs().max() > 0


def test_the_whole_canvas_is_classified_as_the_plain_image(name, model):
    images, size = images_for(name)
    whole = torch.tensor([0, 0, size, size], dtype=torch.int32).expand(2, 1, 4)
    logits = separate_regions(model)(images, whole)
    # The pool sums in another order than AdaptiveAvgPool2d.
    torch.testing.assert_close(logits[:, 0], model(images), rtol=1e-4, atol=1e-4)


def test_one_row_of_logits_a_constituent(name, model):
    images, size = images_for(name)
    halves = torch.tensor([[0, 0, size, size // 2], [0, size // 2, size, size], [0, 0, 0, 0]])
    logits = separate_regions(model)(images, halves.int().expand(2, 3, 4))
    assert logits.shape == (2, 3, 7)
    assert not torch.allclose(logits[:, 0], logits[:, 1], atol=1e-5)
    # An absent constituent pools everything, so that its (unused) logits are finite.
    torch.testing.assert_close(logits[:, 2], model(images), rtol=1e-4, atol=1e-4)


class HostNumbers(TorchDispatchMode):
    """Refuses tensors made of Python's numbers: on a GPU the host waits for their copy."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten.lift_fresh.default, "a tensor of Python's numbers"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mapped", [False, True])
def test_a_pass_copies_nothing_from_the_host(name, model, mapped):
    images, size = images_for(name)
    halves = torch.tensor([[0, 0, size, size // 2], [0, size // 2, size, size]]).expand(2, 2, 4)
    index_map = torch.randint(0, 2, (2, size, size), dtype=torch.uint8) if mapped else None
    with HostNumbers():
        separate_regions(model)(images, halves.int(), index_map)


def test_no_new_parameters(name, model):
    separated = separate_regions(model)
    assert {id(p) for p in separated.parameters()} == {id(p) for p in model.parameters()}


def test_works_for_a_model_of_another_form():
    body, head = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(4, 5)

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = body, head

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    model = separate_regions(
        Odd(), features=lambda m, x: m.body(x), classify=lambda m, x: m.head(x)
    )
    whole = torch.tensor([[[0, 0, 8, 8]]], dtype=torch.int32)
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(model(images, whole)[:, 0], model(images))


def test_tokens_that_are_no_class_token_and_grid_are_refused():
    """Sixteen of a grid of 4 × 4, say, without a class token."""
    model = separate_regions(
        torch.nn.Identity(), features=lambda m, x: torch.ones(1, 16, 2), classify=lambda m, x: x
    )
    halves = torch.tensor([[[0, 0, 8, 4], [0, 4, 8, 8]]], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"features: expected a class token .* 8 × 8, got 16 tok"):
        model(torch.ones(1, 3, 8, 8), halves)


def test_an_unknown_form_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"Linear has none of the known forms.*pass features="):
        separate_regions(torch.nn.Linear(3, 3))
    for name in ("vgg11", "alexnet", "squeezenet1_1", "googlenet"):
        with pytest.raises(TypeError, match="has none of the known forms"):
            separate_regions(torchvision.models.get_model(name, weights=None, num_classes=3))
    # Layers before the pool, batch norm after it, maps of the form B, H, W, C, two tokens in
    # front, layers for the class token alone.
    names = [
        *("vgg11", "efficientvit_b0", "efficientvit_m0", "swin_tiny_patch4_window7_224"),
        *("deit_tiny_distilled_patch16_224", "cait_xxs24_224"),
    ]
    names += filter(timm.is_model, ("lowformer_b0", "mobilenetv4_conv_small"))  # of late releases
    for name in names:
        with pytest.raises(TypeError, match="has none of the known forms"):
            separate_regions(timm.create_model(name, num_classes=3))
    dropping = timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.75)
    with pytest.raises(TypeError, match="has none of the known forms"):
        separate_regions(dropping)
    with pytest.raises(TypeError, match="both features and classify"):
        separate_regions(torch.nn.Linear(3, 3), features=lambda m, x: x)


def test_models_of_ones_own_are_not_taken_for_one_of_a_librarys():
    """Names such as ``layers`` and ``classifier`` say nothing about what lies between."""

    class Largest(torch.nn.Module):
        def __init__(self, **parts):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    layers, linear = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)
    normed = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), linear)
    for parts in (
        {"layers": layers, "classifier": linear},
        {"features": layers, "avgpool": torch.nn.AdaptiveMaxPool2d(1), "classifier": linear},
        {"features": layers, "classifier": normed},
        {"features": layers, "classifier": torch.nn.Sequential(torch.nn.LayerNorm(4), linear)},
    ):
        with pytest.raises(TypeError, match="Largest has none of the known forms"):
            separate_regions(Largest(**parts))


def test_compiles_without_a_graph_break():
    torch.manual_seed(0)
    model = separate_regions(build_model("resnet8", 4, 28)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images, halves = torch.randn(2, 3, 28, 28), torch.tensor([[0, 0, 28, 9], [0, 9, 28, 28]])
    regions = halves.int().expand(2, 2, 4)
    torch.testing.assert_close(compiled(images, regions), model(images, regions))
    index_map = torch.randint(0, 2, (2, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(
        compiled(images, regions, index_map), model(images, regions, index_map)
    )


def test_with_an_index_map_who_fills_the_canvas_is_the_plain_image_and_others_are_not(name, model):
    images, size = images_for(name)
    separated = separate_regions(model)
    boxes = torch.tensor([0, 0, size, size], dtype=torch.int32).expand(2, 2, 4)
    index_map = torch.zeros(2, size, size, dtype=torch.uint8)
    index_map[1] = torch.arange(size)[:, None] * 2 // size  # halves
    logits = separated(images, boxes, index_map)
    torch.testing.assert_close(logits[0, 0], model(images)[0], rtol=1e-4, atol=1e-4)
    halves = torch.tensor([[0, 0, size // 2, size], [size // 2, 0, size, size]], dtype=torch.int32)
    expected = separated(images, halves.expand(2, 2, 4))[1]
    torch.testing.assert_close(logits[1], expected, rtol=1e-4, atol=1e-4)
