"""Policies by name, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from mixpipe.plan import (
    Adaptive,
    Blend,
    BySimilarLoss,
    CutMix,
    CutMixBox,
    Drop,
    Hysteresis,
    InfoBatch,
    Layout,
    MeanRule,
    MixTrain,
    MixUp,
    Plain,
    Policy,
    QuantileRule,
    RandomRule,
    SelectiveBackprop,
    Tier,
)

__all__ = ["LAYOUTS", "POLICIES", "PolicyOptions", "make_layout", "make_policy"]

POLICIES = ("mixtrain", "plain", "mixup", "cutmix", "infobatch", "selective")
RULES = ("mean", "quantile", "random", "hysteresis")
LAYOUTS = ("default", "cutmix", "mixup")
PAIRINGS = ("random", "similar")


@dataclass(frozen=True)
class PolicyOptions:
    """What the command line says about a policy.

    MixTrain takes all of it, the pruning policies ``speedup``, and the others at most ``final``.

    Attributes:
        name: one of ``POLICIES``.
        speedup: samples over network inputs that the whole run is to have; None: what the
            thresholds give.
        rule: which samples may be mixed, one of ``RULES``.
        threshold: the rule's: a factor of the mean loss, a quantile, or a fraction; None: its
            default.
        tiers: pairs of (number of constituents, threshold) instead of ``k`` and ``threshold``.
        k: constituents of a composite, 2 to 4.
        layout: ``"default"`` (split, strips or grid, by k), ``"cutmix"`` or ``"mixup"``.
        adaptive: let regions follow the losses.
        drop: share of the easiest 30 % of the samples to drop, 0: nobody; of the easy samples with
            ``"infobatch"``, 0: its own.
        warmup_epochs: epochs without mixing at the beginning.
        final: share of the epochs without mixing or pruning at the end; None: the policy's own.
        taper: share of the epochs before these over which mixing fades out; None: likewise.
        pairing: who shares a composite with whom, one of ``PAIRINGS``.
        weighting: ``"area"`` or ``"each"``.
        batch_by: ``"constituents"`` or ``"composites"``.
    """

    name: str = "mixtrain"
    speedup: float | None = None
    rule: str = "mean"
    threshold: float | None = None
    tiers: tuple[tuple[int, float], ...] = ()
    k: int = 2
    layout: str = "default"
    adaptive: bool = False
    drop: float = 0.0
    warmup_epochs: int = 1
    final: float | None = None
    taper: float | None = None
    pairing: str = "random"
    weighting: Literal["area", "each"] = "area"
    batch_by: Literal["composites", "constituents"] = "constituents"


def make_policy(options: PolicyOptions, epochs: int) -> Policy:
    """The policy that ``options`` describe, for a run of ``epochs``.

    Raises:
        ValueError: no such policy, rule or layout, or settings that cannot work.
    """
    _check_choice("policy", options.name, POLICIES)
    _refuse_unused(options)
    if options.name == "plain":
        return Plain()
    if options.name in ("mixup", "cutmix"):
        final = options.final or 0.0
        plain_from = epochs - round(final * epochs) if final else None
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
    return _mixtrain(options, epochs)


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


def _mixtrain(options: PolicyOptions, epochs: int) -> MixTrain:
    _check_choice("rule", options.rule, RULES)
    _check_choice("pairing", options.pairing, PAIRINGS)
    tiers = options.tiers or ((options.k, options.threshold),)
    chosen = ("rule", "threshold", "tiers", "k", "layout")
    default = all(getattr(options, name) == getattr(PolicyOptions, name) for name in chosen)
    return MixTrain(
        speedup=options.speedup,
        tiers=None
        if default
        else [
            Tier(k, _rule(options.rule, threshold), make_layout(options.layout))
            for k, threshold in tiers
        ],
        adaptive=Adaptive() if options.adaptive else None,
        drop=Drop(rate=options.drop) if options.drop else None,
        warmup=options.warmup_epochs,
        epochs=epochs,
        final=options.final,
        taper=options.taper,
        pairing=BySimilarLoss() if options.pairing == "similar" else None,
        weighting=options.weighting,
        batch_by=options.batch_by,
    )


def _rule(name: str, value: float | None) -> MeanRule | QuantileRule | RandomRule | Hysteresis:
    if name == "hysteresis":
        return Hysteresis(MeanRule() if value is None else MeanRule(value))
    kinds: dict[str, type[MeanRule | QuantileRule | RandomRule]] = {
        "mean": MeanRule,
        "quantile": QuantileRule,
        "random": RandomRule,
    }
    return kinds[name]() if value is None else kinds[name](value)


def make_layout(name: str) -> Layout | None:
    """The layout ``name`` (one of ``LAYOUTS``); None: the default one of each k."""
    _check_choice("layout", name, LAYOUTS)
    return {"default": None, "cutmix": CutMixBox(), "mixup": Blend()}[name]


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {value!r}")
