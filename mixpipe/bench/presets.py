"""What `mixpipe bench method` compares: MixTrain, its rivals, and settings that were tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mixpipe.train import PolicyOptions, TrainConfig

__all__ = ["PLAIN", "PRESETS", "Preset", "Row"]

TIERS = ((2, 1.0), (4, 0.3))


@dataclass(frozen=True)
class Row:
    """One way of training.

    Attributes:
        name: what the table calls it.
        options: its policy.
        shortened: run for so many times fewer epochs; 1: full length.
        settings: those of `TrainConfig` in which this row differs from the preset.
    """

    name: str
    options: PolicyOptions
    shortened: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)


def _mixed(speedup: float | None, **more: Any) -> PolicyOptions:
    """MixTrain with two tiers and, unless told, the same budget in every epoch but the first."""
    options: dict[str, Any] = {"tiers": TIERS, "taper": 0.0, "final": 0.0, **more}
    return PolicyOptions(speedup=speedup, **options)


# The default before: mixing fades out over six tenths of the epochs, the last tenth is plain.
TAPERED: dict[str, Any] = {"taper": 0.6, "final": 0.1}

PLAIN = Row("plain", PolicyOptions("plain"))
PAIRS: dict[str, Any] = {"speedup": 1.8, "rule": "random", "final": 0.0, "taper": 0.0}
# InfoBatch drops half of the easy samples, as its authors do; 1.5 times fewer inputs is near what
# their rule, the mean loss, gives here. The rest comes from fewer epochs, as in MixTrain's own best
# row for 2.2, ...
INFOBATCH = PolicyOptions("infobatch", speedup=1.5, drop=0.5)
# ... or from dropping more, in as many epochs.
INFOBATCH_MORE = tuple(
    Row(f"InfoBatch {speedup}, all epochs", PolicyOptions("infobatch", speedup=speedup, drop=drop))
    for speedup, drop in ((1.8, 0.6), (2.2, 0.7))
)
# Each rival at a cost that MixTrain is measured at too.
RIVALS = (
    PLAIN,
    *(Row(f"plain-shortened {s}", PolicyOptions("plain"), s) for s in (1.6, 1.8, 2.2)),
    Row("pixel blend 1.8", PolicyOptions(layout="mixup", **PAIRS)),
    Row(
        "CutMix halves 1.8",
        PolicyOptions(layout="cutmix", **PAIRS),
        settings={"separate": False},
    ),
    Row("random subset 1.8", _mixed(1.8, rule="random")),
    Row("InfoBatch 1.8", INFOBATCH, 1.8 / 1.5),
    Row("InfoBatch 2.2", INFOBATCH, 2.2 / 1.5),
    Row("Selective-Backprop 1.8", PolicyOptions("selective", speedup=1.8)),
)
FEWER = 38 / 31  # with a speed-up of 1.8, 2.2 times fewer inputs


def _mixtrain(suffix: str = "", **more: Any) -> tuple[Row, ...]:
    """MixTrain at three costs."""
    return (
        Row(f"MixTrain 1.6{suffix}", _mixed(1.6, **more)),
        Row(f"MixTrain 1.8{suffix}", _mixed(1.8, **more)),
        # The best found for this cost (CHOICES_22).
        Row(f"MixTrain + drop 2.2{suffix}", _mixed(1.8, drop=0.5, **more), FEWER),
    )


MIXTRAIN = _mixtrain()
MIXTRAIN_TAPERED = (
    *_mixtrain(", tapered", **TAPERED),
    Row("random subset 1.8, tapered", _mixed(1.8, rule="random", **TAPERED)),
)

ROWS = {row.name: row for row in RIVALS + MIXTRAIN + MIXTRAIN_TAPERED}

# Whether plain training is saturated, ...
TWICE_AS_LONG = Row("plain, twice as long", PolicyOptions("plain"), 0.5)
# ... and what is left of the method where it is.
TAPERED_TWICE_AS_LONG = Row("MixTrain 1.8, tapered, twice as long", _mixed(1.8, **TAPERED), 0.5)

# In few steps these do better with twice plain training's learning rate (CHOICES, CHOICES_22). Of
# 76 epochs the shortest row has nearly as many steps as plain training in 38, and plain's rate.
FASTER = (
    "plain-shortened 2.2",
    "InfoBatch 1.8",
    "InfoBatch 2.2",
    "Selective-Backprop 1.8",
    "MixTrain + drop 2.2, tapered",
)
SHORT = (
    *(
        replace(row, settings={"lr": 0.2}) if row.name in FASTER else row
        for row in RIVALS + MIXTRAIN_TAPERED
    ),
    ROWS["MixTrain 1.8"],
    *INFOBATCH_MORE,
    # What was measured first, with plain training's rate.
    *(
        replace(row, name=f"{row.name}, lr 0.1")
        for row in RIVALS + MIXTRAIN_TAPERED
        if row.name
        in ("plain-shortened 2.2", "Selective-Backprop 1.8", "MixTrain + drop 2.2, tapered")
    ),
)


def _tried(
    name: str,
    taper: float,
    final: float = 0.1,
    *,
    speedup: float = 1.8,
    shortened: float = 1.0,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Row:
    options = _mixed(speedup, taper=taper, final=final, **more)
    return Row(name, options, shortened, settings or {})


FOURS = ((4, 1.0),)
RATES = (0.1, 0.2)  # plain training's, and one for fewer steps
CHOICES = (
    PLAIN,
    _tried("taper 0.6, final 0.1", 0.6, 0.1),
    _tried("no taper", 0.0, 0.1),
    _tried("no taper, each sample counts alike", 0.0, 0.1, weighting="each"),
    _tried("no taper, final 0.3", 0.0, 0.3),
    _tried("no taper, no plain epochs at the end", 0.0, 0.0),
    _tried("no taper, final 0.3, each counts alike", 0.0, 0.3, weighting="each"),
    _tried("no taper, final 0.38, only fours", 0.0, 0.38, tiers=FOURS),
    # Rivals of fewer steps than plain training, with its rate and with twice that.
    *(
        replace(row, name=f"{row.name}, lr {lr}", settings={"lr": lr})
        for row in RIVALS
        if row.name in ("plain-shortened 1.8", "InfoBatch 1.8", "Selective-Backprop 1.8")
        for lr in RATES
    ),
    TWICE_AS_LONG,
    _tried("taper 0.6, final 0.1, twice as long", 0.6, shortened=0.5),
    _tried("no taper, no plain epochs at the end, twice as long", 0.0, 0.0, shortened=0.5),
)


# MixTrain, shortened plain training and InfoBatch at about a 2.2th of plain training's inputs, some
# by a lower speed-up in fewer epochs; plain training at other rates.
CHOICES_22 = (
    PLAIN,
    _tried("taper 0.9", 0.9, speedup=2.2),
    _tried("drop 0.5, taper 0.9", 0.9, speedup=2.2, drop=0.5),
    _tried("1.8 in 31 epochs", 0.6, shortened=FEWER),
    _tried("drop 0.5, 1.8 in 31 epochs", 0.6, shortened=FEWER, drop=0.5),
    _tried("drop 0.7, 1.8 in 31 epochs", 0.6, shortened=FEWER, drop=0.7),
    _tried("drop 0.3, 1.8 in 31 epochs", 0.6, shortened=FEWER, drop=0.3),
    _tried("drop 0.5, 1.6 in 28 epochs", 0.6, speedup=1.6, shortened=38 / 28, drop=0.5),
    # Learning rates for fewer steps, and for as few of them; plain training's with these.
    *(Row(f"plain, lr {lr}", PolicyOptions("plain"), settings={"lr": lr}) for lr in (0.05, 0.2)),
    *(
        replace(row, name=f"{row.name}, lr {lr}", settings={"lr": lr})
        for row in RIVALS
        if row.name in ("plain-shortened 2.2", "InfoBatch 2.2")
        for lr in RATES
    ),
    *(
        _tried(
            f"drop 0.5, 1.8 in 31 epochs, lr {lr}",
            0.6,
            shortened=FEWER,
            drop=0.5,
            settings={"lr": lr},
        )
        for lr in (0.05, 0.2)
    ),
    _tried(
        "drop 0.5, 1.8 in 31 epochs, no taper, no plain epochs at the end, lr 0.2",
        0.0,
        0.0,
        shortened=FEWER,
        drop=0.5,
        settings={"lr": 0.2},
    ),
)


def _varied(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    speedup: float | None = 1.6,
    **more: Any,
) -> Row:
    """Tapered at 1.6 times fewer inputs, with another policy option or training setting."""
    return Row(name, _mixed(speedup, **{**TAPERED, **more}), settings=settings or {})


SHORTENED, EVEN, WITH_TAPER = (
    ROWS[name] for name in ("plain-shortened 1.6", "MixTrain 1.6", "MixTrain 1.6, tapered")
)
# One option at a time: whether each works, and roughly what it is worth. The budget stays, and so
# an option may move others: of pairs alone nearly all samples are needed; of the quantile and the
# random rule the thresholds are shares, which make another number of fours.
VARIANTS = (
    PLAIN,
    SHORTENED,
    WITH_TAPER,
    _varied("quantile rule", rule="quantile"),
    _varied("random rule", rule="random"),
    # These decide by themselves how many are mixed.
    _varied("pairs by the mean rule", speedup=None, tiers=(), taper=None),
    _varied("pairs by hysteresis", rule="hysteresis", speedup=None, tiers=(), taper=None),
    _varied("adaptive shares", adaptive=True),
    _varied("only pairs", tiers=((2, 1.0),)),
    _varied("only threes", tiers=((3, 1.0),)),
    _varied("only fours", tiers=FOURS),
    _varied("windows cut", window="cut"),
    _varied("windows fit", window="fit"),
    _varied("split anywhere", spread=0.25),
    _varied("together by like loss", pairing="similar"),
    _varied("together of one class", pairing="same-class"),
    _varied("together of other classes", pairing="different-class"),
    _varied("each counts alike", weighting="each"),
    _varied("batches of composites", batch_by="composites"),
    _varied("one pool for all regions", {"separate": False}),
    EVEN,
)
# Other optimisers and models. Learning rates are the optimisers' usual ones unless named.
OTHERS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name} for name in ("adam", "adamw", "rmsprop")},
    "adamw, lr 0.003": {"optimizer": "adamw", "lr": 0.003},
    **{name: {"model": name} for name in ("resnet14", "resnet20", "mobilenet_small", "vit_small")},
    "vit_small by adamw": {"model": "vit_small", "optimizer": "adamw"},
}
EACH = (PLAIN, SHORTENED, WITH_TAPER, EVEN)
MODELS = EACH + tuple(
    replace(row, name=f"{name}: {row.name}", settings=settings)
    for name, settings in OTHERS.items()
    for row in EACH
)


@dataclass(frozen=True)
class Preset:
    """A comparison.

    Attributes:
        about: a sentence for the table's head.
        config: the settings of all runs; the seed is set for each.
        rows: what is compared; the first is plain training at full length.
        seeds: so many runs of each row.
        fashion: the splits to take from Fashion-MNIST's original files, where those are the data.
        own_data: the data is the caller's to name.
    """

    about: str
    config: TrainConfig
    rows: tuple[Row, ...] = RIVALS + MIXTRAIN
    seeds: int = 3
    fashion: Mapping[str, tuple[str, slice]] = field(default_factory=dict)
    own_data: bool = False


SMALL = TrainConfig(model="resnet8", epochs=38, batch_size=128, size=28, val_split="test")
VARIED = replace(SMALL, val_split="val", epochs=24)
# Settings are chosen on "val", which no run trains on; "test" is read for the table.
FASHION_PART = {
    "train": ("train", slice(0, 2000)),
    "val": ("train", slice(2000, 4000)),
    "test": ("t10k", slice(None)),
}
FASHION_TENTH = {**FASHION_PART, "train": ("train", slice(0, 600))}
FASHION_ALL = {"train": ("train", slice(None)), "test": ("t10k", slice(None))}

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "10,000 embedded images, a few epochs: shows that the command works, not what is better",
        replace(SMALL, epochs=6),
        rows=(PLAIN, SHORTENED, EVEN),
        seeds=1,
    ),
    "fashion": Preset(
        "20,000 training and all 10,000 test images",
        replace(SMALL, epochs=76),
        rows=(*RIVALS, *MIXTRAIN, TWICE_AS_LONG),
        fashion=FASHION_PART,
    ),
    "fashion-tapered": Preset(
        "20,000 training and all 10,000 test images, mixing fading out, the last tenth plain",
        replace(SMALL, epochs=76),
        rows=(PLAIN, *MIXTRAIN_TAPERED, TWICE_AS_LONG, TAPERED_TWICE_AS_LONG),
        fashion=FASHION_PART,
    ),
    "fashion-short": Preset(
        "20,000 training and all 10,000 test images, half the epochs: not quite saturated",
        SMALL,
        rows=SHORT,
        fashion=FASHION_PART,
    ),
    "fashion-choice": Preset(
        "settings tried at 1.8 times fewer inputs, on 20,000 validation images",
        replace(SMALL, val_split="val"),
        rows=CHOICES,
        seeds=1,
        fashion=FASHION_PART,
    ),
    "fashion-choice-2.2": Preset(
        "settings tried at 2.2 times fewer inputs, on 20,000 validation images",
        replace(SMALL, val_split="val"),
        rows=CHOICES_22,
        seeds=1,
        fashion=FASHION_PART,
    ),
    "fashion-variants": Preset(
        "6,000 training and 20,000 validation images: one option of MixTrain at a time",
        VARIED,
        rows=VARIANTS,
        seeds=1,
        fashion=FASHION_TENTH,
    ),
    "fashion-models": Preset(
        "6,000 training and 20,000 validation images: optimisers and models, each with its plain",
        VARIED,
        rows=MODELS,
        seeds=1,
        fashion=FASHION_TENTH,
    ),
    "fashion-full": Preset(
        "all 60,000 training and 10,000 test images",
        SMALL,
        rows=(
            PLAIN,
            ROWS["plain-shortened 1.8"],
            ROWS["MixTrain 1.8"],
            ROWS["MixTrain 1.8, tapered"],
        ),
        seeds=1,
        fashion=FASHION_ALL,
    ),
    "cifar10": Preset(
        "CIFAR-10 as an image folder",
        replace(SMALL, model="resnet20", epochs=200, size=32, val_split=None),
        own_data=True,
    ),
    "imagenet": Preset(
        "ImageNet as an image folder",
        TrainConfig(
            model="resnet50",
            epochs=90,
            batch_size=256,
            size=224,
            # Goyal et al., 2017: 0.1 for 256 images, and five epochs to get there.
            lr=0.1,
            warmup=5 / 90,
            weight_decay=1e-4,
            label_smoothing=0.1,
            device="cuda",
            precision="bfloat16",
        ),
        seeds=1,
        own_data=True,
    ),
}
