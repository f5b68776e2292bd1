"""Examining a damaged or forged store: it must give a `StoreError`, the stored data, or a report of `verify`.

`Examiner` examines stores in a separate process, with limited memory and time, so that a crash, a hang or an excessive
allocation is a finding and does not end the test.
"""

import multiprocessing
import resource
import signal
import warnings
from pathlib import Path

import numpy as np

import cache
from cache.commands.info import describe, format_facts
from cache.commands.verify import verify_store

MEMORY = 768 << 20  # bytes that examining a small store may allocate
SECONDS = 60


def contents(path):
    """Every part of a store that can be read, by name: an array, or the `StoreError` that was raised."""
    try:
        store = cache.open_store(path)
    except cache.StoreError as error:
        return {"store": error}
    len(store), repr(store), dict(store.manifest)
    reads = {path: lambda path=path: store.column(path) for path in store.columns}
    for group in ("instances", "ground_truth"):
        table = getattr(store, group)
        reads |= {f"{group}: {name}": lambda table=table, name=name: np.asarray(table[name]) for name in table}
    for name in ("written", "frame_affine", "view_affine", "view_flip"):
        reads[name] = lambda name=name: getattr(store, name)
    for index in range(min(len(store), 40)):
        reads[f"size {index}"] = lambda index=index: np.int64(store.stored_bytes(index) >= 0)
        reads[f"frame {index}"] = lambda index=index: np.frombuffer(store.frame(index), np.uint8)
        reads[f"maps {index}"] = lambda index=index: store.heatmaps([index])
        reads[f"interleaved {index}"] = lambda index=index: _interleaved(store, index)
        reads[f"codes {index}"] = lambda index=index: store.codes(index, store.spec.views - 1)[0]
    return {name: _outcome(read) for name, read in reads.items()}


def _interleaved(store, index):
    """(V, H, W, K), read as by the trainer: all views at once if the layout allows it."""
    views, (joints, height, width) = range(store.spec.views), store.spec.map_shape
    found = np.zeros((len(views), height, width, joints), np.float32)
    for view, stored in enumerate(store.stored_many([(index, view) for view in views])):
        store.decode_interleaved(index, view, stored, np.arange(joints), found[view])
    return found


def _outcome(read):
    try:
        return np.asarray(read())
    except cache.StoreError as error:
        return error


def examine(path, expected, *, damage=True):
    """Examine a store that was made by changing one with the contents `expected`.

    Args:
        path: The store.
        expected: `contents` of the unchanged store.
        damage: Whether the checksums were left as they were. A forged store may hold any values, in well-formed arrays.

    Returns:
        "refused" if something cannot be read, "changed" if something reads differently or `verify` reports a problem,
        otherwise "same".

    Raises:
        AssertionError: A finding: changed data are read without an error, or `verify` does not report a change.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # files are closed when their store is deleted
        found = contents(path)
        problems = [problem.message for problem in verify_store(path)]
        _show(path)
    refused = {name: str(value) for name, value in found.items() if isinstance(value, cache.StoreError)}
    read = {name: value for name, value in found.items() if name not in refused}
    for name, value in read.items():
        assert value.dtype.kind in "biufU", f"{name} is {value.dtype}"
        assert damage or value.dtype.kind != "f" or np.isfinite(value).all(), f"{name} holds values that are not finite"
    changed = [name for name, value in read.items() if name in expected and not _same(value, expected[name])]
    newly_refused = [name for name in refused if not isinstance(expected.get(name), cache.StoreError)]
    if damage:
        _assert_found(changed, newly_refused, problems)
    return "refused" if newly_refused else "changed" if changed or problems else "same"


def _assert_found(changed, refused, problems):
    """Check that changed records cannot be read, and that `verify` reports every other change."""
    records = [name for name in changed if name.startswith(("maps", "codes", "frame "))]
    assert not records, f"{records} were read, but are not what was stored"
    assert problems or not (changed or refused), f"{changed or refused} differ, but verify finds nothing"


def _show(path):
    """Print the facts about a store, as `info` does on a UTF-8 terminal."""
    try:
        facts = describe(path)
    except cache.StoreError as error:
        str(error).encode(errors="strict")
        return
    format_facts(facts).encode()


def _same(value, expected):
    if isinstance(expected, cache.StoreError) or value.dtype != expected.dtype or value.shape != expected.shape:
        return False
    return value.tobytes() == expected.tobytes()


class Examiner:
    """A process that examines one store after another; if it dies or hangs, that is a finding, and it is replaced."""

    def __init__(self, pristine):
        self._pristine = pristine
        self._start()

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, str(self._pristine)), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()  # ready

    def examine(self, path, *, damage=True):
        """The result of `examine`; raises `AssertionError` for a finding."""
        try:
            self._pipe.send((str(path), damage))
            if not self._pipe.poll(SECONDS):
                self.close()
                self._start()
                raise AssertionError(f"no answer within {SECONDS} s")
            verdict, problem = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._start()
            raise AssertionError(f"the process died: exit code {code}") from None
        assert verdict, problem
        return verdict

    def close(self):
        """End the process."""
        self._process.kill()
        self._process.join()


def _serve(pipe, pristine):
    """Examine the stores whose paths come through the pipe, with limited memory."""
    expected = {Path(path).suffix: contents(path) for path in Path(pristine).iterdir()}
    for path in Path(pristine).iterdir():
        examine(path, expected[path.suffix])  # imports and compiles everything before memory is limited
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send("ready")
    while True:
        path, damage = pipe.recv()
        pipe.send(_verdict(Path(path), expected, damage))


def _verdict(path, expected, damage):
    import traceback

    try:
        return examine(path, expected[path.suffix], damage=damage), ""
    except BaseException:
        return None, traceback.format_exc()
