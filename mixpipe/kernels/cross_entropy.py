"""composite_cross_entropy: loss, gradient and the loss table's new entries in one pass.

logits [B, C] or [B, K, C] ─┐                       ┌─► loss (differentiable), per_constituent
classes or labels, weights ─┼─► one pass over rows ─┼─► gradient (kept for the backward pass)
ids, epoch                 ─┘                       └─► table_losses[ids], table_epochs[ids]
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixpipe import _C
from mixpipe.kernels.checks import (
    FLOATING,
    check_classes,
    check_smoothing,
    check_tensor,
    dtype_number,
)


def composite_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    ids: Tensor | None = None,
    table_losses: Tensor | None = None,
    table_epochs: Tensor | None = None,
    epoch: int | Tensor = 0,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of composites, which writes each constituent's loss into the loss table.

    Equivalent, for [B, C] logits and class indices, to
    ``(weights * cross_entropy(logits[:, None].expand(B, K, C), classes)).sum() / B``; the gradient
    is made in the same pass over the logits.

    A constituent takes part when its weight is not 0 and its class is not ``ignore_index``. Only
    then is its table entry written. Of several entries for one id in a batch, the last in the
    order of (b, k) stays. All is read from the device: a CUDA graph's replay takes tensors as they
    are then, ``epoch`` too where it is one.

    Args:
        logits: float32, float16 or bfloat16, [B, C] (one row for all constituents) or [B, K, C].
        targets: class indices int64 [B, K], or multi-label targets of a floating dtype [B, K, C]
            in 0..1 (binary cross-entropy, averaged over C).
        weights: float32 [B, K].
        ids: int64 [B, K], the samples' rows in the table; -1: none.
        table_losses: float32 [N], written: the loss without smoothing.
        table_epochs: int32 [N], written: `epoch`.
        epoch: the epoch in hand: a number, or an int32 scalar on the device of the logits, which
            is read when the kernel runs (for a CUDA graph that serves several epochs).
        label_smoothing: in [0, 1]; for multi-label targets towards one half.
        ignore_index: the class of constituents that take no part.

    Returns:
        The loss, a float32 scalar, differentiable once, in logits only; and float32 [B, K], each
        constituent's loss without smoothing (0 where it takes no part), detached. Sums are made
        in the order of (b, k): the same input gives the same bits.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape or device; on the CPU also
            where a class or an id is out of range.
        RuntimeError: a backward pass with ``create_graph=True``.
    """
    differentiable = torch.is_grad_enabled() and logits.requires_grad
    loss, per_constituent, gradient = torch.ops.mixpipe.composite_cross_entropy.default(
        logits.detach(),
        targets,
        weights,
        ids,
        table_losses,
        table_epochs,
        0 if isinstance(epoch, Tensor) else epoch,
        epoch if isinstance(epoch, Tensor) else None,
        label_smoothing,
        ignore_index,
        differentiable,
    )
    if differentiable:
        loss = _AttachGradient.apply(logits, loss, gradient, backward_factor(logits))
    return loss, per_constituent


def gradient_scale(logits: Tensor) -> float:
    """What the sum of a composite's gradients is multiplied with as it is kept.

    1 / B, except in float16, where that would be lost below its smallest number: times 1024,
    probabilities down to 2**-34 stay, and entries stay below 65504 for weights up to 60.
    """
    return 1024.0 if logits.dtype == torch.float16 else 1.0 / max(logits.shape[0], 1)


def backward_factor(logits: Tensor) -> float:
    """What is left to multiply the kept gradient with, beside the gradient of the loss."""
    return 1.0 / (1024.0 * max(logits.shape[0], 1)) if logits.dtype == torch.float16 else 1.0


class _AttachGradient(torch.autograd.Function):
    """The loss as it is, with the gradient that the forward pass made."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor, gradient: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.factor = factor
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "composite_cross_entropy has no second derivative: expected create_graph=False"
            )
        (gradient,) = ctx.saved_tensors
        if ctx.factor != 1.0 or not _is_known_one(grad_outputs[0]):
            gradient = torch.ops.mixpipe.scale_gradient.default(
                gradient, grad_outputs[0], ctx.factor
            )
        return gradient, None, None, None


def _is_known_one(value: Tensor) -> bool:
    """Whether a scalar is 1, where looking costs nothing: on the CPU, outside of compilation."""
    # is_cpu and item() take a tenth of a microsecond each, device.type and float() one.
    return (
        not torch.compiler.is_compiling()
        and type(value) is Tensor
        and value.is_cpu
        and value.item() == 1.0
    )


class Arguments(NamedTuple):
    """The op's arguments, checked and contiguous, and the tensors it fills."""

    logits: Tensor
    classes: Tensor | None
    labels: Tensor | None
    weights: Tensor
    ids: Tensor | None
    table_losses: Tensor | None
    table_epochs: Tensor | None
    epoch: int
    epoch_now: Tensor | None
    smoothing: float
    ignore_index: int
    loss: Tensor
    per_constituent: Tensor
    gradient: Tensor | None

    def launch(
        self, smoothed: Tensor | None = None, finished_blocks: Tensor | None = None
    ) -> _C.Launch:
        """The kernel's parameters and launch geometry; scratch is for the CUDA kernel."""
        logits = self.logits
        batch, constituents = self.weights.shape
        return _C.cross_entropy(
            logits=logits.data_ptr(),
            classes=_address(self.classes),
            labels=_address(self.labels),
            weights=self.weights.data_ptr(),
            ids=_address(self.ids),
            gradient=_address(self.gradient),
            per_constituent=self.per_constituent.data_ptr(),
            loss=self.loss.data_ptr(),
            table_losses=_address(self.table_losses),
            table_epochs=_address(self.table_epochs),
            epoch_now=_address(self.epoch_now),
            smoothed=_address(smoothed),
            finished_blocks=_address(finished_blocks),
            table_size=0 if self.table_losses is None else self.table_losses.shape[0],
            ignore_index=self.ignore_index,
            batch=batch,
            constituents=constituents,
            num_classes=logits.shape[-1],
            rows_per_composite=1 if logits.dim() == 2 else constituents,
            epoch=self.epoch,
            dtype=dtype_number(logits.dtype, "logits"),
            smoothing=self.smoothing,
            gradient_scale=gradient_scale(logits),
        )


def prepare(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    ids: Tensor | None,
    table_losses: Tensor | None,
    table_epochs: Tensor | None,
    epoch: int,
    epoch_now: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    with_gradient: bool,
) -> Arguments:
    """Checks the arguments and allocates the results."""
    check_tensor(logits, "logits", dtypes=FLOATING)
    device = logits.device
    if logits.dim() not in (2, 3) or logits.shape[-1] < 1:
        raise ValueError(f"logits has shape {list(logits.shape)}, expected [B, C] or [B, K, C]")
    batch, num_classes = logits.shape[0], logits.shape[-1]
    constituents = logits.shape[1] if logits.dim() == 3 else None
    multi_label = targets.is_floating_point()
    check_tensor(
        targets,
        "targets",
        dtypes=targets.dtype if multi_label else torch.int64,
        shape=(batch, constituents, num_classes)[: 3 if multi_label else 2],
        device=device,
    )
    pairs = tuple(targets.shape[:2])
    if not 1 <= pairs[1] <= _C.MAX_CONSTITUENTS:
        raise ValueError(
            f"targets has {pairs[1]} constituents a composite, expected 1 to {_C.MAX_CONSTITUENTS}"
        )
    check_tensor(weights, "weights", dtypes=torch.float32, shape=pairs, device=device)
    given = [tensor is not None for tensor in (ids, table_losses, table_epochs)]
    if any(given) != all(given):
        raise ValueError("expected ids, table_losses and table_epochs together, or none of them")
    if ids is not None and table_losses is not None and table_epochs is not None:
        check_tensor(ids, "ids", dtypes=torch.int64, shape=pairs, device=device)
        check_tensor(
            table_losses,
            "table_losses",
            dtypes=torch.float32,
            shape=(None,),
            device=device,
            contiguous=True,
        )
        check_tensor(
            table_epochs,
            "table_epochs",
            dtypes=torch.int32,
            shape=(table_losses.shape[0],),
            device=device,
            contiguous=True,
        )
    if epoch_now is not None:
        check_tensor(epoch_now, "epoch", dtypes=torch.int32, shape=(), device=device)
    check_smoothing(label_smoothing, "label_smoothing")
    return Arguments(
        logits=logits.contiguous(),
        classes=None if multi_label else targets.contiguous(),
        labels=targets.float().contiguous() if multi_label else None,
        weights=weights.contiguous(),
        ids=None if ids is None else ids.contiguous(),
        table_losses=table_losses,
        table_epochs=table_epochs,
        epoch=epoch,
        epoch_now=epoch_now,
        smoothing=label_smoothing,
        ignore_index=ignore_index,
        loss=weights.new_empty(()),
        per_constituent=weights.new_empty(pairs),
        gradient=torch.empty_like(logits, memory_format=torch.contiguous_format)
        if with_gradient
        else None,
    )


def check_values(arguments: Arguments) -> None:
    """Raises ValueError for a class or an id out of range; waits for a GPU that has them."""
    if arguments.classes is not None:
        check_classes(
            arguments.classes,
            arguments.weights,
            arguments.logits.shape[-1],
            arguments.ignore_index,
        )
    if arguments.ids is not None and arguments.table_losses is not None:
        ids = arguments.ids.cpu()
        _C.check_ids(ids.data_ptr(), ids.numel(), ids.shape[1], arguments.table_losses.shape[0])


def results(arguments: Arguments) -> tuple[Tensor, Tensor, Tensor]:
    """What the op returns: loss, per_constituent, gradient (empty where none was asked for)."""
    gradient = arguments.gradient
    if gradient is None:
        gradient = arguments.logits.new_empty(0)
    return arguments.loss, arguments.per_constituent, gradient


def _cross_entropy_cpu(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    arguments = prepare(*given)
    check_values(arguments)
    arguments.launch().run_cpu(torch.get_num_threads())
    return results(arguments)


def _cross_entropy_fake(
    logits: Tensor, targets: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    with_gradient = others[-1]
    return (
        logits.new_empty((), dtype=torch.float32),
        logits.new_empty(targets.shape[:2], dtype=torch.float32),
        logits.new_empty(logits.shape if with_gradient else (0,)),
    )


def _scale_gradient_cpu(gradient: Tensor, grad_loss: Tensor, factor: float) -> Tensor:
    result = torch.empty_like(gradient)
    scale_launch(gradient, grad_loss, result, factor).run_cpu(torch.get_num_threads())
    return result


def scale_launch(gradient: Tensor, grad_loss: Tensor, result: Tensor, factor: float) -> _C.Launch:
    """The parameters and launch geometry of the backward pass."""
    check_tensor(grad_loss, "grad_loss", dtypes=torch.float32, shape=(), device=gradient.device)
    return _C.scale_gradient(
        gradient=gradient.data_ptr(),
        grad_loss=grad_loss.data_ptr(),
        result=result.data_ptr(),
        count=gradient.numel(),
        factor=factor,
        dtype=dtype_number(gradient.dtype, "gradient"),
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


torch.library.define(
    "mixpipe::composite_cross_entropy",
    "(Tensor logits, Tensor targets, Tensor weights, Tensor? ids, Tensor(a!)? table_losses, "
    "Tensor(b!)? table_epochs, int epoch, Tensor? epoch_now, float label_smoothing, "
    "int ignore_index, bool with_gradient) -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("mixpipe::composite_cross_entropy", "cpu", _cross_entropy_cpu)
torch.library.register_fake("mixpipe::composite_cross_entropy", _cross_entropy_fake)

torch.library.define(
    "mixpipe::scale_gradient", "(Tensor gradient, Tensor grad_loss, float factor) -> Tensor"
)
torch.library.impl("mixpipe::scale_gradient", "cpu", _scale_gradient_cpu)
torch.library.register_fake(
    "mixpipe::scale_gradient", lambda gradient, grad_loss, factor: torch.empty_like(gradient)
)
