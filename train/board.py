"""TensorBoard's view of a run; it must not outlive the checkpoints, nor a full disk bring a traceback.

Without TensorBoard a run says so once and writes no events: the same numbers are in its history.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.errors import not_written
from train.state import say

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Scalars and pictures of one run.

    Args:
        out: Run folder; None keeps nothing.
        step: Steps done: what an earlier process wrote beyond them is hidden.
    """

    def __init__(self, out: Path | None, step: int) -> None:
        self._out, self._step = out, step
        self._opened: SummaryWriter | None = None

    @property
    def _writer(self) -> "SummaryWriter | None":
        """TensorBoard's writer, from the first use on: importing it must not delay the first step."""
        if self._opened is None and self._out is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                say("TensorBoard is not installed, no events are written for it: pip install -e '.[tensorboard]'")
                self._out = None
                return None
            self._opened = SummaryWriter(str(self._out), purge_step=self._step + 1 if self._step else None)
        return self._opened

    def add(self, group: str, values: dict[str, Any], step: int) -> None:
        """Note some numbers of a step."""
        with self._space():
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def show(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Keep a picture (H, W, 3) RGB of a step."""
        with self._space():
            if self._writer is not None:
                self._writer.add_image(name, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Bring what was noted to disk."""
        with self._space():
            if self._opened is not None:
                self._opened.flush()

    def close(self) -> None:
        """Close the file; the run's end must not fail for it."""
        if self._opened is not None:
            with contextlib.suppress(OSError):
                self._opened.close()

    @contextlib.contextmanager
    def _space(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            assert self._out is not None  # noqa: S101 - nothing is written without a folder
            raise not_written(f"TensorBoard's events in {self._out}", self._out, error) from error
