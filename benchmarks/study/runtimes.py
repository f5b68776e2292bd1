"""Latency and keypoints of an exported student in the runtimes that people have, over onnxruntime.

    python -m benchmarks.study.runtimes student.onnx [student.int8.onnx ...] --store val.zarr
    python -m benchmarks.study.runtimes student.onnx --runtimes opencv openvino --write

runtimes.latency   CPU milliseconds per crop, one crop at a time on one thread, over onnxruntime with the first file.
                   `paired` is the median of the ratios within each round, `spread` has their quartiles.
                   `largest_px` and `median_px` are the distances of the keypoints (DARK) to those of onnxruntime with
                   the first file, in pixels of the crop; `moved` is the share of keypoints that move by more than half
                   a pixel

All runtimes take turns. CPU time is counted, as it is the latency of one thread on a quiet machine; for the browser,
that of all its processes. The runtimes opencv, openvino and web (onnxruntime-web, WebAssembly in headless Chromium) are
left out where they are not installed. The command prints JSON lines; --write also writes them to benchmarks/results/.
"""

import argparse
import base64
import contextlib
import datetime
import importlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import cache
from benchmarks.support.report import Line, write_results
from benchmarks.support.timing import Block, interleave
from kdcli.flags import Parser, positive
from kdlib.errors import KdlibError
from kdlib.heatmaps import decode_dark
from kdlib.images import normalise_images
from kdlib.students.loading import INPUT, OnnxStudent
from train.deploy.agreement import noise_crops, store_crops

TURN: Final = 10
"""Crops per turn."""
RESULTS: Final = Path(__file__).resolve().parents[1] / "results"

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Heatmaps (1, K, H, W) of the network's input for one crop."""


class MissingRuntimeError(Exception):
    """A runtime is not installed; the message says what is missing."""


class Contender:
    """One file in one runtime.

    Args:
        inputs: The network's inputs for each crop, (N, ...).
    """

    version: str

    def __init__(self, inputs: NDArray[Any]) -> None:
        self.inputs = inputs

    def heatmaps(self) -> NDArray[np.float32]:
        """Heatmaps (N, K, H, W) of all crops."""
        raise NotImplementedError

    def turn(self) -> tuple[int, float]:
        """Run the network on `TURN` crops; returns their number and the CPU seconds."""
        raise NotImplementedError


class InProcess(Contender):
    """A runtime with a Python interface."""

    def __init__(self, inputs: NDArray[Any], version: str, run: Run) -> None:
        super().__init__(inputs)
        self.version, self.run = version, run

    def heatmaps(self) -> NDArray[np.float32]:
        """Heatmaps (N, K, H, W) of all crops."""
        return np.concatenate([self.run(self.inputs[i : i + 1]).copy() for i in range(len(self.inputs))])

    def turn(self) -> tuple[int, float]:
        """Run the network on `TURN` crops; returns their number and the CPU seconds of this process."""
        started = time.process_time()
        for i in range(TURN):
            k = i % len(self.inputs)
            self.run(self.inputs[k : k + 1])
        return TURN, time.process_time() - started


def onnxruntime(path: Path, inputs: NDArray[Any], stack: contextlib.ExitStack) -> Contender:
    """The file in onnxruntime, with the settings of `kdlib.students.loading.OnnxStudent`."""
    session = OnnxStudent(path).session
    version = importlib.import_module("onnxruntime").__version__
    return InProcess(inputs, version, lambda crop: session.run(None, {INPUT: crop})[0])


def opencv(path: Path, inputs: NDArray[Any], stack: contextlib.ExitStack) -> Contender:
    """The file in OpenCV's DNN module."""
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(crop: NDArray[Any]) -> NDArray[np.float32]:
        net.setInput(crop, INPUT)
        return np.asarray(net.forward(), np.float32)

    return InProcess(inputs, cv2.__version__, run)


def openvino(path: Path, inputs: NDArray[Any], stack: contextlib.ExitStack) -> Contender:
    """The file in OpenVINO on the CPU. Its default precision is float32 here, but bfloat16 on CPUs that have it."""
    try:
        module = importlib.import_module("openvino")
    except ImportError as error:
        raise MissingRuntimeError("openvino is not installed: pip install openvino") from error
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = module.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    version = module.__version__.split("-")[0]
    return InProcess(inputs, version, lambda crop: request.infer({INPUT: crop}, share_inputs=True)[0])


# --- onnxruntime-web --------------------------------------------------------------------------------------------------

START: Final = """
(async () => {
    const ort = await import('/runtime/ort.wasm.min.mjs');
    const { loadStudent } = await import('/student.mjs');
    ort.env.wasm.numThreads = 1;
    const { session } = await loadStudent();
    window.run = crop => session.run({ image: new ort.Tensor(TYPE, crop, SHAPE) });
    const bytes = Uint8Array.from(atob(CROPS), c => c.charCodeAt(0));
    const all = TYPE === 'uint8' ? bytes : new Float32Array(bytes.buffer);
    const size = SHAPE.reduce((product, side) => product * side);
    window.crops = Array.from({ length: all.length / size }, (_, i) => all.slice(i * size, (i + 1) * size));
})()
"""
HEATMAPS: Final = """
(async () => {
    const texts = [];
    for (const crop of crops) {
        const { heatmaps } = await run(crop);
        const bytes = new Uint8Array(heatmaps.data.buffer, heatmaps.data.byteOffset, heatmaps.data.byteLength);
        let text = '';
        for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
        texts.push([heatmaps.dims, btoa(text)]);
    }
    return texts;
})()
"""
RUN: Final = """
(async () => {
    for (let i = 0; i < COUNT; i++) (await run(crops[i % crops.length])).heatmaps.dispose();
})()
"""


def cpu_seconds(root: int) -> float:
    """CPU seconds of a running process and of all its descendants so far, from Linux's /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    family, size = {root}, 0
    while size < len(family):
        size = len(family)
        family |= {process for process, parent in parents.items() if parent in family}
    nanoseconds = 0
    for process in family:
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                nanoseconds += int(thread.read_text(encoding="utf-8").split()[0])
    return nanoseconds / 1e9


class InBrowser(Contender):
    """onnxruntime-web in a page of its own headless Chromium."""

    def __init__(self, inputs: NDArray[Any], page: Any, version: str) -> None:
        super().__init__(inputs)
        self.page, self.version = page, version
        values = {
            "TYPE": inputs.dtype.name,
            "SHAPE": [1, *inputs.shape[1:]],
            "CROPS": base64.b64encode(np.ascontiguousarray(inputs).tobytes()).decode(),
        }
        script = START
        for name, value in values.items():
            script = script.replace(name, json.dumps(value))
        page.evaluate(script)

    def heatmaps(self) -> NDArray[np.float32]:
        """Heatmaps (N, K, H, W) of all crops."""
        found = self.page.evaluate(HEATMAPS)
        return np.concatenate([np.frombuffer(base64.b64decode(text), np.float32).reshape(dims) for dims, text in found])

    def turn(self) -> tuple[int, float]:
        """Run the network on `TURN` crops; returns their number and the CPU seconds of the browser."""
        started = cpu_seconds(self.page.process.pid)
        self.page.evaluate(RUN.replace("COUNT", str(TURN)))
        return TURN, cpu_seconds(self.page.process.pid) - started


def web(path: Path, inputs: NDArray[Any], stack: contextlib.ExitStack) -> Contender:
    """The file in onnxruntime-web: WebAssembly in headless Chromium."""
    from tests.support.headless_browser import NAMES, browser
    from train.deploy.web.runtime import default_folder, is_complete, pinned_version
    from train.deploy.web.server import PageServer, resources

    if not any(map(shutil.which, NAMES)):
        raise MissingRuntimeError("there is no Chromium: apt-get install chromium")
    if not is_complete(default_folder()):
        raise MissingRuntimeError("onnxruntime-web is not installed: `make web` installs it")
    server = stack.enter_context(PageServer(resources(path, default_folder(), []), "127.0.0.1", 0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    page = stack.enter_context(browser(stack.enter_context(tempfile.TemporaryDirectory())))
    page.open(f"{server.url}style.css", 800, 600)  # a page of the server that runs nothing itself
    return InBrowser(inputs, page, pinned_version())


RUNTIMES: Final[dict[str, Callable[[Path, NDArray[Any], contextlib.ExitStack], Contender]]] = {
    "onnxruntime": onnxruntime,
    "opencv": opencv,
    "openvino": openvino,
    "web": web,
}


# --- measurement ------------------------------------------------------------------------------------------------------


def measure(files: list[Path], crops: NDArray[np.uint8], names: list[str], rounds: int) -> Iterator[Line]:
    """Yield one line per file and runtime.

    Args:
        files: Exported students; the first one in onnxruntime is the peer of all.
        crops: (N, H, W, 3) uint8 RGB.
        names: Keys of `RUNTIMES`; `onnxruntime` always takes part.
        rounds: Turns of every contender.

    Raises:
        KdlibError: If a file is not an exported student.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        torch.set_num_threads(1)  # `OnnxStudent` gives onnxruntime as many threads as torch has
        cv2.setNumThreads(1)
        contenders: dict[str, Contender] = {}
        facts: dict[str, tuple[str, Path, str]] = {}
        for path in files:
            metadata = OnnxStudent(path).metadata
            inputs = _inputs(crops, is_normalised=metadata["input"] == "normalised")
            for name in dict.fromkeys(["onnxruntime", *names]):
                key = f"{name} {path}"
                try:
                    contenders[key] = RUNTIMES[name](path, inputs, stack)
                    facts[key] = name, path, metadata.get("precision", "fp32")
                except (MissingRuntimeError, cv2.error) as error:
                    print(f"{name} is left out for {path.name}: {str(error).splitlines()[0]}", file=sys.stderr)
        blocks: dict[str, Block] = {key: contender.turn for key, contender in contenders.items()}
        reference = f"onnxruntime {files[0]}"
        wanted = contenders[reference].heatmaps()
        differences = {key: _distances(contender.heatmaps(), wanted, crops) for key, contender in contenders.items()}
        timings = interleave(blocks, rounds)
    for key, contender in contenders.items():
        name, path, precision = facts[key]
        yield Line(
            bench="runtimes",
            metric="latency",
            value=1000 * timings.median(key),
            unit="ms",
            n=timings.items[key],
            peer=f"onnxruntime {contenders[reference].version} {facts[reference][2]}",
            peer_value=1000 * timings.median(reference),
            extra={
                "paired": timings.paired(key, reference),
                "spread": timings.spread(key, reference),
                "runtime": name,
                "version": contender.version,
                "precision": precision,
                "input_size": "x".join(map(str, crops.shape[1:3])),
                "threads": 1,
                "file_bytes": path.stat().st_size,
                "crops": len(crops),
                "largest_px": round(float(differences[key].max()), 4),
                "median_px": round(float(np.median(differences[key])), 4),
                "moved": round(float((differences[key] > 0.5).mean()), 4),
            },
        )


def _inputs(crops: NDArray[np.uint8], *, is_normalised: bool) -> NDArray[Any]:
    return np.ascontiguousarray(normalise_images(torch.from_numpy(crops)).numpy()) if is_normalised else crops


def _distances(found: NDArray[np.float32], wanted: NDArray[np.float32], crops: NDArray[np.uint8]) -> NDArray[Any]:
    """Distances (N, K) between decoded keypoints in pixels of the crop."""
    stride = crops.shape[2] / wanted.shape[-1]
    return stride * np.linalg.norm(decode_dark(found)[0] - decode_dark(wanted)[0], axis=-1)


def main(argv: list[str] | None = None) -> int:
    """Print the lines; return 1 if a file is not an exported student."""
    parser = Parser(
        prog="python -m benchmarks.study.runtimes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="STUDENT", help="exported students; the first is the peer"
    )
    parser.add_argument("--store", type=Path, help="store to take crops from (default: noise)")
    parser.add_argument("--crops", type=positive, default=64, metavar="N", help="number of crops (default: 64)")
    parser.add_argument("--rounds", type=positive, default=30, metavar="N", help="turns of every runtime (default: 30)")
    parser.add_argument(
        "--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES), help="runtimes (default: all)"
    )
    parser.add_argument("--write", action="store_true", help="also write a file in benchmarks/results/")
    arguments = parser.parse_args(argv)
    lines = []
    try:
        size = OnnxStudent(arguments.files[0]).input_size
        if arguments.store:
            crops = store_crops(cache.open_store(arguments.store), size, arguments.crops)
        else:
            crops = noise_crops(size, arguments.crops)
        for line in measure(arguments.files, crops, arguments.runtimes, arguments.rounds):
            lines.append(line.to_json())
            print(json.dumps(lines[-1]), flush=True)
    except (KdlibError, cache.StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.write:
        print(f"written to {write_results(lines, RESULTS, datetime.date.today())}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
