"""The loaders that are compared, each over the same folder of JPEGs and with the same settings.

A contender is a function of `Settings` that makes whatever it keeps between epochs and returns
``epoch() -> int``, which runs through the folder once and says how many outputs it saw. Everything
else about it, such as random numbers, is as its own documentation does it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from mixpipe.loader import IMAGENET_MEAN, IMAGENET_STD, MixLoader
from mixpipe.plan import Grid, Layout, MixTrain, Plain, RandomRule, Split

__all__ = ["CONTENDERS", "Contender", "Settings", "mixpipe_loader"]

Epoch = Callable[[], int]


@dataclass(frozen=True)
class Settings:
    """What is the same for all.

    Attributes:
        corpus: the folder of images, one folder a class.
        batch_size: outputs a batch.
        size: height and width of an output.
        threads: threads or worker processes, whichever the contender works with.
        device: where outputs are wanted. On a GPU mixpipe and DALI decode and compose there, and
            the others' batches are copied there, from pinned memory where they can pin it.
    """

    corpus: Path
    batch_size: int = 64
    size: int = 224
    threads: int = 2
    device: str = "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether outputs are wanted on a GPU."""
        return torch.device(self.device).type == "cuda"


class Contender(NamedTuple):
    """One row of the comparison.

    Attributes:
        name: in the tables.
        kind: ``"plain"``: float32 images; ``"composites"``: float16, channels_last.
        images: images in an output.
        needs: packages without which it is left out.
        make: see the module.
    """

    name: str
    kind: Literal["plain", "composites"]
    images: int
    needs: tuple[str, ...]
    make: Callable[[Settings], Epoch]

    @property
    def missing(self) -> str | None:
        """The package that is not installed, None where all are."""
        absent = (name for name in self.needs if importlib.util.find_spec(name) is None)
        return next(absent, None)


def _count(batches: Iterable[Any], settings: Settings) -> int:
    """Runs through an epoch's ``(images, target)``, until all of it is where it is wanted."""
    outputs = sum(len(batch[0].to(settings.device, non_blocking=True)) for batch in batches)
    if settings.on_gpu:
        torch.cuda.synchronize()
    return outputs


def _over(loader: Iterable[Any], settings: Settings) -> Epoch:
    return lambda: _count(loader, settings)


# --- torchvision ----------------------------------------------------------------------------------


def _augmentation(size: int, *, tensors: bool) -> Any:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            *([] if tensors else [v2.ToImage()]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def _decode(path: str) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    pixels: Tensor = decode_jpeg(read_file(path), mode=ImageReadMode.RGB)
    return pixels


def _folder(settings: Settings, *, tensors: bool) -> Any:
    from torchvision.datasets import ImageFolder

    transform = _augmentation(settings.size, tensors=tensors)
    if tensors:
        return ImageFolder(settings.corpus, transform, loader=_decode)
    return ImageFolder(settings.corpus, transform)


def _data_loader(settings: Settings, dataset: Any, images: int = 1, collate: Any = None) -> Any:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=settings.batch_size * images,
        shuffle=True,
        num_workers=settings.threads,
        persistent_workers=True,
        pin_memory=settings.on_gpu,
        collate_fn=collate,
    )


def _torchvision(settings: Settings, *, tensors: bool) -> Epoch:
    return _over(_data_loader(settings, _folder(settings, tensors=tensors)), settings)


def _torchvision_threads(settings: Settings) -> Epoch:
    """The tensor transforms in a pool of threads, a batch ahead."""
    dataset = _folder(settings, tensors=True)
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(settings.threads)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.split(torch.randperm(len(dataset)), settings.batch_size)
        ahead = [pool.map(dataset.__getitem__, ids.tolist()) for ids in order[:1]]
        for number in range(len(order)):
            if number + 1 < len(order):
                ahead.append(pool.map(dataset.__getitem__, order[number + 1].tolist()))
            images, labels = zip(*ahead.pop(0), strict=True)
            yield torch.stack(images), torch.tensor(labels)

    return lambda: _count(batches(), settings)


def _halves(mix: Any, items: list[Any]) -> tuple[Tensor, Tensor]:
    """v2.CutMix of neighbours, every second one: each image is in one composite."""
    images, target = mix(*torch.utils.data.default_collate(items))
    return images[::2].to(torch.float16, memory_format=torch.channels_last), target[::2]


def _torchvision_cutmix(settings: Settings, *, tensors: bool) -> Epoch:
    from torchvision.transforms import v2

    collate = partial(_halves, v2.CutMix(num_classes=1000))
    dataset = _folder(settings, tensors=tensors)
    return _over(_data_loader(settings, dataset, images=2, collate=collate), settings)


# --- timm -----------------------------------------------------------------------------------------


def _timm(settings: Settings, *, half: bool) -> Epoch:
    from timm.data import FastCollateMixup, create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(settings.corpus), split="."),
        input_size=(3, settings.size, settings.size),
        batch_size=settings.batch_size * (2 if half else 1),
        is_training=True,
        color_jitter=0.0,
        num_workers=settings.threads,
        device=torch.device(settings.device),
        img_dtype=torch.float16 if half else torch.float32,
        collate_fn=FastCollateMixup(mixup_alpha=0.0, cutmix_alpha=1.0, mode="half")
        if half
        else None,
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for images, target in loader:
            yield images.contiguous(memory_format=torch.channels_last), target

    return _over(loader, settings) if not half else lambda: _count(batches(), settings)


# --- DALI -----------------------------------------------------------------------------------------


def _dali(settings: Settings, *, paste: bool) -> Epoch:
    """DALI's own reader and random operators; pasted: a left and a right half of two readers."""
    from nvidia import dali
    from nvidia.dali import fn, types

    size, half = settings.size, settings.size // 2
    device_id = torch.cuda.current_device() if settings.on_gpu else None
    pipeline = dali.Pipeline(settings.batch_size, settings.threads, device_id, exec_dynamic=True)
    with pipeline:
        images, labels = [], []
        for side in range(2 if paste else 1):
            encoded, label = fn.readers.file(
                file_root=str(settings.corpus),
                random_shuffle=True,
                shard_id=side,
                num_shards=2 if paste else 1,
                name=f"side{side}",
            )
            image = fn.decoders.image_random_crop(
                encoded,
                device="mixed" if settings.on_gpu else "cpu",
                random_area=[0.08, 1.0],
                random_aspect_ratio=[3 / 4, 4 / 3],
            )
            image = fn.resize(
                image, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True
            )
            if paste:
                image = fn.flip(image, horizontal=fn.random.coin_flip())
            images.append(image)
            labels.append(label)
        if paste:
            corners = np.array([[0, 0], [0, half]], np.int32)
            mixed = fn.multi_paste(
                *images,
                output_size=[size, size],
                in_anchors=corners,
                out_anchors=corners,
                shapes=np.array([[size, half], [size, size - half]], np.int32),
            )
        else:
            mixed = images[0]
        normalised = fn.crop_mirror_normalize(
            mixed,
            dtype=types.FLOAT16 if paste else types.FLOAT,
            output_layout="HWC" if paste else "CHW",
            mirror=0 if paste else fn.random.coin_flip(),
            mean=[255 * value for value in IMAGENET_MEAN],
            std=[255 * value for value in IMAGENET_STD],
        )
        pipeline.set_outputs(normalised, *labels)
    pipeline.build()
    batches = pipeline.epoch_size("side0") // (2 if paste else 1) // settings.batch_size

    def results() -> Iterator[tuple[Tensor]]:
        for _ in range(batches):
            yield (from_dlpack(pipeline.run()[0].as_tensor()),)

    return lambda: _count(results(), settings)


# --- SPDL -----------------------------------------------------------------------------------------


def _spdl(settings: Settings) -> Epoch:
    """FFmpeg decodes, crops, scales and flips; the batch is normalised by torch."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder
    from torchvision.transforms import RandomResizedCrop

    from mixpipe.data import open_store

    store = open_store(settings.corpus)
    index = store.index
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255)

    def load(sample: int) -> Any:
        shape = torch.empty(3, index.heights[sample], index.widths[sample], device="meta")
        y, x, h, w = RandomResizedCrop.get_params(shape, [0.08, 1.0], [3 / 4, 4 / 3])
        flip = ",hflip" if torch.rand(()) < 0.5 else ""
        packets = spdl.io.demux_image(store.name(sample))
        return spdl.io.decode_packets(
            packets,
            filter_desc=f"crop={w}:{h}:{x}:{y}:exact=1,scale={settings.size}:{settings.size}"
            f":flags=bilinear{flip},format=pix_fmts=rgb24",
        )

    def collate(frames: list[Any]) -> tuple[Tensor]:
        pixels = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return (pixels.permute(0, 3, 1, 2).float().sub_(mean).mul_(scale).contiguous(),)

    def epoch() -> int:
        pipeline = (
            PipelineBuilder()
            .add_source(torch.randperm(len(index)).tolist())
            .pipe(load, concurrency=settings.threads)
            .aggregate(settings.batch_size)
            .pipe(collate)
            .add_sink(2)
            .build(num_threads=settings.threads)
        )
        with pipeline.auto_stop():
            return _count(pipeline, settings)

    return epoch


def _ffcv(settings: Settings) -> Epoch:
    """FFCV reads only its own file format, which is written first, as JPEG."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    file = settings.corpus.with_suffix(".beton")
    if not file.exists():
        fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
        DatasetWriter(str(file), fields, num_workers=1).from_indexed_dataset(
            ImageFolder(settings.corpus)
        )
    mean = 255 * np.array(IMAGENET_MEAN)
    std = 255 * np.array(IMAGENET_STD)
    loader = Loader(
        str(file),
        batch_size=settings.batch_size,
        num_workers=settings.threads,
        order=OrderOption.RANDOM,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((settings.size, settings.size)),
                RandomHorizontalFlip(),
                NormalizeImage(mean, std, np.float32),
                ToTensor(),
                ToTorchImage(channels_last=False),
            ],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return _over(loader, settings)


# --- mixpipe --------------------------------------------------------------------------------------


def mixpipe_loader(settings: Settings, layout: Layout | None, *, half: bool = True) -> MixLoader:
    """A loader of composites of two, or of four for a `Grid`; without a layout of plain images.

    half: float16 and channels_last.
    """
    k = 4 if isinstance(layout, Grid) else 2
    return MixLoader(
        settings.corpus,
        batch_size=settings.batch_size,
        size=settings.size,
        policy=Plain()
        if layout is None
        else MixTrain(k=k, layout=layout, rule=RandomRule(1.0), warmup=0, batch_by="composites"),
        dtype=torch.float16 if half else torch.float32,
        memory_format=torch.channels_last if half else torch.contiguous_format,
        device=settings.device,
        threads=settings.threads,
    )


def _mixpipe(
    settings: Settings, *, half: bool = False, layout: Layout | None = None, dense: bool = False
) -> Epoch:
    loader = mixpipe_loader(settings, layout, half=half)

    def labelled() -> Iterator[tuple[Tensor, Tensor]]:
        for images, target in loader:
            yield images, target.dense(1000)

    return _over(loader, settings) if not dense else lambda: _count(labelled(), settings)


CONTENDERS = (
    Contender("mixpipe", "plain", 1, (), _mixpipe),
    Contender("DALI", "plain", 1, (), partial(_dali, paste=False)),
    Contender(
        "torchvision PIL", "plain", 1, ("torchvision",), partial(_torchvision, tensors=False)
    ),
    Contender(
        "torchvision tensors", "plain", 1, ("torchvision",), partial(_torchvision, tensors=True)
    ),
    Contender("torchvision threads", "plain", 1, ("torchvision",), _torchvision_threads),
    Contender("timm", "plain", 1, ("timm",), partial(_timm, half=False)),
    Contender("SPDL", "plain", 1, ("spdl", "torchvision"), _spdl),
    Contender("FFCV", "plain", 1, ("ffcv", "torchvision"), _ffcv),
    Contender("mixpipe, one", "composites", 1, (), partial(_mixpipe, half=True)),
    Contender("mixpipe, two", "composites", 2, (), partial(_mixpipe, half=True, layout=Split())),
    Contender(
        "mixpipe, two, dense labels",
        "composites",
        2,
        (),
        partial(_mixpipe, half=True, layout=Split(), dense=True),
    ),
    Contender(
        "mixpipe, four",
        "composites",
        4,
        (),
        partial(_mixpipe, half=True, layout=Grid(window="cut")),
    ),
    Contender(
        "mixpipe, four, fit",
        "composites",
        4,
        (),
        partial(_mixpipe, half=True, layout=Grid(window="fit")),
    ),
    Contender(
        "mixpipe, four, dense labels",
        "composites",
        4,
        (),
        partial(_mixpipe, half=True, layout=Grid(window="cut"), dense=True),
    ),
    Contender("DALI multi_paste", "composites", 2, (), partial(_dali, paste=True)),
    Contender(
        "torchvision PIL + CutMix",
        "composites",
        2,
        ("torchvision",),
        partial(_torchvision_cutmix, tensors=False),
    ),
    Contender(
        "torchvision tensors + CutMix",
        "composites",
        2,
        ("torchvision",),
        partial(_torchvision_cutmix, tensors=True),
    ),
    Contender("timm FastCollateMixup", "composites", 2, ("timm",), partial(_timm, half=True)),
)
"""Every row; mixpipe's come first in each kind."""
