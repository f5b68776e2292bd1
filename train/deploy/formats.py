"""Writes students as ONNX files or archives of ``torch.export``, and reads them back.

TorchScript is not supported: torch has deprecated it in favour of `torch.export`.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.students.loading import INPUT, INSTALL, OUTPUT, OnnxStudent
from train.deploy.network import Deployable, to_strings
from train.errors import TrainError

Heatmaps = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Heatmaps (B, K, H, W) of crops (B, H, W, 3) uint8 RGB."""


def write_onnx(network: Deployable, crops: Tensor, facts: dict[str, Any], path: Path) -> None:
    """Write an ONNX file that accepts any batch size.

    Args:
        network: The network to write.
        crops: (B, H, W, 3) uint8, to trace the network with.
        facts: Metadata of the file.
        path: The file to write.

    Raises:
        TrainError: If packages that the exporter needs are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter imports it
    except ImportError as error:
        raise TrainError(f"exporting to ONNX needs {error.name}: {INSTALL}") from error
    with _quietly():
        program = torch.onnx.export(
            network,
            (network.inputs(crops),),
            dynamo=True,
            dynamic_shapes={INPUT: {0: "batch"}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table={torch.ops.aten.hardsigmoid.default: _hard_sigmoid},
            verbose=False,
        )
        assert program is not None  # noqa: S101  # None only where a file name is given and dynamo is off
        model = program.model_proto
    for node in model.graph.node:  # torch notes the stack trace of each node, with paths of this machine
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, to_strings(facts))
    onnx.save(model, path)


def _hard_sigmoid(x: Any) -> Any:
    """Translate a hard sigmoid, clip(x + 3, 0, 6) / 6, without ONNX's operator of that name.

    OpenCV's DNN module takes every product with that operator for a hard swish, also where the operator's input is not
    the other factor, as in squeeze-and-excitation.
    """
    from onnxscript import opset18 as op

    return op.Div(op.Clip(op.Add(x, 3.0), 0.0, 6.0), 6.0)


def write_pt2(network: Deployable, crops: Tensor, facts: dict[str, Any], path: Path) -> None:
    """Write an archive of ``torch.export`` with the facts as ``metadata.json``; arguments as in `write_onnx`."""
    batch = torch.export.Dim("batch", min=1)
    with _quietly():
        program = torch.export.export(network, (network.inputs(crops),), dynamic_shapes={INPUT: {0: batch}})
        torch.export.save(program, path, extra_files={"metadata.json": json.dumps(facts)})


def _read_onnx(network: Deployable, path: Path) -> Heatmaps:
    return OnnxStudent(path).heatmaps


def _read_pt2(network: Deployable, path: Path) -> Heatmaps:
    module = torch.export.load(path).module()

    def heatmaps(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            maps: NDArray[np.float32] = module(network.inputs(torch.from_numpy(crops))).numpy()
        return maps

    return heatmaps


FORMATS: Final[dict[str, tuple[Callable[..., None], Callable[[Deployable, Path], Heatmaps]]]] = {
    ".onnx": (write_onnx, _read_onnx),
    ".pt2": (write_pt2, _read_pt2),
}
"""The functions that write a file and read it back, by its suffix."""


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the warnings that the exporters print about their own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
