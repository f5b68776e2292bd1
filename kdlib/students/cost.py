"""The cost of a student: parameters, multiply-adds, bytes, and milliseconds on this machine's CPU."""

import statistics
import time
from typing import Any

import torch

from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.students.networks import Student

WARMUP, REPEATS = 3, 20
"""Forward passes that `latency` discards, and forward passes that it measures."""


@torch.inference_mode()
def latency(model: Student, input_size: tuple[int, int]) -> float:
    """Median milliseconds per image in float32 on the CPU, with torch's current number of threads."""
    model = model.cpu().eval()
    image = torch.zeros(1, 3, input_size[1], input_size[0]).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(WARMUP + REPEATS):
        started = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[WARMUP:])


def complexity(model: Student, input_size: tuple[int, int]) -> dict[str, Any]:
    """Parameters, multiply-adds, bytes of the float32 weights, and CPU latency in milliseconds of a student."""
    parameters = parameter_count(model)
    return {
        "parameters": parameters,
        "multiply_adds": multiply_adds(model, input_size),
        "bytes": 4 * parameters,
        "cpu_ms": round(latency(model, input_size), 2),
    }
