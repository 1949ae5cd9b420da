"""``mixpipe`` and ``python -m mixpipe``: the command line, or what it needs to be installed."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from mixpipe.cli import main as run
    except ImportError as error:
        sys.exit(f"error: {error}; the command line needs: pip install 'mixpipe[train]'")
    run()


if __name__ == "__main__":
    main()
