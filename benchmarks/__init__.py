"""One script a question, each measured against its peer in the same run; benchmarks/README.md says how to read them."""

from kdlib.machine.process import keep_freed_memory, wait_passively

wait_passively()  # here, because it must be asked for before any of the scripts imports torch
keep_freed_memory()
