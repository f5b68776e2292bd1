"""Opening and reading a store of 150,000 instances over one of 1,000: `python -m benchmarks.store.scale`.

open.seconds   seconds from the path of the large store to its first heatmap in memory, over the small store's
read.scale     random views per second of the large store over the small one's

The heatmaps are small (17x32x24), so everything except decoding takes a larger share than usual. The files have just
been written, so they are in the page cache if they fit.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import cache
from benchmarks.support.alone import run_alone
from benchmarks.support.repeated import write_repeated
from benchmarks.support.report import Line
from benchmarks.support.timing import Block, interleave, timed
from benchmarks.support.workspace import Workspace

READS = 200
"""Views per block."""
SUFFIXES = {"zarr": "zarr", "hdf5": "h5"}
"""Name of a layout in the lines -> suffix of its stores."""


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of both layouts."""
    sizes = {"small": workspace.effort.small, "large": workspace.effort.large}
    for backend, suffix in SUFFIXES.items():
        paths = {name: workspace.folder / f"{name}.{suffix}" for name in sizes}
        for name, path in paths.items():
            write_repeated(path, sizes[name], frames=False)
        yield from _lines(paths, sizes, backend, workspace.effort.rounds_times(3))
        for path in paths.values():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _lines(paths: dict[str, Path], sizes: dict[str, int], backend: str, rounds: int) -> Iterator[Line]:
    extra = {"backend": backend, "instances": sizes["large"], "bytes": _size(paths["large"])}
    peer = f"{sizes['small']} instances"
    opened = interleave({name: _opening(path) for name, path in paths.items()}, rounds)
    yield Line(
        "open",
        "seconds",
        opened.median("large"),
        "s",
        opened.items["large"],
        peer,
        opened.median("small"),
        {**extra, "spread": opened.spread("large", "small")},
    )
    read = interleave({name: _reading(cache.open_store(path)) for name, path in paths.items()}, 2 * rounds)
    yield Line(
        "read",
        "scale",
        read.rate("large"),
        "views/s",
        read.items["large"],
        peer,
        read.rate("small"),
        {**extra, "spread": read.spread("small", "large")},
    )


def _opening(path: Path) -> Block:
    def work() -> int:
        cache.open_store(path).heatmap(0)
        return 1

    return timed(work)


def _reading(store: cache.Store) -> Block:
    rng = np.random.default_rng(0)
    out = np.empty(store.spec.map_shape, np.float32)

    def block() -> tuple[int, float]:
        rows = rng.integers(len(store), size=READS).tolist()
        started = time.perf_counter()
        for row in rows:
            store.heatmap(row, 0, out)
        return READS, time.perf_counter() - started

    return block


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    run_alone(run, __doc__)
