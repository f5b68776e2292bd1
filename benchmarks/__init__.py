"""One script a question, each measured against its peer in the same run; benchmarks/README.md says how to read them."""

from kdlib.allocator import keep_freed_memory
from kdlib.openmp import wait_passively

wait_passively()  # here, because it must be asked for before any of the scripts imports torch
keep_freed_memory()
