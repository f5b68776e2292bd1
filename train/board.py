"""TensorBoard's view of a run; it must not outlive the checkpoints, nor a full disk bring a traceback."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.errors import TrainError


class Board:
    """Scalars and pictures of one run.

    Args:
        out: Run folder; None keeps nothing.
        step: Steps done: what an earlier process wrote beyond them is hidden.
    """

    def __init__(self, out: Path | None, step: int) -> None:
        self._out, self._writer = out, None
        if out is not None:
            from torch.utils.tensorboard import SummaryWriter

            with self._space():
                self._writer = SummaryWriter(str(out), purge_step=step + 1 if step else None)

    def add(self, group: str, values: dict[str, Any], step: int) -> None:
        """Note some numbers of a step."""
        if self._writer is not None:
            with self._space():
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Keep a picture (H, W, 3) RGB of a step."""
        if self._writer is not None:
            with self._space():
                self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Bring what was noted to disk."""
        if self._writer is not None:
            with self._space():
                self._writer.flush()

    def close(self) -> None:
        """Close the file; the run's end must not fail for it."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    @contextlib.contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainError(
                f"could not write TensorBoard's events in {self._out}: {error}; free some space and go on with --resume"
            ) from error
