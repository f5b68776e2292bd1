"""Benchmarks of stores: their size, and what writing and reading them costs."""
