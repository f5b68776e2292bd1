"""Ten minutes on a GPU: does nothing wait, are the numbers right, how fast is each part: `python -m benchmarks.gpu`.

The steps need no network and no data besides the embedded sample. They run in the order of their worth, each in a
process of its own with a time limit, and print JSON lines as they measure. If a step fails or exceeds its limit, the
lines that it has printed stay, a line with its error follows, its messages go to stderr, and the next step begins. The
limits add up to ten minutes.

sync        operators that make the host wait in a training step and in a batch of the teacher; 0 is right
parity      heatmaps of the sample's teacher in fp32, bf16 and fp16 against fp32 on the CPU, and the check of a store
bare        HRNet-W32 at 256x192 alone: instances (two passes, for the flip test) per second over batch sizes, eager and
            as a CUDA graph, with the peak of the memory
precompute  the whole run over repeated images with 1, 2 and 4 processes on the GPU, over the fastest bare network
trainer     instances per second of training steps from a store over those of batches that are in memory, over batch
            sizes and threads
losses      50 steps in fp32 on the GPU against the CPU, and a run that is killed and resumed against one that is not
memory      a batch that does not fit ends in one line
nvjpeg      decoding on the GPU over decoding on the CPU, and the difference of the pixels
compile     a line of `bare` with the compiled network at one batch size; last, because compiling takes longest

On a GPU, the lines are also written to benchmarks/results. Without a GPU the same steps run on the CPU with tiny sizes,
which only checks that they run. Nothing here has been run on a GPU yet.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.store.codec import SAMPLE_WEIGHTS
from benchmarks.support.batches import MemoryBatches, StoreBatches
from benchmarks.support.effort import QUICK, Effort
from benchmarks.support.report import Line, write_results
from benchmarks.support.timing import device_seconds
from benchmarks.support.turn import Turn
from benchmarks.support.workspace import Workspace
from cache import Store
from kdcli.flags import Parser
from kdlib.heatmaps import peaks
from kdlib.machine.device import choose_device
from precompute.run.check import CONFIDENT
from precompute.teacher.architecture import TorchNetwork
from precompute.teacher.hrnet import HRNET, build_hrnet
from precompute.teacher.loading import load_teacher
from precompute.teacher.passes import record
from train.recipe import Recipe
from train.run.loop import Trainer
from train.run.settings import Run

ROOT = Path(__file__).resolve().parents[1]


class Setting(NamedTuple):
    """The device and the sizes of the steps."""

    device: torch.device
    teacher: str
    input_size: tuple[int, int]
    """Width and height of the teacher's crops."""
    batch_sizes: tuple[int, ...]
    instances: int
    """Instances of the precompute runs."""
    trained: tuple[int, ...]
    """Batch sizes of the student; at most the instances of a store of the workspace."""
    processes: tuple[int, ...]
    steps: int
    """Training steps per turn."""
    threads: tuple[int, ...]
    workspace: Workspace


def choose_setting(folder: Path, device: torch.device, *, quick: bool) -> Setting:
    """Return the sizes for a GPU, or tiny ones."""
    if quick or device.type == "cpu":
        return Setting(
            device,
            "hrnet_w16_sample",
            (96, 128),
            (1, 2),
            12,
            (4,),
            (1, 2),
            2,
            (1,),
            Workspace(folder, QUICK, folder / "none"),
        )
    workspace = Workspace(folder, Effort(), folder / "none")
    return Setting(
        device,
        "hrnet_w32",
        (192, 256),
        (16, 64, 128, 256, 512),
        6_000,
        (16, 64, 256),
        (1, 2, 4),
        20,
        (4, 8, 16),
        workspace,
    )


# --- waiting and numbers ----------------------------------------------------------------------------------------------


def sync(setting: Setting) -> Iterator[Line]:
    """Count the warnings of torch's sync debug mode in a training step and in a batch of the teacher."""
    store, on_gpu = setting.workspace.store("sample", (96, 128)), setting.device.type == "cuda"
    crops = torch.zeros((4, 1, 128, 96, 3), dtype=torch.uint8, pin_memory=on_gpu).numpy()
    trainer = _trainer(setting, store, batch_size=4)
    with contextlib.closing(StoreBatches(store, "average", 4, setting.device)) as batches:
        batch = next(batches)
        batches.drain()
    network = _sample_network(setting.device, "fp32")
    work = {
        "step": lambda: trainer.train_step(batch),
        "teacher": lambda: network.launch(crops, flip_test=True) if on_gpu else network(crops[:, 0]),
    }
    for name, run in work.items():
        run()
        yield Line("gpu", f"sync.{name}", _synchronisations(run, setting.device), "synchronisations", 1)


def _synchronisations(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        run()
        return 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return float(sum("synchroniz" in str(warning.message) for warning in caught))


def parity(setting: Setting) -> Iterator[Line]:
    """Compare heatmaps on the device with those on the CPU, and check a store that was written on the device."""
    generator = np.random.default_rng(0)
    data = _repeated(setting, 24)
    teacher = load_teacher("hrnet_w16_sample", SAMPLE_WEIGHTS, input_size=(96, 128), device="cpu", precision="fp32")
    coarse = generator.integers(0, 256, (16, 1, 16, 12, 3), dtype=np.uint8)
    crops = coarse.repeat(8, axis=2).repeat(8, axis=3)
    expected = teacher.launch(crops, flip_test=True)()
    confident = peaks(expected)[1] > CONFIDENT
    for precision in ("fp32", "bf16", "fp16"):
        found = _sample_network(setting.device, precision).compute(torch.from_numpy(crops), flip_test=True)
        maps = found.cpu().numpy().reshape(expected.shape)
        moved = (np.abs(peaks(maps)[0] - peaks(expected)[0]).max(axis=-1) > 1) & confident
        extra = {"moved": int(moved.sum()), "confident": int(confident.sum())}
        yield Line(
            "gpu", f"parity.{precision}", float(np.abs(maps - expected).max()), "heatmap", maps.size, extra=extra
        )
    runs = ((), ("--check", "12"))
    checked = [_run(_precompute(data, setting, "hrnet_w16_sample", SAMPLE_WEIGHTS, (96, 128), *more)) for more in runs]
    passed = all(done.returncode == 0 for done in checked)
    why = {} if passed else {"line": next(_last_line(done) for done in checked if done.returncode)}
    yield Line("gpu", "parity.check", float(passed), "passed", 12, extra=why)


# --- the teacher ------------------------------------------------------------------------------------------------------


def bare(setting: Setting) -> Iterator[Line]:
    """Measure the bare network over batch sizes, eager and as a CUDA graph."""
    for mode in ("eager", "graph") if setting.device.type == "cuda" else ("eager",):
        for size in setting.batch_sizes:
            try:
                yield _bare_line(setting, mode, size)
            except torch.OutOfMemoryError:  # larger batches do not fit either
                break


def compiled(setting: Setting) -> Iterator[Line]:
    """Measure the compiled network at one batch size; nothing to measure on a CPU."""
    if setting.device.type == "cuda":
        yield _bare_line(setting, "compile", setting.batch_sizes[1])


def _bare_line(setting: Setting, mode: str, batch_size: int) -> Line:
    rate, peak = _bare_rate(setting, mode, batch_size)
    extra = {"mode": mode, "batch_size": batch_size, "teacher": setting.teacher, "peak_bytes": peak}
    return Line("gpu", "bare", rate, "instances/s", batch_size, extra=extra)


def _bare_rate(setting: Setting, mode: str, batch_size: int) -> tuple[float, int]:
    """Instances per second with two passes each, and the peak of the device's memory in bytes."""
    on_gpu = setting.device.type == "cuda"
    network = _network(setting)
    images = torch.rand(2 * batch_size, 3, *setting.input_size[::-1], device=setting.device)
    images = images.to(memory_format=torch.channels_last)
    run: Callable[[], object] = lambda: network.run(images)  # noqa: E731 - replaced below
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if mode == "compile":
        network.compile()
    run()
    if mode == "graph":
        run, _ = record(lambda: network.run(images))
    seconds = _seconds_of(run, on_gpu)
    return batch_size / seconds, torch.cuda.max_memory_allocated() if on_gpu else 0


def _seconds_of(run: Callable[[], object], on_gpu: bool) -> float:
    """The median seconds of a few calls on the device."""
    return float(np.median([device_seconds(run, on_gpu) for _ in range(7 if on_gpu else 2)]))


def precompute(setting: Setting) -> Iterator[Line]:
    """Measure whole runs with several processes on one GPU."""
    data, weights = _repeated(setting, setting.instances), _scaled_weights(setting)
    rates = {size: _bare_rate(setting, "eager", size)[0] for size in setting.batch_sizes[:-1]}
    size = max(rates, key=lambda batch_size: rates[batch_size])
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()  # the processes of the runs need the memory
    for processes in setting.processes:
        command = _precompute(data, setting, setting.teacher, weights, setting.input_size, "--batch-size", str(size))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        started = time.perf_counter()
        done = _run(command if processes == 1 else [command[0], *launcher, *command[1:]])
        elapsed = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(_last_line(done))
        # A run of more than a few seconds states its rate without the start of the process.
        stated = re.search(r"teacher: \d+ instances in .*\(([\d.,]+)/s\)", done.stderr)
        rate = float(stated[1].replace(",", "")) if stated else setting.instances / elapsed
        extra = {"processes": processes, "teacher": setting.teacher, "batch_size": size, "seconds": round(elapsed, 1)}
        yield Line("gpu", "precompute", rate, "instances/s", setting.instances, "bare network", rates[size], extra)


def _scaled_weights(setting: Setting) -> Path:
    """Save random weights whose heatmaps are of the size of real ones, so that they have something to encode."""
    model = build_hrnet(setting.teacher).eval()
    with torch.inference_mode():
        model.final_layer.weight.mul_(0.1 / model(torch.randn(1, 3, *setting.input_size[::-1])).std())
    path = setting.workspace.folder / f"{setting.teacher}.pth"
    torch.save(model.state_dict(), path)
    return path


# --- the student ------------------------------------------------------------------------------------------------------


def trainer(setting: Setting) -> Iterator[Line]:
    """Measure training steps from a store against batches in memory."""
    store = setting.workspace.store("sample", setting.input_size)
    for size in setting.trained:
        trained = _trainer(setting, store, batch_size=size)
        for threads in setting.threads:
            with contextlib.closing(StoreBatches(store, "average", size, setting.device, threads)) as batches:
                memory = MemoryBatches([next(batches) for _ in range(2)])
                batches.drain()
                turns = {
                    name: Turn(source, setting.steps, setting.device, trained.train_step)
                    for name, source in (("memory", memory), ("store", batches))
                }
                seconds = {name: _seconds_per_item(turn) for name, turn in turns.items()}
            rates = {name: 1 / value for name, value in seconds.items()}
            extra = {"batch_size": size, "threads": threads}
            n = setting.steps * size
            yield Line("gpu", "trainer", rates["store"], "instances/s", n, "in memory", rates["memory"], extra)


def _seconds_per_item(turn: Turn) -> float:
    turn()
    started = time.perf_counter()
    items = turn()
    return (time.perf_counter() - started) / items


def losses(setting: Setting) -> Iterator[Line]:
    """Compare the losses of the same steps on the device and on the CPU, and a killed run with one that is not."""
    store, count = setting.workspace.store("sample", (96, 128)), 50 if setting.device.type == "cuda" else 4
    devices = (torch.device("cpu"), setting.device)
    on_cpu, on_device = (_losses(setting._replace(device=device), store, count) for device in devices)
    difference = np.abs(on_device / on_cpu - 1)
    extra = {"after_10": float(difference[:10].max())}
    yield Line("gpu", "losses.device", float(difference.max()), "relative", count, extra=extra)
    path = setting.workspace.store_path("sample", (96, 128))
    whole, killed = (setting.workspace.folder / name for name in ("whole", "killed"))
    command = [sys.executable, "-m", "train", "distill", "--store", str(path), "--val-store", str(path)]
    command += ["--pretrained", "none", "--precision", "fp32", "--device", str(setting.device)]
    command += ["--batch-size", "4", "--epochs", "2"]
    done = _run([*command, "--out", str(whole)])
    _kill_after_checkpoint([*command, "--out", str(killed), "--checkpoint-every", "3"], killed / "last.pt")
    resumed = _run([*command, "--out", str(killed), "--resume"])
    if done.returncode or resumed.returncode:
        raise RuntimeError(_last_line(done) if done.returncode else _last_line(resumed))
    lines = [(run / "history.jsonl").read_text(encoding="utf-8").splitlines() for run in (whole, killed)]
    last = [json.loads(of_run[-1])["loss"] for of_run in lines]
    yield Line("gpu", "losses.resumed", abs(last[1] / last[0] - 1), "relative", 2)


def _losses(setting: Setting, store: Store, count: int) -> NDArray[np.float64]:
    trained = _trainer(setting, store, batch_size=4, precision="fp32", epochs=count)
    values: list[float] = []
    while len(values) < count:
        for batch in trained.loader.epoch(trained.progress.epoch):
            values.append(trained.train_step(batch).read()["loss"])
            trained.progress.step += 1
            if len(values) == count:
                break
        trained.progress.epoch += 1
    return np.array(values)


def _kill_after_checkpoint(command: list[str], checkpoint: Path) -> None:
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


# --- memory and decoding ----------------------------------------------------------------------------------------------


LEFT_FREE = 3 << 29
"""Bytes of the GPU that the step `memory` leaves to the run: enough to start, too few for a batch of HRNet-W48."""


def memory(setting: Setting) -> Iterator[Line]:
    """Run the teacher where other work has taken the memory of the GPU; nothing to measure on a CPU."""
    if setting.device.type == "cpu":
        return
    weights = setting.workspace.folder / "hrnet_w48.pth"
    torch.save(build_hrnet("hrnet_w48").state_dict(), weights)
    command = _precompute(_repeated(setting, 64), setting, "hrnet_w48", weights, (288, 384), "--batch-size", "64")
    taken = torch.empty(max(0, torch.cuda.mem_get_info()[0] - LEFT_FREE), dtype=torch.uint8, device=setting.device)
    done = _run(command)
    is_one_line = done.returncode == 1 and "--batch-size" in _last_line(done) and "Traceback" not in done.stderr
    extra = {"line": _last_line(done), "taken_bytes": len(taken)}
    yield Line("gpu", "memory.one_line", float(is_one_line), "passed", 1, extra=extra)


def nvjpeg(setting: Setting) -> Iterator[Line]:
    """Decode images on the device and with OpenCV."""
    import cv2
    from torchvision.io import decode_jpeg

    images = sorted((_repeated(setting, 24) / "images").iterdir())
    contents = [np.frombuffer(path.read_bytes(), np.uint8) for path in images]
    coded, on_gpu = [torch.from_numpy(content.copy()) for content in contents], setting.device.type == "cuda"
    decode = lambda: decode_jpeg(coded, device=setting.device)  # noqa: E731
    decode()
    seconds = _seconds_of(decode, on_gpu)
    on_cpu = _seconds_of(lambda: [cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) for content in contents], False)
    difference = []
    for pixels, content in zip(decode(), contents, strict=True):
        expected = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR_RGB), np.int64)
        difference.append(np.abs(pixels.cpu().permute(1, 2, 0).numpy() - expected))
    extra = {
        "largest_difference": int(max(d.max() for d in difference)),
        "mean": float(np.mean([d.mean() for d in difference])),
    }
    n = len(coded)
    yield Line("gpu", "nvjpeg", n / seconds, "images/s", n, "OpenCV, one thread", n / on_cpu, extra)


# --- shared by the steps ----------------------------------------------------------------------------------------------


def _network(setting: Setting) -> TorchNetwork:
    precision = "bf16" if setting.device.type == "cuda" else "fp32"
    return TorchNetwork(HRNET, build_hrnet(setting.teacher), setting.input_size, setting.device, precision)


def _sample_network(device: torch.device, precision: str) -> TorchNetwork:
    teacher = load_teacher(
        "hrnet_w16_sample", SAMPLE_WEIGHTS, input_size=(96, 128), device=str(device), precision=precision
    )
    return cast(TorchNetwork, teacher.network)


def _trainer(setting: Setting, store: Store, **settings: Any) -> Trainer:
    recipe = Recipe(pretrained="none", **settings)
    out = setting.workspace.folder / "run"
    return Trainer(Run(store, store, out, recipe, distil=True, device=setting.device))


def _repeated(setting: Setting, count: int) -> Path:
    """A data folder with ``count`` instances: the images and annotations of the sample, repeated under new names."""
    folder = setting.workspace.folder / f"repeated-{count}"
    if (folder / "annotations").exists():
        return folder
    people = setting.workspace.people("sample", min(count, setting.workspace.effort.instances))
    document = json.loads(people.split.annotations.read_bytes())
    of_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in document["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    while len(annotations) < count:
        image = document["images"][len(images) % len(document["images"])]
        number = len(images) + 1
        name = f"{number:012d}{Path(image['file_name']).suffix}"
        (folder / "images" / name).symlink_to((people.split.images / image["file_name"]).resolve())
        images.append({**image, "id": number, "file_name": name})
        for annotation in of_image.get(image["id"], []):
            annotations.append({**annotation, "id": len(annotations) + 1, "image_id": number})
    (folder / "annotations").mkdir()
    content = {**document, "images": images, "annotations": annotations}
    (folder / "annotations/people.json").write_text(json.dumps(content), encoding="utf-8", newline="\n")
    return folder


def _precompute(
    data: Path, setting: Setting, teacher: str, weights: Path, size: tuple[int, int], *more: str
) -> list[str]:
    """The command of a run over a folder of `_repeated` with a teacher of an input size (width, height)."""
    given = {
        "--images": data / "images",
        "--annotations": data / "annotations/people.json",
        "--teacher": teacher,
        "--checkpoint": weights,
        "--input-size": f"{size[1]}x{size[0]}",
        "--store": setting.workspace.folder / "precomputed.zarr",
        "--device": setting.device.type,
    }
    words = [str(word) for pair in given.items() for word in pair]
    overwrite = [] if "--check" in more else ["--overwrite"]
    return [sys.executable, "-m", "benchmarks.support.large_shards", *words, "--unlabelled", *overwrite, *more]


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    return (done.stderr.strip().splitlines() or ["no output"])[-1]


class Step(NamedTuple):
    """A step and its time limit."""

    run: Callable[[Setting], Iterator[Line]]
    seconds: int


STEPS = {
    "sync": Step(sync, 50),
    "parity": Step(parity, 60),
    "bare": Step(bare, 70),
    "precompute": Step(precompute, 140),
    "trainer": Step(trainer, 80),
    "losses": Step(losses, 70),
    "memory": Step(memory, 40),
    "nvjpeg": Step(nvjpeg, 20),
    "compile": Step(compiled, 70),
}
"""In the order of their worth."""
PATIENCE = 10
"""The limits on a CPU are this many times longer: it is slow, and nobody waits for it."""


def run_step(name: str, folder: Path, device: str, *, quick: bool) -> None:
    """Run one step in this process and print its lines."""
    setting = choose_setting(folder, choose_device(device), quick=quick)
    for line in STEPS[name].run(setting):
        print(json.dumps(line.to_json()), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run all steps, each in a process of its own, or one step in this process; returns 1 if a step failed."""
    parser = Parser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that the steps run; no results file")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--step", choices=list(STEPS), action="append", help="only this step; repeatable")
    parser.add_argument("--in-process", type=Path, metavar="DIR", help=argparse.SUPPRESS)  # as `_run_apart` starts it
    arguments = parser.parse_args(argv)
    if arguments.in_process:
        run_step(arguments.step[0], arguments.in_process, arguments.device, quick=arguments.quick)
        return 0
    quick = arguments.quick or choose_device(arguments.device).type == "cpu"
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.step or STEPS:
            limit = STEPS[name].seconds * (PATIENCE if quick else 1)
            print(f"{name}: at most {limit} s", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.gpu", "--step", name, "--in-process", folder]
            command += ["--device", arguments.device, *(["--quick"] if arguments.quick else [])]
            lines += run_apart(name, command, limit)
    if not quick:
        print(_keep(lines), file=sys.stderr)
    return int(any("error" in line for line in lines))


def _keep(lines: list[dict[str, Any]]) -> str:
    """Write the lines to a results file; return what to tell the user."""
    try:
        return f"written to {write_results(lines, ROOT / 'benchmarks/results', datetime.date.today())}"
    except OSError as error:  # e.g. in a container; the lines are on stdout
        return f"not written to a results file: {error}"


def run_apart(name: str, command: list[str], limit: float) -> list[dict[str, Any]]:
    """Run a command that prints JSON lines, in a process group of its own, and print and return its lines.

    Args:
        name: The step, for the line with the error.
        command: The command.
        limit: Seconds after which the processes are killed.

    Returns:
        The lines of the command and, if it fails or exceeds its limit, one with the error.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    error = None
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, messages = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, messages = process.communicate()
            error = f"not finished after {limit:g} s"
    if error is None and process.returncode:
        error = (messages.strip().splitlines() or ["no output"])[-1]
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if error is not None:
        print(messages, file=sys.stderr, end="", flush=True)
        lines.append({"bench": "gpu", "metric": name, "error": error})
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main())
