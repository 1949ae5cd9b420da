"""Train image networks on composites: plan, decode, compose, learn."""

__version__ = "0.1.0"
