"""Reading one random view over decoding the same bytes from memory: `python -m benchmarks.store.reading`.

read.random   microseconds per random view over decoding its bytes, which are already in memory;
              `beyond_peer` is the cost of finding, reading and checking them
read.inflate  microseconds of inflating a view in the HDF5 layout with zlib-ng, over zlib (the fallback)
read.library  read.random over reading through the backend's own library, zarr-python or h5py
read.file     read.random over a `torch.load` of one file per sample, as torchdistill 1.1 stored its teacher's outputs

All times are CPU time; the store's files are in the page cache. All contenders except `torch.load` decode into
preallocated memory.
"""

import contextlib
import functools
import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

import cache
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.timing import Block, Timings, interleave, timed
from benchmarks.support.workspace import Workspace
from cache.format import compress

INPUT_SIZE = (192, 256)
READS = 16
"""Views per block."""
BLOCKS = 32
FEW_BLOCKS = 4
"""Blocks of the slow contenders: the backend's library, and one file per sample."""
BACKENDS = {"zarr": "zarr", "h5": "hdf5"}
"""Suffix of a store -> name of its layout in the lines."""


class PickedView(NamedTuple):
    """One random view and its bytes."""

    instance: int
    view: int
    data: bytes
    """The compressed bytes, as on disk."""
    peak: NDArray[np.float32]


Read = Callable[[Sequence[PickedView]], int]
Codec = tuple[Callable[[NDArray[Any]], bytes], Callable[[bytes, int], NDArray[np.uint8]]]
COMPRESSORS: dict[str, Codec] = {
    "zarr": (compress.zstd_compress, compress.zstd_decompress),
    "h5": (compress.deflate_compress, compress.deflate_decompress),
}


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of both layouts."""
    for suffix, backend in BACKENDS.items():
        store = workspace.store("sample", INPUT_SIZE, suffix=suffix)
        blocks = pick_views(store, suffix)
        out = np.empty(store.spec.map_shape, np.float32)
        ours = functools.partial(_through_store, store, out)
        bare = functools.partial(_decode_bytes, store, suffix, out)
        timings = interleave(_same_blocks(blocks, ours, bare), workspace.effort.rounds_times(20))
        yield _line("random", timings, backend, "decode of bytes in memory")
        if suffix == "h5":
            fast, slow = (functools.partial(_inflate, store, library) for library in (compress.inflater, zlib))
            timings = interleave(_same_blocks(blocks, fast, slow), workspace.effort.rounds_times(20))
            yield _line("inflate", timings, backend, "zlib")
        few = blocks[:FEW_BLOCKS]
        with _open_library(store, suffix) as (name, codes):
            theirs = functools.partial(_through_library, store, codes, out)
            timings = interleave(_same_blocks(few, ours, theirs), workspace.effort.rounds_times(3))
        yield _line("library", timings, backend, name)
        _save_files(store, few, workspace.folder)
        theirs = functools.partial(_load_files, workspace.folder)
        timings = interleave(_same_blocks(few, ours, theirs), workspace.effort.rounds_times(3))
        yield _line("file", timings, backend, "torch.load of a float32 file per sample")


def _same_blocks(blocks: list[list[PickedView]], ours: Read, theirs: Read) -> dict[str, Block]:
    """Let both contenders read the same block in each round."""
    return {"ours": _cycle(ours, blocks), "peer": _cycle(theirs, blocks)}


def _cycle(read: Read, blocks: list[list[PickedView]]) -> Block:
    cycled = itertools.cycle(blocks)
    return timed(lambda: read(next(cycled)), time.process_time)


def _line(metric: str, timings: Timings, backend: str, peer: str) -> Line:
    ours, theirs = timings.median("ours") * 1e6, timings.median("peer") * 1e6
    extra = {"backend": backend, "beyond_peer": round(ours - theirs, 2), "spread": timings.spread("ours", "peer")}
    return Line("read", metric, ours, "us", timings.items["ours"], peer, theirs, extra)


def pick_views(store: cache.Store, suffix: str) -> list[list[PickedView]]:
    """Pick blocks of random views of a store, with their compressed bytes."""
    rng, compress_codes = np.random.default_rng(0), COMPRESSORS[suffix][0]
    picked = []
    for instance in rng.integers(len(store), size=BLOCKS * READS):
        view = int(rng.integers(store.spec.views))
        stored, peak = store.stored(int(instance), view)
        picked.append(PickedView(int(instance), view, compress_codes(stored), peak))  # compression is deterministic
    return [picked[start : start + READS] for start in range(0, len(picked), READS)]


def _through_store(store: cache.Store, out: NDArray[np.float32], picked: Sequence[PickedView]) -> int:
    for item in picked:
        store.heatmap(item.instance, item.view, out)
    return len(picked)


def _decode_bytes(store: cache.Store, suffix: str, out: NDArray[np.float32], picked: Sequence[PickedView]) -> int:
    codec, shape, nbytes, expand = store.codec, store.spec.map_shape, store.spec.map_bytes, COMPRESSORS[suffix][1]
    for item in picked:
        codec.decode(expand(item.data, nbytes).reshape(shape), item.peak, out)
    return len(picked)


def _inflate(store: cache.Store, library: Any, picked: Sequence[PickedView]) -> int:
    for item in picked:
        library.decompressobj().decompress(item.data, store.spec.map_bytes + 1)
    return len(picked)


@contextlib.contextmanager
def _open_library(store: cache.Store, suffix: str) -> Iterator[tuple[str, Any]]:
    """Open a store with the backend's own library; yield its name and version, and its array of codes."""
    if suffix == "zarr":
        yield f"zarr-python {zarr.__version__}", zarr.open_group(store.path, mode="r")["heatmaps/codes"]
    else:
        with h5py.File(
            store.path, rdcc_nbytes=0
        ) as file:  # no chunk cache: random reads of a large store would not hit it
            yield f"h5py {h5py.__version__}", file["heatmaps/codes"]


def _through_library(store: cache.Store, codes: Any, out: NDArray[np.float32], picked: Sequence[PickedView]) -> int:
    for item in picked:
        store.codec.decode(np.asarray(codes[item.instance, item.view]), item.peak, out)
    return len(picked)


def _save_files(store: cache.Store, blocks: list[list[PickedView]], folder: Path) -> None:
    for item in itertools.chain.from_iterable(blocks):
        torch.save(torch.from_numpy(store.heatmap(item.instance, item.view)), _file(folder, item))


def _load_files(folder: Path, picked: Sequence[PickedView]) -> int:
    for item in picked:
        torch.load(_file(folder, item), weights_only=True)
    return len(picked)


def _file(folder: Path, item: PickedView) -> Path:
    return folder / f"{item.instance}-{item.view}.pt"


if __name__ == "__main__":
    run_alone(run, __doc__)
