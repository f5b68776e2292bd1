"""The free memory of a device or of this machine."""

from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU or, for the CPU, in this machine; None if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
