"""Reading checkpoints, the files that a training run keeps its student in.

A checkpoint is a dict of tensors and plain values, read with ``weights_only=True``. ``best.pt`` holds a student as it
was evaluated, with the batch norms that it trained with folded into its convolutions; ``last.pt`` the weights that
train, their average, the optimiser and the run's progress. Whoever changes what a student of the same entries computes
raises `VERSION`.
"""

from pathlib import Path
from typing import Any, Final

import torch

from kdlib.errors import KdlibError

VERSION: Final = 1


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        KdlibError: If there is none or it is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise KdlibError(f"no student at {path}; train one with `python -m train distill` or `baseline`") from error
    except IsADirectoryError as error:
        raise KdlibError(f"{path} is a folder; a run's student is {path / 'best.pt'}") from error
    except PermissionError as error:
        raise KdlibError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # torch.load raises whatever the bytes of a foreign file lead it to
        raise KdlibError(f"{path} is not a student's checkpoint: it is cut short, or no file of PyTorch") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise KdlibError(f"{path} is not a student's checkpoint of version {VERSION}")
    return content
