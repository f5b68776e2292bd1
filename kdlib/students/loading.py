"""A trained student from its file, ready to predict keypoints.

student = load_student("runs/distilled/best.pt")    # or an exported student.onnx
keypoints = student.predict("photo.jpg", boxes=[[48, 20, 180, 400]])    # (1, 17, 3)
"""

import abc
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.geometry import box_to_region, clip_boxes, parse_size, region_affine
from kdlib.images import UnreadableImageError, decode_image, normalise_images
from kdlib.machine.device import choose_device
from kdlib.metrics.evaluation import decode_to_image
from kdlib.readout import DECODER, Readout
from kdlib.resample.exact import warp_image
from kdlib.students.checkpoint import read
from kdlib.students.networks import Student, build_student
from kdlib.students.norms import fold_norms

FORMAT: Final = "pose-student-1"
INPUT, OUTPUT = "image", "heatmaps"
INSTALL: Final = "pip install -e '.[export]'"


class LoadedStudent(abc.ABC):
    """A trained student, whatever file it came from.

    Attributes:
        name: How reports call it.
        input_size: Width and height of its crops in pixels.
        joints: Number of maps K.
        readout: How its maps are read.
        device: Where it runs.
    """

    name: str
    input_size: tuple[int, int]
    joints: int
    readout: Readout
    device: torch.device

    @abc.abstractmethod
    def heatmaps(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Heatmaps (B, K, H, W) of crops (B, H, W, 3) uint8 RGB; pixel u lies at crop pixel stride * u."""

    def points(
        self, crops: NDArray[np.uint8] | Tensor, affines: NDArray[np.float64], decoder: str = DECODER
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Points (B, K, 2) in image pixels and heatmap heights (B, K) of crops with their affines, see `crop_boxes`."""
        maps = self.heatmaps(crops)
        return decode_to_image(maps, affines, self.input_size[0] / maps.shape[-1], decoder)

    def predict(
        self,
        image: NDArray[np.uint8] | str | Path,
        boxes: ArrayLike | None = None,
        *,
        decoder: str = DECODER,
        batch_size: int = 32,
    ) -> NDArray[np.float64]:
        """Keypoints of the persons in one picture.

        Args:
            image: (H, W, 3) uint8 RGB, or a file, which is turned upright as its EXIF says.
            boxes: (N, 4) x, y, width, height of the persons in image pixels; None takes the whole picture as one box.
            decoder: ``dark`` (between the pixels) or ``argmax`` (HRNet's quarter pixel).
            batch_size: Persons that the network sees at a time.

        Returns:
            (N, K, 3): x and y in image pixels, and the height of the joint's heatmap. A box without area inside the
            picture gives NaN points of height 0.

        Raises:
            KdlibError: If the picture cannot be read or is no such array, or the boxes are no such numbers.
        """
        pixels = _pixels(image)
        found = _boxes(boxes, pixels)
        kept = np.flatnonzero((clip_boxes(found, _sizes(pixels, found))[:, 2:] > 0).all(axis=1))
        keypoints = np.full((len(found), self.joints, 3), np.nan)
        keypoints[..., 2] = 0
        for start in range(0, len(kept), batch_size):
            rows = kept[start : start + batch_size]
            points, heights = self.points(*crop_boxes(pixels, found[rows], self.input_size), decoder)
            keypoints[rows, :, :2], keypoints[rows, :, 2] = points, heights
        return keypoints


class TorchStudent(LoadedStudent):
    """A student of PyTorch: of a checkpoint, or one that is still training.

    Args:
        model: The network. It is used as it is, where it is; in evaluation mode while it predicts.
        readout: How its maps are read.
        input_size: Width and height of its crops.
        name: How reports call it.
        backbone: What it was built from, see `kdlib.students.networks.build_student`.
        head: The same.
    """

    def __init__(
        self,
        model: Student,
        readout: Readout,
        input_size: tuple[int, int],
        *,
        name: str = "student",
        backbone: str = "",
        head: str = "",
    ) -> None:
        self.model, self.readout, self.input_size = model, readout, input_size
        self.name, self.backbone, self.head = name, backbone, head
        self.joints = model.joints

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the network's weights are."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def heatmaps(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """See `LoadedStudent.heatmaps`."""
        self.model.eval()
        maps = self.model(normalise_images(torch.as_tensor(crops).to(self.device)))
        heatmaps: NDArray[np.float32] = self.readout.heatmaps(maps).cpu().numpy()
        return heatmaps


class OnnxStudent(LoadedStudent):
    """An exported student under onnxruntime (extra ``[export]``).

    Attributes:
        facts: The file's metadata, text by key.
    """

    device = torch.device("cpu")
    """Where its crops come from; onnxruntime copies them itself."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Open the file.

        Args:
            path: An ONNX file that `python -m train export` wrote.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU only if onnxruntime has one.

        Raises:
            KdlibError: If onnxruntime or the file is missing, or if it is no exported student.
        """
        self.session = _open(path, device)
        self.facts = dict(self.session.get_modelmeta().custom_metadata_map)
        if self.facts.get("format") != FORMAT:
            raise KdlibError(
                f"{path} is no student that `python -m train export` wrote: its metadata lack format {FORMAT!r}"
            )
        self.name, self.input_size = self.facts["run"], parse_size(self.facts["input_size"])
        self.joints = int(self.session.get_outputs()[0].shape[1])
        self.readout = Readout.of_export(self.facts)

    def heatmaps(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """See `LoadedStudent.heatmaps`."""
        if self.facts["input"] == "normalised":
            inputs = np.ascontiguousarray(normalise_images(torch.as_tensor(crops)).numpy())
        else:
            inputs = np.ascontiguousarray(crops)
        heatmaps: NDArray[np.float32] = self.session.run(None, {INPUT: inputs})[0]
        return heatmaps


def load_student(path: str | Path, device: str = "auto") -> LoadedStudent:
    """Load a run's checkpoint (``best.pt``) or an exported student (``.onnx``).

    Raises:
        KdlibError: If the file is missing or is neither, or there is no such device.
    """
    path = Path(path)
    return OnnxStudent(path, device) if path.suffix == ".onnx" else load_checkpoint(path, device)


def load_checkpoint(path: Path, device: str = "cpu") -> TorchStudent:
    """Rebuild the student of a checkpoint, in evaluation mode: the average of its weights where the run kept one.

    Raises:
        KdlibError: If the file is missing or is no checkpoint, or there is no such device.
    """
    where, content = choose_device(device), read(path)
    recipe, input_size = content["recipe"], parse_size(content["input_size"])
    stride = recipe.get("stride", 4)  # absent from the first checkpoints, whose maps all had HRNet's
    model = build_student(recipe["student"], recipe["head"], content["joints"], input_size, stride)
    model.load_state_dict(fold_norms(content.get("ema", content["model"])))
    return TorchStudent(
        model.eval().to(where),
        Readout.of(content["supervision"]),
        input_size,
        name=content["name"],
        backbone=recipe["student"],
        head=recipe["head"],
    )


def crop_boxes(
    pixels: NDArray[np.uint8], boxes: NDArray[np.float64], input_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut persons out of a picture, as HRNet's evaluation does.

    Args:
        pixels: (H, W, 3) uint8, in any order of colours.
        boxes: (N, 4) x, y, width, height in image pixels, each with some area inside the picture.
        input_size: Width and height of the crops.

    Returns:
        Crops (N, height, width, 3) uint8, and affines (N, 2, 3) from image pixels to crop pixels.
    """
    centers, sizes = box_to_region(clip_boxes(boxes, _sizes(pixels, boxes)), input_size)
    affines = np.empty((len(boxes), 2, 3))
    crops = np.empty((len(boxes), input_size[1], input_size[0], 3), np.uint8)
    for i in range(len(boxes)):
        affines[i] = region_affine(centers[i], sizes[i], input_size)
        crops[i] = warp_image(pixels, affines[i], input_size)
    return crops, affines


def _sizes(pixels: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N, 2) width and height of the picture, for each box."""
    return np.tile(np.array(pixels.shape[1::-1]), (len(boxes), 1))


def _pixels(image: NDArray[np.uint8] | str | Path) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        try:
            return decode_image(Path(image).read_bytes(), upright=True)
        except OSError as error:
            raise KdlibError(f"cannot read the picture {image}: {error.strerror}") from error
        except UnreadableImageError as error:
            raise KdlibError(f"{image} {error}") from error
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise KdlibError(f"a picture is an array (H, W, 3) of uint8 RGB, got {pixels.shape} of {pixels.dtype}")
    return pixels


def _boxes(boxes: ArrayLike | None, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    height, width = pixels.shape[:2]
    found = np.array([[0, 0, width, height]] if boxes is None else boxes, np.float64)
    if found.size == 0:
        return found.reshape(0, 4)
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
        raise KdlibError(f"boxes are finite numbers (N, 4): x, y, width, height; got an array {found.shape}")
    return found


def _open(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise KdlibError(f"{path} needs onnxruntime: {INSTALL}") from error
    if not path.is_file():
        raise KdlibError(f"no student at {path}; make one with `python -m train export`, or `make export`")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers(device, onnxruntime))
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise KdlibError(f"onnxruntime cannot open {path}: {str(error).splitlines()[0]}") from error


def _providers(device: str, onnxruntime: Any) -> list[Any]:
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if not has_cuda:
        raise KdlibError(f"this onnxruntime has no CUDA, {device} was asked for; install onnxruntime-gpu or use cpu")
    index = choose_device(device).index or 0
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]
