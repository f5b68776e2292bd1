"""Opening an exported student with onnxruntime: the one place of the trainer that knows ONNX (extra `[export]`)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.device import choose_device
from kdlib.geometry import parse_size
from kdlib.images import normalise_images
from train.errors import TrainError
from train.export.deployable import FORMAT, INPUT

INSTALL = "pip install -e '.[export]'"


class OnnxStudent:
    """An exported student: crops (B, H, W, 3) uint8 RGB to heatmaps (B, K, h, w) float32.

    Attributes:
        name: How reports call it.
        input_size: (width, height) of the crops.
        joints: Number of maps K.
        loss: ``kl`` where the heatmaps are densities, ``mse`` where they are regressed.
        facts: The file's metadata, text by key.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Open the file.

        Args:
            path: An ONNX file that `python -m train export` wrote.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU only if onnxruntime has one.

        Raises:
            TrainError: If onnxruntime or the file is missing, or if it is no exported student.
        """
        self.session = _open(path, device)
        self.facts = dict(self.session.get_modelmeta().custom_metadata_map)
        if self.facts.get("format") != FORMAT:
            raise TrainError(
                f"{path} is no student that `python -m train export` wrote: its metadata lack format {FORMAT!r}"
            )
        self.name, self.input_size = self.facts["run"], parse_size(self.facts["input_size"])
        self.joints = int(self.session.get_outputs()[0].shape[1])
        self.loss = "kl" if self.facts["heatmaps"].startswith("density") else "mse"

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Heatmaps of a batch of crops."""
        if self.facts["input"] == "normalised":
            inputs = np.ascontiguousarray(normalise_images(torch.from_numpy(crops)).numpy())
        else:
            inputs = np.ascontiguousarray(crops)
        heatmaps: NDArray[np.float32] = self.session.run(None, {INPUT: inputs})[0]
        return heatmaps


def _open(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise TrainError(f"{path} needs onnxruntime: {INSTALL}") from error
    if not path.is_file():
        raise TrainError(f"no student at {path}; make one with `python -m train export`, or `make export`")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers(device, onnxruntime))
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise TrainError(f"onnxruntime cannot open {path}: {str(error).splitlines()[0]}") from error


def _providers(device: str, onnxruntime: Any) -> list[Any]:
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if not has_cuda:
        raise TrainError(f"this onnxruntime has no CUDA, {device} was asked for; install onnxruntime-gpu or use cpu")
    try:
        index = choose_device(device).index or 0
    except ValueError as error:
        raise TrainError(str(error)) from error
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
