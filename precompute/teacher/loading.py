"""The teacher of a precompute run: one object, whatever network is behind it.

    teacher = load_teacher("hrnet_w32", "pose_hrnet_w32_256x192.pth", input_size=(192, 256))
    teacher = load_teacher("hrnet_w48_384x288")  # mmpose's published weights, downloaded once
    teacher = load_teacher("onnx:network.onnx")
    maps = teacher(crops)                       # (B, H, W, 3) uint8 RGB -> (B, K, h, w) float32, raw
    mirrored = teacher(mirror(crops))           # the flip view, raw; kdlib.heatmaps.flip_average joins the two

Sizes are (width, height) in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.words import did_you_mean
from kdlib.images import COLOUR_ORDER, IMAGENET_MEAN, IMAGENET_STD
from kdlib.machine.cost import multiply_adds, parameter_count
from kdlib.machine.device import PRECISIONS, choose_device, choose_precision
from kdlib.skeleton import JOINTS
from precompute.teacher import zoo
from precompute.teacher.checkpoint import CheckpointError, file_sha256, load_weights
from precompute.teacher.hrnet import HRNETS, HRNetNetwork, build_hrnet, heatmap_size
from precompute.teacher.onnx import OnnxNetwork

ONNX = "onnx:"
_OFFICIAL = (
    "give --input-size 256x192 or 384x288 to have mmpose's published weights downloaded, or a file: the official "
    "weights are in pose_coco/ of the model zoo that the README of "
    "https://github.com/leoxiaobin/deep-high-resolution-net.pytorch links to ({file})"
)
_WHERE = {
    "hrnet_w32": _OFFICIAL.format(file="pose_hrnet_w32_256x192.pth or _384x288.pth"),
    "hrnet_w48": _OFFICIAL.format(file="pose_hrnet_w48_256x192.pth or _384x288.pth"),
    "hrnet_w16_sample": "precompute/sample/hrnet_w16_sample.safetensors (`make teacher` makes it anew)",
}


@dataclass(frozen=True)
class Teacher:
    """What a store's manifest says of its teacher, and the network itself.

    Attributes:
        name: a name of `precompute.teacher.hrnet.HRNETS`, or `onnx:` and the file's name.
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the maps.
        joints: number of maps K.
        weights_sha256: of the checkpoint or ONNX file, in hexadecimal.
        precision: `fp32`, `bf16` or (ONNX) `fp16`: what the network computes in. Maps are float32 always.
        device: `cpu` or `cuda:N`.
        normalisation: mean and standard deviation of the channels, for pixels scaled to 0..1.
        colour_order: of the crops' channels.
        parameters: of an HRNet; unknown for ONNX.
        multiply_adds: of an HRNet and one crop; unknown for ONNX.
        members: the teachers of an ensemble; of a single one, nothing.
    """

    name: str
    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    joints: int
    weights_sha256: str
    precision: str
    device: str
    network: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = field(repr=False)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = (IMAGENET_MEAN, IMAGENET_STD)
    colour_order: str = COLOUR_ORDER
    parameters: int | None = None
    multiply_adds: int | None = None
    members: tuple["Teacher", ...] = ()

    @property
    def input_sizes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the crops that it looks at: its own, then those of members that differ."""
        return tuple(dict.fromkeys([self.input_size, *(member.input_size for member in self.members)]))

    def __call__(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Raw heatmaps (B, K, h, w) float32 of crops (B, H, W, 3) uint8 RGB; one forward pass.

        Raises:
            ValueError: If the crops are of another shape or type.
        """
        crops = np.asarray(crops)
        width, height = self.input_size
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (height, width, 3) or not len(crops):
            raise ValueError(
                f"{self.name} takes crops (B, {height}, {width}, 3) uint8, got {crops.shape} {crops.dtype}"
            )
        return self.network(np.array(crops, order="C"))  # a copy: torch takes no negative stride, not even of length 1


def load_teacher(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    input_size: tuple[int, int] | None = None,
    usual_size: tuple[int, int] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Teacher:
    """Open a teacher and check that it is one.

    Args:
        name: One of `precompute.teacher.hrnet.HRNETS` or of `precompute.teacher.zoo.ZOO`, or `onnx:FILE`.
        checkpoint: The HRNet's weights, in any layout of `precompute.teacher.checkpoint`; not for ONNX. Where it is left out,
            published weights of that network and size are downloaded, if there are any.
        input_size: (width, height) of the crops; may be left out for an ONNX file of fixed size and for the zoo.
        usual_size: The same, where neither `input_size` nor the name nor the ONNX file says one.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`; see `kdlib.machine.device`.

    Raises:
        CheckpointError: If a file is missing or is not the weights of such a teacher.
        DownloadError: If published weights cannot be had.
        ValueError: If the name, size, device or precision cannot be had.
    """
    if name.startswith(ONNX):
        path = Path(name.removeprefix(ONNX))
        _refuse_choices(path, checkpoint, precision)
        return _load_onnx(path, OnnxNetwork(path, input_size, device, usual_size), precision)
    check_name(name)
    name, input_size = _network_and_size(name, input_size)
    input_size = input_size or usual_size
    on = choose_device(device)
    computes_in = choose_precision(precision, on)
    weights = _weights(name, checkpoint, input_size)
    if input_size is None:
        raise ValueError(f"{name} runs at many input sizes; say which (--input-size)")
    heatmap_size(input_size)
    model = build_hrnet(name, len(JOINTS))
    load_weights(model, weights)
    parameters = parameter_count(model)
    teacher = _teacher(name, weights, HRNetNetwork(model, input_size, on, computes_in))
    return replace(teacher, parameters=parameters, multiply_adds=_multiply_adds(name, input_size))


def check_name(name: str) -> None:
    """Refuse with a ValueError what is no teacher's name, before any file is looked at."""
    known = [*HRNETS, *zoo.ZOO]
    if name not in known and not name.startswith(ONNX):
        hint = did_you_mean(name, known, f"available: {', '.join(known)}, or {ONNX}FILE", most=2)
        raise ValueError(f"unknown teacher {name!r}; {hint}")


def _network_and_size(name: str, input_size: tuple[int, int] | None) -> tuple[str, tuple[int, int] | None]:
    """The network's name and its size, from a name that may carry the size."""
    if name in zoo.ZOO:
        published = zoo.ZOO[name]
        if input_size not in (None, published.input_size):
            raise ValueError(f"{name} runs at its own input size; leave out --input-size, or name {published.network}")
        return published.network, published.input_size
    return name, input_size


def _weights(name: str, checkpoint: str | Path | None, input_size: tuple[int, int] | None) -> Path:
    """The file that was given, else the published one."""
    if checkpoint is not None:
        return Path(checkpoint)
    published = zoo.find(name, input_size)
    if published is None:
        where = _WHERE.get(name, "no public pose weights of this one are known, only its own training makes them")
        raise CheckpointError(f"{name} needs its weights (--checkpoint FILE): {where}")
    return zoo.weights_file(published)


def _multiply_adds(name: str, input_size: tuple[int, int]) -> int:
    with torch.device("meta"):
        return multiply_adds(build_hrnet(name, len(JOINTS)), input_size)


def mirror(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crops (B, H, W, 3) mirrored left to right: column x becomes W - 1 - x. What the flip view shows the teacher."""
    return np.ascontiguousarray(crops[:, :, ::-1])


def _refuse_choices(path: Path, checkpoint: str | Path | None, precision: str) -> None:
    """What an ONNX file leaves no choice of, before it is opened."""
    if checkpoint is not None:
        raise ValueError(f"{ONNX}{path} carries its own weights; leave out the checkpoint {checkpoint}")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose {', '.join(PRECISIONS)}")


def _load_onnx(path: Path, network: OnnxNetwork, precision: str) -> Teacher:
    if precision not in ("auto", network.precision):
        raise ValueError(f"{path} computes in {network.precision}, as it was exported; {precision} was asked for")
    if network.joints != len(JOINTS):
        raise CheckpointError(f"{path} puts out {network.joints} maps a person, COCO has {len(JOINTS)} joints")
    return _teacher(f"{ONNX}{path.name}", path, network)


def _teacher(name: str, weights: Path, network: HRNetNetwork | OnnxNetwork) -> Teacher:
    return Teacher(
        name=name,
        input_size=network.input_size,
        heatmap_size=network.heatmap_size,
        joints=network.joints,
        weights_sha256=file_sha256(weights),
        precision=network.precision,
        device=network.device,
        network=network,
    )
