"""Runs a network in an ONNX file that maps RGB crops to heatmaps, with onnxruntime (extra `[teacher]`).

The file must have one input (B, 3, H, W), which gets RGB crops normalised by `kdlib.images.normalise_images`, and one
output (B, K, h, w). B may be free or fixed at 1. Free H and W take the requested size. On a CPU, a batch is split into
pieces that run in parallel, each on one thread, on as many threads as torch uses (OMP_NUM_THREADS). On a GPU, torch
uploads and normalises a batch; onnxruntime reads it there and writes the heatmaps there (IO binding). The packages
onnxruntime and onnxruntime-gpu install the same module: only one of them may be installed.

Exports often declare a free B although a Reshape inside was traced with one crop. Two crops are therefore run when the
file is opened; if their heatmaps are not those of each crop alone, every crop runs by itself.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.memory import is_out_of_memory
from kdlib.images import normalise_images
from kdlib.machine.device import choose_device
from kdlib.skeletons.skeleton import COCO, Skeleton
from precompute.teacher.joints import AS_STATED, JointFlags, agree, stated_in
from precompute.teacher.passes import DeviceNetwork
from precompute.teacher.weights_file import CheckpointError

BATCH_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest accepted difference between a crop's heatmaps in a batch and alone, as a share of the largest value: other
batches may compute in another order."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""onnxruntime's names of what can run a network."""
MOST_FOR_TENSORRT = 256
"""Largest batch of TensorRT, which builds one engine for all batches up to this size. Larger ones are split."""
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_BOUND = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
"""Types of inputs and outputs that can be bound."""
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.float64: np.float64}


class OnnxNetwork(DeviceNetwork):
    """Runs an ONNX file as a teacher.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        maps: number of heatmaps M.
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
        flags: JointFlags = AS_STATED,
    ) -> None:
        """Open the file.

        Args:
            path: The ONNX file.
            input_size: (width, height) of the crops; None uses that of the file.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            default_size: (width, height) of the crops if neither the file nor `input_size` gives it.
            provider: `auto`, `cpu`, `cuda` or `tensorrt`; `auto` is CUDA if the device is a GPU, or else the CPU.
            skeleton: The K joints of the data.
            flags: What the user states about the joints of the heatmaps.

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
            providers = _tensorrt(wanted, spec, size)
        else:
            providers = [_provider(wanted)]
        self._session = _open_session(runtime, path, wanted, providers)
        spec = _sole_input(self._session, path)
        self.input_size = _choose_size(spec.shape, input_size, path, default_size)
        self._output = self._session.get_outputs()[0]
        self.precision = {np.float32: "fp32", np.float16: "fp16"}[_DTYPES[spec.type]]
        self._name, self._type, self._dtype = spec.name, spec.type, _DTYPES[spec.type]
        self._alone = spec.shape[0] == 1
        self._threads = torch.get_num_threads() if self.device == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads)
        self.maps, self.heatmap_size = _probe(self, path)
        metadata = self._session.get_modelmeta().custom_metadata_map
        stated = stated_in(metadata, self.maps, str(path))
        super().__init__(agree(str(path), self.maps, stated, skeleton, flags))
        self.crop_by_crop = "" if self._alone else self._find_batch_problem()
        self._alone = self._alone or bool(self.crop_by_crop)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute all heatmaps of the network, (B, M, h, w) float32, from crops (B, H, W, 3) uint8 RGB."""
        return self.run_on_host(crops) if self.device == "cpu" else super().__call__(crops)

    def run_on_host(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same with arrays in host memory as input and output of the network."""
        tensor = self._normalise(crops)
        pieces = np.array_split(tensor, len(tensor) if self._alone else min(self._threads, len(tensor)))
        return np.concatenate(list(self._pool.map(self._run, pieces)), dtype=np.float32)

    def run(self, images: Tensor) -> Tensor:
        """All heatmaps (N, M, h, w) float32 on the device, of normalised images (N, 3, H, W) there, without a copy.

        onnxruntime has streams of its own: it may begin when torch's is done, and waits for its own.

        Raises:
            torch.OutOfMemoryError: If the memory of the device is too small.
        """
        images = images.to(_BOUND[self._type]).contiguous()
        width, height = self.heatmap_size
        dtype = _BOUND[self._output.type]
        maps = torch.empty((len(images), self.maps, height, width), dtype=dtype, device=images.device)
        if images.device.type == "cuda":
            torch.cuda.current_stream(images.device).synchronize()
        most = 1 if self._alone else MOST_FOR_TENSORRT if self.provider == "tensorrt" else len(images)
        try:
            for piece, result in zip(images.split(most), maps.split(most), strict=True):
                self._run_bound(piece, result)
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception
            if is_out_of_memory(error):
                raise torch.OutOfMemoryError(str(error).splitlines()[0]) from error
            raise
        return maps.float()

    def _run_bound(self, images: Tensor, maps: Tensor) -> None:
        """Run the network on images (n, 3, H, W), writing heatmaps (n, K, h, w); both stay where they are."""
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self._name, images),
            (binding.bind_output, self._output.name, maps),
        ):
            bind(
                name=name,
                device_type=tensor.device.type,
                device_id=tensor.device.index or 0,
                element_type=_NUMPY[tensor.dtype],
                shape=tuple(tensor.shape),
                buffer_ptr=tensor.data_ptr(),
            )
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def _normalise(self, crops: NDArray[np.uint8]) -> NDArray[np.floating]:
        return np.ascontiguousarray(normalise_images(torch.from_numpy(crops)).numpy(), self._dtype)

    def _run(self, tensor: NDArray[np.floating]) -> NDArray[np.floating]:
        maps: NDArray[np.floating] = self._session.run(None, {self._name: tensor})[0]
        return maps

    def _find_batch_problem(self) -> str:
        """Compare two crops together with each alone; returns how they differ, or an empty text.

        The crops differ strongly in brightness and contrast, so that statistics over the batch show too.
        """
        width, height = self.input_size
        dark = np.broadcast_to(np.linspace(0, 60, width).astype(np.uint8)[None, :, None], (height, width, 3))
        bright = np.random.default_rng(0).integers(120, 256, (height, width, 3), dtype=np.uint8)
        tensor = self._normalise(np.stack([dark, bright]))
        alone = np.concatenate([self._run(tensor[i : i + 1]) for i in range(2)])
        try:
            together = self._run(tensor)
        except Exception:  # onnxruntime's exceptions share no base class but Exception
            return "two crops together fail"
        if together.shape != alone.shape:
            return "two crops together give heatmaps of another shape"
        largest = np.abs(alone, where=np.isfinite(alone), out=np.zeros_like(alone)).max()
        if not np.allclose(together, alone, rtol=0, atol=BATCH_TOLERANCE[self.precision] * largest, equal_nan=True):
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
    if device.type == "cuda" and session.get_outputs() and session.get_outputs()[0].type not in _BOUND:
        raise CheckpointError(f"{path} computes {session.get_outputs()[0].type}; on a GPU it must be float or float16")
    return session


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


def _tensorrt(device: torch.device, spec: Any, size: tuple[int, int]) -> list[Any]:
    """TensorRT in fp32 with one engine for all batches, which is kept beside downloaded weights; CUDA for the rest."""
    folder, (width, height) = Path(torch.hub.get_dir()) / "tensorrt", size
    folder.mkdir(parents=True, exist_ok=True)
    most = 1 if spec.shape[0] == 1 else MOST_FOR_TENSORRT
    shapes = {"min": 1, "opt": min(64, most), "max": most}
    profile = {f"trt_profile_{which}_shapes": f"{spec.name}:{n}x3x{height}x{width}" for which, n in shapes.items()}
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
    wanted = "a teacher maps one (B, 3, H, W) to one (B, K, h, w)"
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 4:
        raise CheckpointError(f"{found}; {wanted}")
    if inputs[0].shape[1] not in (3, None) and not isinstance(inputs[0].shape[1], str):
        raise CheckpointError(f"{found}; {wanted}")
    if inputs[0].type not in _DTYPES:
        raise CheckpointError(f"{found}; the input must be float or float16, and normalised, not {inputs[0].type}")
    if isinstance(inputs[0].shape[0], int) and inputs[0].shape[0] != 1:
        raise CheckpointError(f"{found}; export it with a free batch size, or a batch of 1")
    return inputs[0]


def _in_words(values: Sequence[Any]) -> str:
    return " and ".join(f"{v.name} ({', '.join(map(str, v.shape))})" for v in values) or "nothing"


def _choose_size(
    shape: Sequence[Any], wanted: tuple[int, int] | None, path: Path, default: tuple[int, int] | None
) -> tuple[int, int]:
    """The (width, height) that fits the file's input shape (B, 3, H, W): the wanted one, or else the default."""
    fixed = {axis: size for axis, size in (("width", shape[3]), ("height", shape[2])) if isinstance(size, int)}
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


def _probe(network: OnnxNetwork, path: Path) -> tuple[int, tuple[int, int]]:
    """Find the number of heatmaps K and their (width, height) by running the network on a black crop."""
    width, height = network.input_size
    try:
        count, joints, rows, columns = network.run_on_host(np.zeros((1, height, width, 3), np.uint8)).shape
    except Exception as error:  # as above
        raise CheckpointError(
            f"{path} does not run on a {height}x{width} crop (height x width): {str(error).splitlines()[0]}"
        ) from error
    if count != 1:
        raise CheckpointError(f"{path} computes {count} sets of heatmaps of one crop; a teacher computes one")
    if columns * height != rows * width:
        raise CheckpointError(
            f"{path} computes {rows}x{columns} heatmaps of {height}x{width} crops (height x width); "
            "a teacher has the same stride on both axes"
        )
    return joints, (columns, rows)
