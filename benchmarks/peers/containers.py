"""Containers of training records that others use: MDS, litdata, webdataset and LMDB, at their usual settings.

Each stores the frame's bytes and the heatmaps as an array of float16, without compression, and reads single records in
this process.
"""

import functools
import importlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cache
from benchmarks.peers.records import Contender, Read, Record, Records, as_float32, folder_size


def mds(records: Records) -> Contender:
    """Shards of mosaicml-streaming, read at random."""
    streaming = importlib.import_module("streaming")
    folder, shape = records.folder / "mds", ",".join(map(str, records.exact.spec.map_shape))
    columns = {"frame": "bytes", "heatmaps": f"ndarray:float16:{shape}"}
    with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
        for index in range(len(records)):
            writer.write({"frame": records.exact.frame(index), "heatmaps": records.halves(index)})
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=1)
    return Contender(f"MDS (mosaicml-streaming {streaming.__version__})", _by_index(dataset), *_size(folder, records))


def litdata(records: Records) -> Contender:
    """Chunks of litdata, streamed in their order; reading at random over several chunks takes several times as long."""
    library = importlib.import_module("litdata")
    folder = records.folder / "litdata"
    library.optimize(
        functools.partial(_as_dict, str(records.exact.path)),
        list(range(len(records))),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )
    dataset = library.StreamingDataset(str(folder), shuffle=False)
    return Contender(
        f"litdata {library.__version__}", _in_order(dataset, "frame", "heatmaps"), *_streamed(folder, records)
    )


def webdataset(records: Records) -> Contender:
    """A tar file of webdataset, read from its beginning to its end again and again: it has no random access."""
    library = importlib.import_module("webdataset")
    path = records.folder / "records.tar"
    with library.TarWriter(str(path)) as writer:
        for index in range(len(records)):
            frame, heatmaps = records.exact.frame(index), records.halves(index)
            writer.write({"__key__": f"{index:09d}", "jpg": frame, "npy": heatmaps})
    dataset = library.WebDataset(str(path), shardshuffle=False).decode()
    return Contender(f"webdataset {library.__version__}", _in_order(dataset, "jpg", "npy"), *_streamed(path, records))


def lmdb(records: Records) -> Contender:
    """Values of LMDB, read at random: the heatmaps, then the frame."""
    library = importlib.import_module("lmdb")
    path, shape = records.folder / "records.lmdb", records.exact.spec.map_shape
    size = 2 * int(np.prod(shape))
    with library.open(str(path), map_size=2 * (size + 1_000_000) * len(records), subdir=False) as environment:
        with environment.begin(write=True) as transaction:
            for index in range(len(records)):
                value = records.halves(index).tobytes() + records.exact.frame(index)
                transaction.put(index.to_bytes(8, "big"), value)
        written = environment.info()["last_pgno"] * environment.stat()["psize"]
    environment = library.open(str(path), readonly=True, lock=False, readahead=False, subdir=False)

    def read(indices: Sequence[int]) -> list[Record]:
        with environment.begin(buffers=True) as transaction:
            values = [transaction.get(int(index).to_bytes(8, "big")) for index in indices]
            return [
                (bytes(value[size:]), as_float32(np.frombuffer(value, np.float16, size // 2).reshape(shape)))
                for value in values
            ]

    return Contender(f"LMDB (lmdb {library.__version__})", read, written / len(records), _size(path, records)[1])


def _by_index(dataset: Any) -> Read:
    def read(indices: Sequence[int]) -> list[Record]:
        samples = [dataset[int(index)] for index in indices]
        return [(sample["frame"], as_float32(np.asarray(sample["heatmaps"]))) for sample in samples]

    return read


def _in_order(dataset: Any, frame: str, heatmaps: str) -> Read:
    """The samples of a dataset again and again, whatever positions are asked for."""
    endless = itertools.chain.from_iterable(itertools.repeat(dataset))

    def read(indices: Sequence[int]) -> list[Record]:
        samples = itertools.islice(endless, len(indices))
        return [(sample[frame], as_float32(np.asarray(sample[heatmaps]))) for sample in samples]

    return read


@functools.cache
def _opened(path: str) -> cache.Store:
    return cache.open_store(path)


def _as_dict(path: str, index: int) -> dict[str, Any]:
    """A record for litdata's own process."""
    store = _opened(path)
    return {"frame": store.frame(index), "heatmaps": store.heatmap(index).astype(np.float16)}


def _streamed(path: Path, records: Records) -> tuple[float, dict[str, Any]]:
    nbytes, about = _size(path, records)
    return nbytes, {**about, "order": "sequential"}


def _size(path: Path, records: Records) -> tuple[float, dict[str, Any]]:
    return folder_size(path) / len(records), {"format": "float16", "order": "random"}
