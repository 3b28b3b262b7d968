"""Timings against named references, and what is to be done on a GPU; see README.md."""
