"""Errors which mean that memory is full, as the libraries below torch raise them."""

import pytest
import torch

from kdcli.flags import run_command
from kdcli.memory import describe_out_of_memory, is_out_of_memory

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    Exception("Failed to allocate memory for requested buffer of size 9"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full_memory_is_one_line(error, capsys):
    def run():
        raise error

    assert run_command(run, (ValueError,)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: too little free memory on ")
    assert (str(error).partition("\n")[0] or "MemoryError") in line


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_other_errors_are_not_about_memory(error):
    assert not is_out_of_memory(error)


def test_the_real_error_of_this_machine_is_recognised():
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(found.value)
    assert "on this machine" in describe_out_of_memory(found.value)
