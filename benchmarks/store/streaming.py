"""Reading a store at a URL over reading the local store: `python -m benchmarks.store.streaming`.

stream.cold   microseconds per random view over HTTP on loopback with an empty block cache, over the local store
stream.warm   the same with everything in the block cache

Times are wall time, because requests wait. The server is a separate process on this machine; a network adds latency to
`cold`.
"""

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cache
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.workspace import Workspace

INPUT_SIZE = (192, 256)
ROUNDS = 5
PEER = "the local store"


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield the lines of the Zarr layout."""
    path = workspace.store_path("sample", INPUT_SIZE)
    local = cache.open_store(path)
    folder, context = workspace.folder / "blocks", multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(path.parent, sender), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receiver.recv()}/{path.name}"
    seconds: dict[str, list[float]] = {"local": [], "cold": [], "warm": []}
    order = np.random.default_rng(0).permutation(len(local))
    for _ in range(ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        remote = cache.open_store(url, local=folder)
        for name, store in (("local", local), ("cold", remote), ("warm", remote)):
            seconds[name].append(_read(store, order))
    server.terminate()
    for name in ("cold", "warm"):
        value, peer = (float(np.median(seconds[key])) / len(order) * 1e6 for key in (name, "local"))
        extra = {"backend": "zarr", "store_bytes": local.nbytes}
        yield Line("stream", name, value, "us", ROUNDS * len(order), PEER, peer, extra)


def _read(store: cache.Store, order: NDArray[np.intp]) -> float:
    out = np.empty(store.spec.map_shape, np.float32)
    began = time.perf_counter()
    for index in order:
        store.heatmap(int(index), 0, out)
    return time.perf_counter() - began


def _serve(folder: Path, port: Connection) -> None:
    from tests.support.servers.range_server import RangeServer

    with RangeServer(folder).running() as server:
        port.send(server.port)
        time.sleep(3600)


if __name__ == "__main__":
    run_alone(run, __doc__)
