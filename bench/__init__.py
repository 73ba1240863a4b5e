"""Measurements: every figure we state is made again by `python -m bench`."""
