"""Runs a network in an ONNX file that maps crops to heatmaps, with onnxruntime (extra `[teacher]`).

The file must have one input (B, 3, H, W) or (B, H, W, 3), and one output with heatmaps, or two outputs of SimCC:
`precompute.teacher.onnx_io` describes both. B may be free or fixed at 1. Free H and W take the requested size. On a
CPU, a batch is split into pieces that run in parallel, each on one thread, on as many threads as torch uses
(OMP_NUM_THREADS). On a GPU, torch uploads and normalises a batch; onnxruntime reads it there and writes its outputs
there (IO binding). All this and the copy back run on one CUDA stream of torch, so that the host waits for the copy back
alone. The packages onnxruntime and onnxruntime-gpu install the same module: only one of them may be installed.

Exports often declare a free B although a Reshape inside was traced with one crop. Two crops are therefore run when the
file is opened; if their heatmaps are not those of each crop alone, every crop runs by itself.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.memory import is_out_of_memory
from kdlib.machine.device import choose_device
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.teacher.joints import AS_STATED, JointFlags, agree, stated_in
from precompute.teacher.onnx_io import AS_USUAL, Maps, OnnxFlags, Output, Pixels, Simcc, order_simcc
from precompute.teacher.passes import DeviceNetwork
from precompute.teacher.weights_file import CheckpointError

BATCH_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest accepted difference between a crop's heatmaps in a batch and alone, as a share of the largest value: other
batches may compute in another order."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""onnxruntime's names of what can run a network."""
MOST_FOR_TENSORRT = 256
"""Largest batch of TensorRT, which builds one engine for all batches up to this size. Larger ones are split."""
_STREAM = "user_compute_stream"
"""Option of the providers of a GPU: the address of the CUDA stream that they run on, in decimal digits."""
_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}
"""Types that an input can have."""
_BOUND = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
"""Types of outputs that can be bound."""
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.float64: np.float64, torch.uint8: np.uint8}


class OnnxNetwork(DeviceNetwork):
    """Runs an ONNX file as a teacher.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        pixels: how crops become its input.
        output: how its outputs become heatmaps; `output.maps` is their number M.
        device: `cpu` or `cuda:N`.
        precision: `fp32` or `fp16`, as exported.
        provider: `cpu`, `cuda` or `tensorrt`.
        crop_by_crop: why a file with a free B cannot run several crops together; empty if it can, or if B is fixed.
    """

    def __init__(
        self,
        path: str | Path,
        input_size: tuple[int, int] | None,
        device: str,
        default_size: tuple[int, int] | None = None,
        provider: str = "auto",
        skeleton: Skeleton = COCO,
        joints: JointFlags = AS_STATED,
        flags: OnnxFlags = AS_USUAL,
    ) -> None:
        """Open the file.

        Args:
            path: The ONNX file.
            input_size: (width, height) of the crops; None uses that of the file.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            default_size: (width, height) of the crops if neither the file nor `input_size` gives it.
            provider: `auto`, `cpu`, `cuda` or `tensorrt`; `auto` is CUDA if the device is a GPU, or else the CPU.
            skeleton: The K joints of the data.
            joints: What the user states about the joints of the heatmaps.
            flags: What the user states about input and outputs.

        Raises:
            CheckpointError: If the file cannot be opened, does not map crops to heatmaps, or does not predict the
                joints of the data.
            ValueError: If it takes crops of another size, or the device or the provider is not available.
        """
        path = Path(path)
        runtime = _import_onnxruntime(path)
        wanted, self.provider = _choose_device(device, provider, runtime.get_available_providers())
        self.device = str(wanted)
        if self.provider == "tensorrt":  # its engine is built for one size of the crops
            spec = _sole_input(_open_session(runtime, path, torch.device("cpu"), [PROVIDERS["cpu"]]), path)
            size = _choose_size(spec.shape, input_size, path, default_size)
            providers = _tensorrt(wanted, spec, size, is_last=_is_last(spec.shape))
        else:
            providers = [_provider(wanted)]
        if wanted.type == "cuda":
            self._session, self.stream = _open_on_stream(runtime, path, wanted, providers)
        else:
            self._session = _open_session(runtime, path, wanted, providers)
        self._run_options = None if self.stream is None else _asynchronous(runtime)
        spec = _sole_input(self._session, path)
        self.input_size = _choose_size(spec.shape, input_size, path, default_size)
        self.pixels = Pixels.choose(_DTYPES[spec.type], _is_last(spec.shape), flags, path)
        self._outputs = self._session.get_outputs()
        halves = {"tensor(float16)"} & {spec.type, self._outputs[0].type}
        self.precision = "fp16" if halves else "fp32"
        self._path, self._name = path, spec.name
        self._alone = spec.shape[0] == 1
        self._order = list(range(len(self._outputs)))
        self._threads = torch.get_num_threads() if self.device == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads)
        self._shapes = _probe(self, path)
        self.output = self._choose_output(flags.activation)
        self.heatmap_size = self.output.size
        stated = stated_in(self._session.get_modelmeta().custom_metadata_map, self.output.maps, str(path))
        super().__init__(agree(str(path), self.output.maps, stated, skeleton, joints))
        self.crop_by_crop = "" if self._alone else self._find_batch_problem()
        self._alone = self._alone or bool(self.crop_by_crop)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute all heatmaps of the network, (B, M, h, w) float32, from crops (B, H, W, 3) uint8 RGB."""
        return self.run_on_host(crops) if self.device == "cpu" else super().__call__(crops)

    def run_on_host(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same with arrays in host memory as input and output of the network."""
        maps = self.output.heatmaps([torch.from_numpy(values) for values in self._outputs_on_host(crops)])
        return np.asarray(maps.numpy(), np.float32)

    def _outputs_on_host(self, crops: NDArray[np.uint8]) -> list[NDArray[np.floating]]:
        """The outputs of the network, of crops (B, H, W, 3) uint8 RGB."""
        tensor = self._input(crops)
        pieces = np.array_split(tensor, len(tensor) if self._alone else min(self._threads, len(tensor)))
        return [np.concatenate(values) for values in zip(*self._pool.map(self._run, pieces), strict=True)]

    def check_values(self, crops: NDArray[np.uint8]) -> None:
        """Check that the outputs are those of heatmaps.

        Args:
            crops: (B, H, W, 3) uint8 RGB of the data.

        Raises:
            CheckpointError: If they need an activation, and the user gave none. The message names the flag.
        """
        if self.device == "cpu":
            outputs = [torch.from_numpy(values) for values in self._outputs_on_host(crops)]
        else:
            outputs = self._run_all(self.images(torch.from_numpy(crops).to(self.device)))
        self.output.check(outputs, self._path)

    def images(self, crops: Tensor) -> Tensor:
        """The images (N, 3, H, W) that `run` takes, from crops (N, H, W, 3) uint8 RGB."""
        return self.pixels.images(crops)

    def run(self, images: Tensor) -> Tensor:
        """All heatmaps (N, M, h, w) float32 on the device, of normalised images (N, 3, H, W) there, without a copy.

        Raises:
            torch.OutOfMemoryError: If the memory of the device is too small.
        """
        return self.output.heatmaps(self._run_all(images))

    def _run_all(self, images: Tensor) -> list[Tensor]:
        """The outputs of the network on the device, of images (N, 3, H, W) there."""
        images = self.pixels.arrange(images)
        outputs = [
            torch.empty((len(images), *shape[1:]), dtype=_BOUND[output.type], device=images.device)
            for shape, output in zip(self._shapes, self._outputs, strict=True)
        ]
        most = 1 if self._alone else MOST_FOR_TENSORRT if self.provider == "tensorrt" else len(images)
        try:
            with self._in_order(images.device):
                for piece, *results in zip(
                    images.split(most), *(values.split(most) for values in outputs), strict=True
                ):
                    self._run_bound(piece, results)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            if is_out_of_memory(error):
                raise torch.OutOfMemoryError(str(error).splitlines()[0]) from error
            raise
        return [outputs[number] for number in self._order]

    @contextmanager
    def _in_order(self, device: torch.device) -> Iterator[None]:
        """Keep the order: onnxruntime runs in this block after torch's earlier work, and torch's later work after it.

        On a stream of torch, the GPU keeps the order. Otherwise onnxruntime has a stream of its own, which begins after
        this wait of the host; `_run_bound` then waits for its end.
        """
        if device.type != "cuda":
            yield
            return
        current = torch.cuda.current_stream(device)
        if self.stream is None:
            current.synchronize()
            yield
            return
        self.stream.wait_stream(current)  # the same stream in `launch`, where this has no effect
        try:
            yield
        finally:
            current.wait_stream(self.stream)

    def _run_bound(self, images: Tensor, outputs: Sequence[Tensor]) -> None:
        """Run the network on n images, writing its n outputs; all stay where they are."""
        binding = self._session.io_binding()
        bound = [(binding.bind_output, *pair) for pair in zip([o.name for o in self._outputs], outputs, strict=True)]
        for bind, name, tensor in [(binding.bind_input, self._name, images), *bound]:
            bind(
                name=name,
                device_type=tensor.device.type,
                device_id=tensor.device.index or 0,
                element_type=_NUMPY[tensor.dtype],
                shape=tuple(tensor.shape),
                buffer_ptr=tensor.data_ptr(),
            )
        self._session.run_with_iobinding(binding, self._run_options)
        if self.stream is None:
            binding.synchronize_outputs()

    def _input(self, crops: NDArray[np.uint8]) -> NDArray[Any]:
        return self.pixels.arrange(self.images(torch.from_numpy(crops))).numpy()

    def _run(self, tensor: NDArray[Any]) -> list[NDArray[np.floating]]:
        """The outputs of the network in the order that `output` takes."""
        outputs: list[NDArray[np.floating]] = self._session.run(None, {self._name: tensor})
        return [outputs[number] for number in self._order]

    def _choose_output(self, activation: str) -> Output:
        """How the outputs become heatmaps, from the shapes that one crop gave."""
        if len(self._shapes) == 1:
            return Maps(self._shapes[0], self.input_size, activation, self._path)
        self._order = order_simcc([o.name for o in self._outputs], [s[-1] for s in self._shapes], self.input_size)
        return Simcc([self._shapes[number] for number in self._order], self.input_size, activation, self._path)

    def _find_batch_problem(self) -> str:
        """Compare two crops together with each alone; returns how they differ, or an empty text.

        The crops differ strongly in brightness and contrast, so that statistics over the batch show too.
        """
        width, height = self.input_size
        dark = np.broadcast_to(np.linspace(0, 60, width).astype(np.uint8)[None, :, None], (height, width, 3))
        bright = np.random.default_rng(0).integers(120, 256, (height, width, 3), dtype=np.uint8)
        tensor = self._input(np.stack([dark, bright]))
        alone = [np.concatenate(pair) for pair in zip(*(self._run(tensor[i : i + 1]) for i in range(2)), strict=True)]
        try:
            together = self._run(tensor)
        except Exception:  # onnxruntime's exceptions share no base class but Exception
            return "two crops together fail"
        if [values.shape for values in together] != [values.shape for values in alone]:
            return "two crops together give heatmaps of another shape"
        for one, two in zip(alone, together, strict=True):
            largest = np.abs(one, where=np.isfinite(one), out=np.zeros_like(one)).max()
            if not np.allclose(two, one, rtol=0, atol=BATCH_TOLERANCE[self.precision] * largest, equal_nan=True):
                return "the heatmaps of a crop depend on the other crops of its batch"
        return ""


def choose_provider(name: str, device: str) -> str:
    """The provider of `--onnx-provider` with the device of `--device`, both as the user gave them.

    `auto` with the device `auto` is the CPU if this onnxruntime has no CUDA, also where each process of a host was
    given a GPU; other teachers of an ensemble may use it.
    """
    if name != "auto" or device != "auto":
        return name
    return "auto" if PROVIDERS["cuda"] in _available_providers() else "cpu"


def gpu_unused(asked: str, chosen: str) -> list[str]:
    """One line if ONNX teachers do not use the GPU of this machine: why, and what to do. Empty if all is well.

    Args:
        asked: The provider that the user asked for.
        chosen: What `choose_provider` made of it.
    """
    if asked == chosen or not torch.cuda.is_available():
        return []
    return [
        "ONNX teachers run on the CPU, although this machine has a GPU: this onnxruntime has no CUDA "
        f"({', '.join(_available_providers())}). Replace it: pip uninstall onnxruntime, then pip install "
        "onnxruntime-gpu (extra teacher-gpu); the two cannot be installed together"
    ]


def _available_providers() -> list[str]:
    """The providers of the installed onnxruntime; none if it is missing, which opening the file reports."""
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _import_onnxruntime(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"no ONNX file at {path}")
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(f"the teacher {path} needs onnxruntime: pip install onnxruntime") from error
    return onnxruntime


def _open_session(runtime: Any, path: Path, device: torch.device, providers: Sequence[Any]) -> Any:
    """Open an onnxruntime session with the first provider, and the others for operators that it lacks."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # the pieces of a batch run in parallel instead
    options.log_severity_level = 4  # errors are raised; they are not also printed
    try:
        session = runtime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise CheckpointError(f"onnxruntime cannot open {path}: {str(error).splitlines()[0]}") from error
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if wanted not in session.get_providers():
        if wanted == PROVIDERS["tensorrt"]:
            raise ValueError("onnxruntime cannot start TensorRT here; check its version, or give --onnx-provider cuda")
        raise ValueError("onnxruntime cannot start CUDA here; check its CUDA and cuDNN versions, or give --device cpu")
    others = [output.type for output in session.get_outputs() if output.type not in _BOUND]
    if device.type == "cuda" and others:
        raise CheckpointError(f"{path} computes {others[0]}; on a GPU it must be float or float16")
    return session


def _open_on_stream(runtime: Any, path: Path, device: torch.device, providers: Sequence[Any]) -> tuple[Any, Any]:
    """Open an onnxruntime session that runs on a CUDA stream of torch; returns it and the stream.

    torch's default stream has the address 0, which onnxruntime treats as no stream; the stream is therefore another
    one. An onnxruntime without this option gets its own streams, and the returned stream is None: it refuses unknown
    options, or reports an error on stdout and opens the session without any options.
    """
    stream = torch.cuda.Stream(device)
    address = str(stream.cuda_stream)
    on_stream = [(name, {**options, _STREAM: address}) for name, options in providers]
    with suppress(Exception), redirect_stdout(io.StringIO()):  # other errors are those of the second attempt too
        session = _open_session(runtime, path, device, on_stream)
        taken = session.get_provider_options()
        if all(taken[name].get(_STREAM) == address for name, _ in on_stream):
            return session, stream
    return _open_session(runtime, path, device, providers), None


def _asynchronous(runtime: Any) -> Any:
    """Options of a run that returns when its work is launched, which is enough if the caller uses the same stream."""
    options = runtime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _choose_device(name: str, provider: str, available: Sequence[str]) -> tuple[torch.device, str]:
    """Device and provider among those that this onnxruntime has; see `kdlib.machine.device.choose_device`."""
    has_cuda = PROVIDERS["cuda"] in available
    if provider == "cpu" or (provider == "auto" and name == "auto" and not has_cuda):
        return torch.device("cpu"), "cpu"
    wanted = choose_device("cuda" if provider != "auto" and name == "auto" else name)
    if wanted.type == "cpu":
        if provider != "auto":
            raise ValueError(f"--onnx-provider {provider} needs a GPU; give --device cuda, or leave one of them out")
        return wanted, "cpu"
    if wanted.type == "mps":
        raise ValueError("ONNX teachers do not run on the GPU of a Mac; give --device cpu, or leave --device out")
    if not has_cuda:
        raise ValueError(
            f"this onnxruntime has no CUDA ({', '.join(available)}); install onnxruntime-gpu, or give --device cpu"
        )
    if provider == "tensorrt" and PROVIDERS["tensorrt"] not in available:
        raise ValueError(
            f"this onnxruntime has no TensorRT ({', '.join(available)}); install TensorRT, or give --onnx-provider cuda"
        )
    return wanted, "cuda" if provider == "auto" else provider


def _provider(device: torch.device) -> Any:
    if device.type == "cuda":
        # Without "kSameAsRequested", the arena takes up to twice the memory that a batch needs.
        options = {"device_id": device.index or 0, "use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}
        return PROVIDERS["cuda"], options
    return PROVIDERS["cpu"]


def _tensorrt(device: torch.device, spec: Any, size: tuple[int, int], *, is_last: bool) -> list[Any]:
    """TensorRT in fp32 with one engine for all batches, which is kept beside downloaded weights; CUDA for the rest."""
    folder, (width, height) = Path(torch.hub.get_dir()) / "tensorrt", size
    folder.mkdir(parents=True, exist_ok=True)
    most = 1 if spec.shape[0] == 1 else MOST_FOR_TENSORRT
    shapes = {"min": 1, "opt": min(64, most), "max": most}
    crop = f"{height}x{width}x3" if is_last else f"3x{height}x{width}"
    profile = {f"trt_profile_{which}_shapes": f"{spec.name}:{n}x{crop}" for which, n in shapes.items()}
    options = {
        "device_id": device.index or 0,
        "trt_fp16_enable": False,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        **({} if most == 1 and all(isinstance(n, int) for n in spec.shape) else profile),
    }
    return [(PROVIDERS["tensorrt"], options), _provider(device)]


def _sole_input(session: Any, path: Path) -> Any:
    """Check that input and output are those of a teacher; returns the input's name, type and shape."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = f"{path} maps {_in_words(inputs)} to {_in_words(outputs)}"
    wanted = "a teacher maps one (B, 3, H, W) or (B, H, W, 3) to one (B, K, h, w), or to SimCC's two (B, K, bins)"
    ranks = [len(output.shape) for output in outputs]
    if len(inputs) != 1 or ranks not in ([4], [3, 3]) or len(inputs[0].shape) != 4:
        raise CheckpointError(f"{found}; {wanted}")
    if isinstance(inputs[0].shape[1], int) and inputs[0].shape[1] != 3 and not _is_last(inputs[0].shape):
        raise CheckpointError(f"{found}; {wanted}")
    if inputs[0].type not in _DTYPES:
        raise CheckpointError(
            f"{found}; the input must be float or float16, and normalised, or uint8, not {inputs[0].type}"
        )
    if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1:
        raise CheckpointError(f"{found}; export it with a free batch size, or a batch of 1")
    return inputs[0]


def _is_last(shape: Sequence[Any]) -> bool:
    """Whether the channels are the last axis of an input: (B, H, W, 3)."""
    return shape[3] == 3 and shape[1] != 3


def _in_words(values: Sequence[Any]) -> str:
    return " and ".join(f"{v.name} ({', '.join(map(str, v.shape))})" for v in values) or "nothing"


def _choose_size(
    shape: Sequence[Any], wanted: tuple[int, int] | None, path: Path, default: tuple[int, int] | None
) -> tuple[int, int]:
    """The (width, height) that fits the shape of the file's input: the wanted one, or else the default."""
    height, width = shape[1:3] if _is_last(shape) else shape[2:4]
    fixed = {axis: size for axis, size in (("width", width), ("height", height)) if isinstance(size, int)}
    if wanted is None and len(fixed) == 2:
        return fixed["width"], fixed["height"]
    wanted = wanted or default
    if wanted is None:
        raise ValueError(f"{path} takes crops of any size; give one (--input-size)")
    for axis, size in zip(("width", "height"), wanted, strict=True):
        if fixed.get(axis, size) != size:
            raise ValueError(
                f"{path} takes crops of {axis} {fixed[axis]}, but the requested size is {wanted[1]}x{wanted[0]} "
                "(height x width)"
            )
    return wanted


def _probe(network: OnnxNetwork, path: Path) -> list[tuple[int, ...]]:
    """The shapes of the outputs of one black crop."""
    width, height = network.input_size
    try:
        return [values.shape for values in network._outputs_on_host(np.zeros((1, height, width, 3), np.uint8))]
    except Exception as error:  # as above
        raise CheckpointError(
            f"{path} does not run on a {height}x{width} crop (height x width): {str(error).splitlines()[0]}"
        ) from error
