"""`mixpipe bench`: measurements that anybody can repeat."""

from mixpipe.bench.cli import bench, console, print_figures

__all__ = ["bench", "console", "print_figures"]
