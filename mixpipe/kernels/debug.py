"""Debug mode: CUDA errors surface at the call that caused them."""

from types import TracebackType


class _Switch:
    sync = False


class debug:  # noqa: N801 - used like a function, as torch.no_grad
    """Switches debug mode on or off for the process: a statement, or a context that ends it.

    With ``sync=True`` every CUDA kernel is waited for, and one that fails raises a RuntimeError
    with its name and parameters; class indices and ids on a GPU are checked before a launch.
    That is slow: the host waits in every step, so that no CUDA graph can be captured.

    Example:
        >>> with mixpipe.debug(sync=True):
        ...     loss, _ = mixpipe.composite_cross_entropy(logits, classes, weights)
    """

    def __init__(self, *, sync: bool) -> None:
        self._before = _Switch.sync
        _Switch.sync = sync

    def __enter__(self) -> None:
        """Debug mode is set already, by the constructor."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _Switch.sync = self._before


def debugging() -> bool:
    """Whether launches are waited for."""
    return _Switch.sync
