"""Policies by name, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mixpipe.plan import (
    Adaptive,
    Blend,
    ByClass,
    BySimilarLoss,
    CutMix,
    CutMixBox,
    Drop,
    Grid,
    Hysteresis,
    InfoBatch,
    Layout,
    MeanRule,
    MixTrain,
    MixUp,
    Pairing,
    Plain,
    Policy,
    QuantileRule,
    RandomRule,
    SelectiveBackprop,
    Split,
    Strips,
    Tier,
)
from mixpipe.plan.schedule import Schedule

__all__ = ["LAYOUTS", "POLICIES", "PolicyOptions", "make_layout", "make_policy"]

POLICIES = ("mixtrain", "plain", "mixup", "cutmix", "infobatch", "selective")
RULES = ("mean", "quantile", "random", "hysteresis")
LAYOUTS = ("default", "split", "strips", "grid", "cutmix", "mixup")
PAIRINGS = ("random", "similar", "different-class", "same-class")
Labels: TypeAlias = Callable[[], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class PolicyOptions:
    """What the command line says about a policy.

    MixTrain takes all of it; of the other policies the pruning ones take ``speedup`` and ``final``,
    InfoBatch ``drop`` too and Selective-Backprop ``warmup_epochs``, MixUp and CutMix ``final``. The
    tiers are MixTrain's own where nothing is said of rule, threshold, tiers, k, layout, window and
    spread.

    Attributes:
        name: one of ``POLICIES``.
        speedup: samples over network inputs that the whole run is to have; None: what the
            thresholds give.
        rule: which samples may be mixed, one of ``RULES``.
        threshold: the rule's: a factor of the mean loss, a quantile, or a fraction; None: its
            default.
        leave: with the rule ``"hysteresis"``: a mixed sample goes plain when its loss rises above
            so many times the plain mean.
        tiers: pairs of (number of constituents, threshold) instead of ``k`` and ``threshold``.
        k: constituents of a composite, 2 to 4.
        layout: one of ``LAYOUTS``; ``"default"``: split, strips or grid, by k.
        window: what a region shows of its sample, ``"cut"`` or ``"fit"``; None: the layout's own.
        spread: of a split: it lies up to this share of the canvas, at random, from where the
            constituents' shares put it.
        adaptive: let regions follow the losses.
        exponent: with ``adaptive``: shares are in proportion to loss ** exponent.
        min_share: with ``adaptive``: the least share, as a part of the equal one.
        drop: share of the ``easiest`` samples to drop, 0: nobody; of the easy samples with
            ``"infobatch"``, 0: its own.
        easiest: with ``drop``: the share of the samples that may be dropped.
        warmup_epochs: epochs without mixing at the beginning.
        final: share of the epochs without mixing or pruning at the end; None: the policy's own.
        taper: share of the epochs before these over which mixing fades out; None: 0.
        pairing: who shares a composite with whom, one of ``PAIRINGS``.
        weighting: ``"area"`` or ``"each"``.
        batch_by: ``"constituents"`` or ``"composites"``.
    """

    name: str = "mixtrain"
    speedup: float | None = None
    rule: str = "mean"
    threshold: float | None = None
    leave: float = 1.0
    tiers: tuple[tuple[int, float], ...] = ()
    k: int = 2
    layout: str = "default"
    window: Literal["cut", "fit"] | None = None
    spread: float = 0.0
    adaptive: bool = False
    exponent: float = 1.0
    min_share: float = 0.5
    drop: float = 0.0
    easiest: float = 0.3
    warmup_epochs: int = 1
    final: float | None = None
    taper: float | None = None
    pairing: str = "random"
    weighting: Literal["area", "each"] = "area"
    batch_by: Literal["composites", "constituents"] = "constituents"


def make_policy(options: PolicyOptions, epochs: int, labels: Labels | None = None) -> Policy:
    """The policy that ``options`` describe, for a run of ``epochs``.

    Args:
        options: the policy.
        epochs: of the run.
        labels: gives the class of every training image (`TrainConfig.train_labels`); asked only
            for a pairing by class.

    Raises:
        ValueError: no such policy, rule or layout, or settings that cannot work.
    """
    _check_choice("policy", options.name, POLICIES)
    _refuse_unused(options)
    if options.name == "plain":
        return Plain()
    if options.name in ("mixup", "cutmix"):
        final = options.final or 0.0
        plain_from = Schedule(0, epochs, final).plain_from if final else None
        kind = MixUp if options.name == "mixup" else CutMix
        return kind(plain_from=plain_from)
    if options.name == "infobatch":
        return InfoBatch(
            epochs=epochs,
            speedup=options.speedup,
            rate=options.drop or InfoBatch.rate,
            final=InfoBatch.final if options.final is None else options.final,
        )
    if options.name == "selective":
        return SelectiveBackprop(
            speedup=options.speedup,
            warmup=options.warmup_epochs,
            epochs=epochs,
            final=options.final or 0.0,
        )
    return _mixtrain(options, epochs, labels)


_USED = {
    "plain": (),
    "mixup": ("final",),
    "cutmix": ("final",),
    "infobatch": ("speedup", "final", "drop"),
    "selective": ("speedup", "warmup_epochs", "final"),
}


def _refuse_unused(options: PolicyOptions) -> None:
    """Raise ``ValueError`` for settings that the policy would not look at."""
    default = PolicyOptions(options.name)
    given = {
        field.name
        for field in fields(options)
        if getattr(options, field.name) != getattr(default, field.name)
    }
    used = _USED.get(options.name, given)
    if options.tiers and given & {"k", "threshold"}:
        raise ValueError("tiers: given beside k or threshold, which each tier has itself")
    unused = sorted(given - set(used))
    if unused:
        raise ValueError(
            f"{', '.join(unused)}: the policy {options.name!r} takes "
            f"{'only ' + ', '.join(used) if used else 'none of these settings'}"
        )
    sizes = [k for k, _ in options.tiers] or [options.k]
    splits = options.layout == "split" or (options.layout == "default" and 2 in sizes)
    for name, looked_at, expected in (
        ("leave", options.rule == "hysteresis", "rule 'hysteresis'"),
        ("window", options.layout != "mixup", "another layout than 'mixup', which has no regions"),
        ("spread", splits, "layout 'split', or 'default' with k or a tier of 2"),
        ("exponent", options.adaptive, "adaptive"),
        ("min_share", options.adaptive, "adaptive"),
        ("easiest", options.drop, "drop"),
    ):
        if name in given and not looked_at:
            value = getattr(options, name)
            raise ValueError(f"{name}: got {value!r}, expected it only with {expected}")


def _mixtrain(options: PolicyOptions, epochs: int, labels: Labels | None) -> MixTrain:
    _check_choice("rule", options.rule, RULES)
    tiers = options.tiers or ((options.k, options.threshold),)
    chosen = ("rule", "threshold", "tiers", "k", "layout", "window", "spread")
    default = all(getattr(options, name) == getattr(PolicyOptions, name) for name in chosen)
    return MixTrain(
        speedup=options.speedup,
        tiers=None if default else [_tier(options, k, threshold) for k, threshold in tiers],
        adaptive=Adaptive(options.exponent, options.min_share) if options.adaptive else None,
        drop=Drop(options.drop, options.easiest) if options.drop else None,
        warmup=options.warmup_epochs,
        epochs=epochs,
        final=options.final or 0.0,
        taper=options.taper or 0.0,
        pairing=_pairing(options.pairing, labels),
        weighting=options.weighting,
        batch_by=options.batch_by,
    )


def _tier(options: PolicyOptions, k: int, threshold: float | None) -> Tier:
    rule = _rule(options.rule, threshold, options.leave)
    tier = Tier(k, rule, make_layout(options.layout))
    settings: dict[str, Any] = {}
    if options.window is not None:
        settings["window"] = options.window
    if options.spread and isinstance(tier.placed_by, Split):
        settings["spread"] = options.spread
    return replace(tier, layout=type(tier.placed_by)(**settings)) if settings else tier


def _rule(
    name: str, value: float | None, leave: float
) -> MeanRule | QuantileRule | RandomRule | Hysteresis:
    if name == "hysteresis":
        return Hysteresis(MeanRule() if value is None else MeanRule(value), leave)
    kinds: dict[str, type[MeanRule | QuantileRule | RandomRule]] = {
        "mean": MeanRule,
        "quantile": QuantileRule,
        "random": RandomRule,
    }
    return kinds[name]() if value is None else kinds[name](value)


def _pairing(name: str, labels: Labels | None) -> Pairing | None:
    _check_choice("pairing", name, PAIRINGS)
    if name == "random":
        return None
    if name == "similar":
        return BySimilarLoss()
    if labels is None:
        raise ValueError(f"labels: got None, expected every image's class for pairing={name!r}")
    return ByClass(labels(), same=name == "same-class")


def make_layout(name: str) -> Layout | None:
    """The layout ``name`` (one of ``LAYOUTS``); None: the default one of each k."""
    _check_choice("layout", name, LAYOUTS)
    kinds: dict[str, type[Layout]] = {
        "split": Split,
        "strips": Strips,
        "grid": Grid,
        "cutmix": CutMixBox,
        "mixup": Blend,
    }
    return None if name == "default" else kinds[name]()


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {value!r}")
