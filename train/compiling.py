"""Does `torch.compile` work on this machine? It needs a C++ compiler, and on a GPU Triton."""

import torch


def compiler_problem(device: torch.device) -> str | None:
    """Why a small function cannot be compiled here, in one line; None if it can."""

    def probe(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2 + 1

    try:
        torch.compile(probe)(torch.ones(16, 16, device=device))
    except Exception as error:  # the compilers below raise what they like
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
