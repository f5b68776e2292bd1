"""Runs a network in an ONNX file that maps RGB crops to heatmaps, with onnxruntime (extra `[teacher]`).

The file must have one input (B, 3, H, W), which gets RGB crops normalised by `kdlib.images.normalise_images`, and one
output (B, K, h, w). B may be free or fixed at 1. Free H and W take the requested size. On a CPU, a batch is split into
pieces that run in parallel, each on one thread, on as many threads as torch uses (OMP_NUM_THREADS).

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

from kdlib.images import normalise_images
from kdlib.machine.device import choose_device
from precompute.teacher.weights_file import CheckpointError

BATCH_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest accepted difference between a crop's heatmaps in a batch and alone, as a share of the largest value: other
batches may compute in another order."""
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxNetwork:
    """Runs an ONNX file as a teacher.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        joints: number of heatmaps K.
        device: `cpu` or `cuda:N`.
        precision: `fp32` or `fp16`, as exported.
        crop_by_crop: why a file with a free B cannot run several crops together; empty if it can, or if B is fixed.
    """

    def __init__(
        self,
        path: str | Path,
        input_size: tuple[int, int] | None,
        device: str,
        default_size: tuple[int, int] | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: The ONNX file.
            input_size: (width, height) of the crops; None uses that of the file.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            default_size: (width, height) of the crops if neither the file nor `input_size` gives it.

        Raises:
            CheckpointError: If the file cannot be opened or does not map crops to heatmaps.
            ValueError: If it takes crops of another size, or the device is not available.
        """
        path = Path(path)
        self._session, self.device = _open_session(path, device)
        spec = _sole_input(self._session, path)
        self.input_size = _choose_size(spec.shape, input_size, path, default_size)
        self.precision = {np.float32: "fp32", np.float16: "fp16"}[_DTYPES[spec.type]]
        self._name, self._dtype, self._alone = spec.name, _DTYPES[spec.type], spec.shape[0] == 1
        self._threads = torch.get_num_threads() if self.device == "cpu" else 1
        self._pool = ThreadPoolExecutor(self._threads)
        self.joints, self.heatmap_size = _probe(self, path)
        self.crop_by_crop = "" if self._alone else self._find_batch_problem()
        self._alone = self._alone or bool(self.crop_by_crop)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute heatmaps (B, K, h, w) float32 from crops (B, H, W, 3) uint8 RGB."""
        tensor = self._normalise(crops)
        pieces = np.array_split(tensor, len(tensor) if self._alone else min(self._threads, len(tensor)))
        return np.concatenate(list(self._pool.map(self._run, pieces)), dtype=np.float32)

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


def _open_session(path: Path, device: str) -> tuple[Any, str]:
    """Open an onnxruntime session; also returns the device it runs on."""
    if not path.is_file():
        raise CheckpointError(f"no ONNX file at {path}")
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(f"the teacher {path} needs onnxruntime: pip install onnxruntime") from error
    wanted = _choose_device(device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the pieces of a batch run in parallel instead
    options.log_severity_level = 4  # errors are raised; they are not also printed
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[_provider(wanted)])
    except Exception as error:  # onnxruntime's exceptions share no base class but Exception
        raise CheckpointError(f"onnxruntime cannot open {path}: {str(error).splitlines()[0]}") from error
    if wanted.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ValueError("onnxruntime cannot start CUDA here; check its CUDA and cuDNN versions, or give --device cpu")
    return session, str(wanted)


def _choose_device(name: str, providers: Sequence[str]) -> torch.device:
    """Like `kdlib.machine.device.choose_device`, but among the devices that this onnxruntime can use."""
    has_cuda = "CUDAExecutionProvider" in providers
    wanted = choose_device("cpu" if name == "auto" and not has_cuda else name)
    if wanted.type == "cuda" and not has_cuda:
        raise ValueError(
            f"this onnxruntime has no CUDA ({', '.join(providers)}); install onnxruntime-gpu, or give --device cpu"
        )
    return wanted


def _provider(device: torch.device) -> Any:
    if device.type == "cuda":
        return "CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0}
    return "CPUExecutionProvider"


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
        count, joints, rows, columns = network(np.zeros((1, height, width, 3), np.uint8)).shape
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
