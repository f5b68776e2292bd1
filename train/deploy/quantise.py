"""Quantises an exported student to 8-bit integers with onnxruntime's static quantisation, calibrated on crops.

Weights are int8 per channel and activations uint8, in onnxruntime's QDQ format. The caller measures the loss of
accuracy on a store, because no tolerance for single heatmap values would be meaningful.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdlib.students.loading import INPUT
from train.deploy.network import Deployable, to_strings

QUANTISED: Final = ["Conv", "ConvTranspose", "MaxPool", "Concat", "Gemm", "MatMul"]
"""Operators that compute in integers; normalisation and the last softmax stay in float."""
CROPS_PER_BATCH: Final = 8


def quantise(network: Deployable, source: Path, crops: NDArray[np.uint8], facts: dict[str, Any], path: Path) -> None:
    """Write an ONNX file with int8 weights.

    Args:
        network: The network of the file; it prepares the inputs.
        source: ONNX file in float32.
        crops: (N, H, W, 3) uint8 RGB, to calibrate the activations on.
        facts: Metadata of the new file.
        path: The file to write.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name(path.name + ".prepared.onnx")
    try:
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # folds batch norms into convolutions
        quantization.quantize_static(
            prepared,
            path,
            _reader(network, crops),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        prepared.unlink(missing_ok=True)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, to_strings(facts))
    onnx.save(model, path)


def _reader(network: Deployable, crops: NDArray[np.uint8]) -> Any:
    """Wrap the crops in the class that onnxruntime's calibration reads from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Crops(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = _batches(network, crops)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.batches, None)

    return Crops()


def _batches(network: Deployable, crops: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[Any]]]:
    import torch

    for start in range(0, len(crops), CROPS_PER_BATCH):
        batch = torch.from_numpy(crops[start : start + CROPS_PER_BATCH])
        yield {INPUT: network.inputs(batch).numpy()}
