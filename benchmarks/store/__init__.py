"""Benchmarks of stores: size, writing and reading."""
