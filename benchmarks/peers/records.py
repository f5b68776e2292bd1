"""The records that all contenders of `benchmarks.peers` read, and what a contender is.

A record is what a training sample of one person is made of: the JPEG bytes of its frame, and the teacher's heatmaps,
which a reader returns as (K, H, W) float32. The heatmaps are a real teacher's.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import cache
from benchmarks.store.codec import bench_teacher
from benchmarks.support.workspace import Precompute, Workspace
from cache.commands.convert import convert_store
from precompute.run.store import create_writer, fill

Record = tuple[bytes, NDArray[np.float32]]
"""The bytes of the frame, and heatmaps (K, H, W)."""
Read = Callable[[Sequence[int]], list[Record]]
"""Read the records at some positions; a reader that only streams returns as many of the next ones."""


@dataclasses.dataclass(frozen=True)
class Records:
    """The records and our stores of them.

    Args:
        folder: Where stores and the files of the peers are written.
        exact: The store of the teacher's heatmaps in the codec ``float32``.
    """

    folder: Path
    exact: cache.Store

    @classmethod
    def make(cls, workspace: Workspace) -> "Records":
        """Run the teacher on four times the persons of the other benchmarks, or on all if there are fewer."""
        source, folder = workspace.sources[-1], workspace.folder / "peers"
        folder.mkdir()
        teacher = bench_teacher(workspace, source)
        job = Precompute.plan(workspace.people(source, 4 * workspace.effort.instances), teacher).job
        writer = create_writer(job, folder / "exact.zarr", cache.FloatCodec(), overwrite=True)
        fill(job, writer)
        return cls(folder, cache.open_store(writer.publish()))

    def __len__(self) -> int:
        return len(self.exact)

    def store(self, codec: str, suffix: str = "zarr") -> cache.Store:
        """The store in another codec and layout."""
        path = self.folder / f"{codec}.{suffix}"
        if not path.exists():
            convert_store(str(self.exact.path), path, codec=codec)
        return cache.open_store(path)

    def halves(self, index: int) -> NDArray[np.float16]:
        """The heatmaps as the peers store them: float16 (K, H, W)."""
        return self.exact.heatmap(index).astype(np.float16)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to read the records."""

    name: str
    """Name and version for the line."""
    read: Read
    nbytes: float
    """Bytes per record on disk."""
    about: dict[str, Any]
    """What else the line says, e.g. `order`."""


warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read


def as_float32(halves: NDArray[np.float16]) -> NDArray[np.float32]:
    """Convert float16 with torch, which is several times faster than numpy and what a training loop uses."""
    return np.asarray(torch.from_numpy(halves).float().numpy())


def folder_size(folder: Path) -> int:
    """The size of all files below a folder, or of one file, in bytes."""
    return sum(path.stat().st_size for path in [folder, *folder.rglob("*")] if path.is_file())
