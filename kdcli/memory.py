"""Recognises errors which mean that the memory of a device or of this machine is too small.

torch raises `torch.OutOfMemoryError` only where its own allocator fails. The libraries below it, page-locked memory,
and other runtimes raise errors of other classes, which only their text tells apart.
"""

import sys
from typing import Final

_ALLOCATION_FAILURES: Final = (
    "out of memory",  # CUDA's allocator, cudaMalloc, cudaHostAlloc, NCCL, MPS, HIP
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuSOLVER, cuSPARSE, cuDNN before version 9
    "ALLOCATION_FAILED",  # cuDNN 9
    "CUFFT_ALLOC_FAILED",
    "Failed to allocate memory",  # onnxruntime
    "can't allocate memory",  # torch on a CPU
    "not enough memory",  # the same on Windows
)
"""Parts of messages."""
_OF_THIS_MACHINE: Final = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory could not be allocated, on a device or on this machine.

    Errors of the operating system do not count: their messages are complete.
    """
    if isinstance(error, MemoryError) or _is_torch_out_of_memory(error):
        return True
    return not isinstance(error, OSError) and any(part in str(error) for part in _ALLOCATION_FAILURES)


def describe_out_of_memory(error: BaseException) -> str:
    """Where memory is too small, and the first line of the error, e.g. for a sentence that ends with a remedy."""
    text = str(error).strip()
    reason = text.partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError) or any(part in text for part in _OF_THIS_MACHINE):
        return f"too little free memory on this machine ({reason})"
    return f"too little free memory on the device ({reason})"


def _is_torch_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # not imported here: --help is fast
    return torch is not None and isinstance(error, torch.OutOfMemoryError)
