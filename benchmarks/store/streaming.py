"""What does a store at a URL cost? `python -m benchmarks.store.streaming`.

stream.cold   microseconds of one random view over HTTP on loopback, nothing fetched yet, over the local store
stream.warm   the same when everything has been fetched: what the folder of blocks costs

Wall time: a request waits. The server is a process of its own on this machine; a network adds its own time to `cold`.
"""

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import cache
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.workspace import Workspace

INPUT_SIZE = (192, 256)
ROUNDS = 5
PEER = "the local store"


def run(workspace: Workspace) -> Iterator[Line]:
    """Lines of the Zarr form."""
    local = workspace.store("sample", INPUT_SIZE)
    folder, context = workspace.folder / "blocks", multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    server = context.Process(target=_serve, args=(local.path.parent, sender), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receiver.recv()}/{local.path.name}"
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


def _read(store: Any, order: np.ndarray) -> float:
    out = np.empty(store.spec.map_shape, np.float32)
    began = time.perf_counter()
    for index in order:
        store.heatmap(int(index), 0, out)
    return time.perf_counter() - began


def _serve(folder: Any, port: Any) -> None:
    from tests.support.range_server import RangeServer

    with RangeServer(folder).running() as server:
        port.send(server.port)
        time.sleep(3600)


if __name__ == "__main__":
    run_alone(run, __doc__)
