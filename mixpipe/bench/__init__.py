"""`mixpipe bench`: measurements that anybody can repeat."""

from mixpipe.bench.cli import JsonFile, bench, console, print_figures

__all__ = ["JsonFile", "bench", "console", "print_figures"]
