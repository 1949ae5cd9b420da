"""`mixpipe bench`: measurements that anybody can repeat."""

from mixpipe.bench.cli import bench

__all__ = ["bench"]
