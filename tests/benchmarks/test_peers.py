"""The benchmark against other containers and libraries: equal records, and lines of what is installed."""

import importlib
import re
import sys

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import libraries
from benchmarks.peers.records import Records
from benchmarks.support.effort import Effort
from benchmarks.support.workspace import Workspace
from tests.benchmarks.test_benchmarks import check_lines

EFFORT = Effort(instances=8, rounds=1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    return Records.make(Workspace(folder, EFFORT, sample=folder / "none", shared=folder / "none"))


def installed(module):
    return pytest.param(module, marks=pytest.mark.skipif(not importable(module), reason=f"{module} is not installed"))


def importable(module):
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def assert_records(found, records, order, exact):
    for (frame, heatmaps), index in zip(found, order, strict=True):
        assert frame == records.exact.frame(index)
        assert heatmaps.dtype == np.float32
        np.testing.assert_allclose(heatmaps, exact.heatmap(index), rtol=2**-11, atol=1e-7)


@pytest.mark.parametrize("module", [*map(installed, peers.PEERS)])
def test_every_peer_reads_the_same_records(records, module):
    contender = peers.PEERS[module][1](records)
    in_order = contender.about["order"] == "sequential"
    order = [0, 1, 2] if in_order else [5, 0, 5, 1]
    exact = records.store(libraries.CODEC) if "our" in contender.about["format"] else records.exact
    assert_records(contender.read(order), records, order, exact)
    assert contender.nbytes > len(records.exact.frame(0))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("codec", ["root4", *peers.OTHER_CODECS])
def test_our_contenders_read_the_same_records(records, codec, batched):
    contender = libraries.ours(records, codec, batched=batched)
    assert_records(contender.read([3, 0, 3]), records, [3, 0, 3], records.store(codec))


def test_absent_peers_are_named_and_the_others_compared(records, tmp_path, monkeypatch, capsys):
    absent = {module: name for module, (name, _) in peers.PEERS.items() if module not in ("zarr", "h5py")}
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(peers, "READS", 4)
    monkeypatch.setattr(Records, "make", lambda workspace: records)
    lines = [line.to_json() for line in peers.run(Workspace(tmp_path, EFFORT))]
    check_lines(lines)
    names = [line["peer"].split()[0] for line in lines]
    assert names == ["h5py", "zarr-python", "our", "our"]
    assert {(line["bench"], line["metric"]) for line in lines} == {("peers", "read")}
    errors = capsys.readouterr().err.splitlines()
    for (module, name), error in zip(absent.items(), errors, strict=True):
        assert re.fullmatch(rf"{name} is left out: import of {module} halted.*; pip install {name}", error)
