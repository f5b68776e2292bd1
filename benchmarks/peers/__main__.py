"""Reading training records from a store and from what others use: `python -m benchmarks.peers`.

peers.read   microseconds of CPU time per record of `store.heatmaps` and `store.frame`, 32 records at a time, over the
             peer's; `paired` is the median of the ratios within each round; `single` is our time for one record at a
             time; `bytes` and `peer_bytes` are the bytes per record on disk

A record is the JPEG of a person's frame and the teacher's heatmaps, float32 when they are read. All contenders read
the same records in this process, in turns, from files in the page cache. MDS, litdata, webdataset and LMDB store
float16 at their usual settings; tensorstore, zarr-python and h5py read our own stores. The last peers are our stores in
other codecs.

Peers that are not installed are named and left out. This benchmark is not part of `make bench`.
"""

import importlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.peers import containers, libraries
from benchmarks.peers.records import Contender, Records
from benchmarks.support.alone import run_alone
from benchmarks.support.report import Line
from benchmarks.support.timing import Block, interleave, timed
from benchmarks.support.workspace import Workspace

PEERS: dict[str, tuple[str, Callable[[Records], Contender]]] = {
    "streaming": ("mosaicml-streaming", containers.mds),
    "litdata": ("litdata", containers.litdata),
    "webdataset": ("webdataset", containers.webdataset),
    "lmdb": ("lmdb", containers.lmdb),
    "h5py": ("h5py", libraries.h5py_library),
    "zarr": ("zarr", libraries.zarr_python),
    "tensorstore": ("tensorstore", libraries.tensorstore),
}
"""Module -> name of its distribution, and the contender that it gives."""
READS = 32
"""Records per turn, and per call of `store.heatmaps`."""
OTHER_CODECS = ("float16", "float16-cut")


def run(workspace: Workspace) -> Iterator[Line]:
    """Yield one line per peer that is installed."""
    records = Records.make(workspace)
    ours = libraries.ours(records, libraries.CODEC, batched=True)
    single = libraries.ours(records, libraries.CODEC, batched=False)
    peers = list(contenders(records))
    peers += [libraries.ours(records, codec, batched=True) for codec in OTHER_CODECS]
    order = itertools.cycle(np.random.default_rng(0).permuted(np.tile(np.arange(len(records)), (8, 1)), axis=1).ravel())
    blocks: dict[str, Block] = {"ours": _turn(ours, order), "single": _turn(single, order)}
    blocks |= {peer.name: _turn(peer, order) for peer in peers}
    timings = interleave(blocks, workspace.effort.rounds_times(9))
    value = timings.median("ours") * 1e6
    for peer in peers:
        extra = {
            **peer.about,
            "paired": timings.paired("ours", peer.name),
            "spread": timings.spread("ours", peer.name),
            "single": round(timings.median("single") * 1e6, 1),
            "bytes": round(ours.nbytes),
            "peer_bytes": round(peer.nbytes),
            "records": len(records),
        }
        theirs = timings.median(peer.name) * 1e6
        yield Line("peers", "read", value, "us", timings.items["ours"], peer.name, theirs, extra)


def contenders(records: Records) -> Iterator[Contender]:
    """Yield the peers that can be imported; say on stderr which are left out, why, and how to install them."""
    for module, (distribution, make) in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(f"{distribution} is left out: {error}; pip install {distribution}", file=sys.stderr)
        else:
            yield make(records)


def _turn(contender: Contender, order: Iterator[int]) -> Block:
    return timed(
        lambda: len(contender.read([int(index) for index in itertools.islice(order, READS)])), time.process_time
    )


if __name__ == "__main__":
    run_alone(run, __doc__)
