"""Libraries that read our own files, beside our reader: tensorstore and zarr-python for Zarr, h5py for HDF5.

They read codes and frames, and our codec decodes the codes. They check nothing but what their own format checks.
"""

import importlib
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import zarr

import cache
from benchmarks.peers.records import Contender, Record, Records

CODEC = "root4"
"""The codec of the stores: the default of `precompute`."""


def ours(records: Records, codec: str, *, batched: bool) -> Contender:
    """Our reader, one record at a time or several at once."""
    store = records.store(codec)

    def batch(indices: Sequence[int]) -> list[Record]:
        return list(zip(map(store.frame, indices), store.heatmaps(indices)[:, 0], strict=True))

    def single(indices: Sequence[int]) -> list[Record]:
        return [(store.frame(index), store.heatmap(index)) for index in indices]

    about = {"format": codec, "order": "random"}
    return Contender(f"our store, codec {codec}", batch if batched else single, store.nbytes / len(store), about)


def tensorstore(records: Records) -> Contender:
    """The Zarr store, read by tensorstore."""
    library, store = importlib.import_module("tensorstore"), records.store(CODEC)

    def opened(path: str) -> Any:
        kvstore = {"driver": "file", "path": f"{store.path / path}/"}
        return library.open({"driver": "zarr3", "kvstore": kvstore, "context": _ONE_THREAD}).result()

    codes, frames = opened("heatmaps/codes"), opened("frames/data")
    return _contender(
        f"tensorstore {importlib.metadata.version('tensorstore')}",
        store,
        lambda key: codes[key].read().result(),
        lambda key: frames[key].read().result(),
    )


def zarr_python(records: Records) -> Contender:
    """The Zarr store, read by zarr-python."""
    store = records.store(CODEC)
    group: Any = zarr.open_group(store.path, mode="r")
    codes, frames = group["heatmaps/codes"], group["frames/data"]
    return _contender(f"zarr-python {zarr.__version__}", store, codes.__getitem__, frames.__getitem__)


def h5py_library(records: Records) -> Contender:
    """The HDF5 store, read by h5py."""
    store = records.store(CODEC, "h5")
    file = h5py.File(store.path, rdcc_nbytes=0)  # no chunk cache: random reads of a large store would not hit it
    codes, frames = file["heatmaps/codes"], file["frames/data"]
    return _contender(f"h5py {h5py.__version__}", store, codes.__getitem__, frames.__getitem__)


_ONE_THREAD = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}


def _contender(name: str, store: cache.Store, codes: Any, frames: Any) -> Contender:
    """A contender whose codes and frames the library indexes; the columns are in memory, as they are for our reader."""
    peaks = store.column("heatmaps/peak")
    offsets, sizes = store.column("frames/offset").astype(np.int64), store.column("frames/nbytes").astype(np.int64)

    def read(indices: Sequence[int]) -> list[Record]:
        return [
            (
                np.asarray(frames(slice(offsets[index], offsets[index] + sizes[index]))).tobytes(),
                store.codec.decode(np.asarray(codes((index, 0))), peaks[index, 0]),
            )
            for index in map(int, indices)
        ]

    about = {"format": f"our {store.layout} store, {CODEC}", "order": "random"}
    return Contender(name, read, store.nbytes / len(store), about)
