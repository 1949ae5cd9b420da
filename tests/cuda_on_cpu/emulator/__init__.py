"""Runs CUDA sources on the CPU: see ../README.md."""
