"""Checks and measures Choir on a machine with a CUDA device; see scripts/gpu-check."""
