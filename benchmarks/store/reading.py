"""What does one random instance cost? `python -m benchmarks.store.reading`.

read.random   microseconds of one random view over the bare decode of its bytes, which are in memory already;
              `beyond_peer` is what finding, reading and checking them costs
read.inflate  of these, in the HDF5 form, to inflate the view; over zlib, which does it where zlib-ng is not installed
read.library  the same over the path through the backend's own library: zarr-python and h5py
read.file     the same over a `torch.load` of a file a sample, as torchdistill 1.1 kept its teacher's outputs

CPU time: the store's files are in the page cache, nothing waits. Every contender but the last decodes into memory that
is there already.
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

from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.timing import Block, Timings, interleave, timed
from benchmarks.support.workspace import Workspace
from cache.format import compress

INPUT_SIZE = (192, 256)
READS = 16
"""Of one block."""
BLOCKS = 32
FEW_BLOCKS = 4
"""For contenders that take long or need a file a sample."""
FORMS = {"zarr": "zarr", "h5": "hdf5"}


class Picked(NamedTuple):
    """One random view and its bytes."""

    instance: int
    view: int
    data: bytes
    """As they are on disk."""
    peak: NDArray[np.float32]


Read = Callable[[Sequence[Picked]], int]
Codec = tuple[Callable[[NDArray[Any]], bytes], Callable[[bytes, int], NDArray[np.uint8]]]
COMPRESSORS: dict[str, Codec] = {
    "zarr": (compress.zstd_compress, compress.zstd_decompress),
    "h5": (compress.deflate_compress, compress.deflate_decompress),
}


def run(workspace: Workspace) -> Iterator[Line]:
    """Lines of both backends."""
    for form, backend in FORMS.items():
        store = workspace.store("sample", INPUT_SIZE, form=form)
        blocks = pick(store, form)
        out = np.empty(store.spec.map_shape, np.float32)
        ours = functools.partial(_through_store, store, out)
        bare = functools.partial(_bare, store, form, out)
        timings = interleave(_in_step(blocks, ours, bare), workspace.effort.some(20))
        yield _line("random", timings, backend, "decode of bytes in memory")
        if form == "h5":
            fast, slow = (functools.partial(_inflate, store, library) for library in (compress.inflater, zlib))
            yield _line("inflate", interleave(_in_step(blocks, fast, slow), workspace.effort.some(20)), backend, "zlib")
        few = blocks[:FEW_BLOCKS]
        with _library(store, form) as (name, codes):
            theirs = functools.partial(_through_library, store, codes, out)
            timings = interleave(_in_step(few, ours, theirs), workspace.effort.some(3))
        yield _line("library", timings, backend, name)
        _save_files(store, few, workspace.folder)
        timings = interleave(
            _in_step(few, ours, functools.partial(_load_files, workspace.folder)), workspace.effort.some(3)
        )
        yield _line("file", timings, backend, "torch.load of a float32 file a sample")


def _in_step(blocks: list[list[Picked]], ours: Read, theirs: Read) -> dict[str, Block]:
    """Both contenders go through the same blocks, one a round."""
    return {"ours": _in_turn(ours, blocks), "peer": _in_turn(theirs, blocks)}


def _in_turn(read: Read, blocks: list[list[Picked]]) -> Block:
    turn = itertools.cycle(blocks)
    return timed(lambda: read(next(turn)), time.process_time)


def _line(metric: str, timings: Timings, backend: str, peer: str) -> Line:
    ours, theirs = timings.median("ours") * 1e6, timings.median("peer") * 1e6
    extra = {"backend": backend, "beyond_peer": round(ours - theirs, 2), "spread": timings.spread("ours", "peer")}
    return Line("read", metric, ours, "us", timings.items["ours"], peer, theirs, extra)


def pick(store: Any, form: str) -> list[list[Picked]]:
    """Blocks of random views of a store with the bytes that hold them."""
    rng, squeeze = np.random.default_rng(0), COMPRESSORS[form][0]
    picked = []
    for instance in rng.integers(len(store), size=BLOCKS * READS):
        view = int(rng.integers(store.spec.views))
        stored, peak = store.stored(int(instance), view)
        picked.append(Picked(int(instance), view, squeeze(stored), peak))  # the writer's bytes: it is deterministic
    return [picked[start : start + READS] for start in range(0, len(picked), READS)]


def _through_store(store: Any, out: NDArray[np.float32], picked: Sequence[Picked]) -> int:
    for item in picked:
        store.heatmap(item.instance, item.view, out)
    return len(picked)


def _bare(store: Any, form: str, out: NDArray[np.float32], picked: Sequence[Picked]) -> int:
    codec, shape, nbytes, expand = store.codec, store.spec.map_shape, store.spec.map_bytes, COMPRESSORS[form][1]
    for item in picked:
        codec.decode(expand(item.data, nbytes).reshape(shape), item.peak, out)
    return len(picked)


def _inflate(store: Any, library: Any, picked: Sequence[Picked]) -> int:
    for item in picked:
        library.decompressobj().decompress(item.data, store.spec.map_bytes + 1)
    return len(picked)


@contextlib.contextmanager
def _library(store: Any, form: str) -> Iterator[tuple[str, Any]]:
    """The backend's own library, by name, and its array of codes."""
    if form == "zarr":
        yield f"zarr-python {zarr.__version__}", zarr.open_group(store.path, mode="r")["heatmaps/codes"]
    else:
        with h5py.File(store.path, rdcc_nbytes=0) as file:  # random reads of a large store find nothing in its cache
            yield f"h5py {h5py.__version__}", file["heatmaps/codes"]


def _through_library(store: Any, codes: Any, out: NDArray[np.float32], picked: Sequence[Picked]) -> int:
    for item in picked:
        store.codec.decode(np.asarray(codes[item.instance, item.view]), item.peak, out)
    return len(picked)


def _save_files(store: Any, blocks: list[list[Picked]], folder: Path) -> None:
    for item in itertools.chain.from_iterable(blocks):
        torch.save(torch.from_numpy(store.heatmap(item.instance, item.view)), _file(folder, item))


def _load_files(folder: Path, picked: Sequence[Picked]) -> int:
    for item in picked:
        torch.load(_file(folder, item), weights_only=True)
    return len(picked)


def _file(folder: Path, item: Picked) -> Path:
    return folder / f"{item.instance}-{item.view}.pt"


if __name__ == "__main__":
    run_alone(run, __doc__)
