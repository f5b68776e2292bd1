"""Benchmarks, one script per question. Each measures a value and its peer in the same run (benchmarks/README.md)."""

from kdlib.machine.process import keep_freed_memory, wait_passively

wait_passively()  # must be set before any of the scripts imports torch
keep_freed_memory()
