"""Loading a trained student from its file, and predicting keypoints with it.

    student = load_student("runs/distilled/best.pt")    # or an exported student.onnx
    keypoints = student.predict("photo.jpg", boxes=[[48, 20, 180, 400]])    # (1, 17, 3)

`LoadedStudent` is the interface; `TorchStudent` runs in PyTorch, `OnnxStudent` in onnxruntime.
"""

import abc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kdlib.errors import KdlibError
from kdlib.geometry import box_to_region, clip_boxes, parse_size, region_affine
from kdlib.heatmaps import DECODERS
from kdlib.images import UnreadableImageError, decode_image, normalise_images
from kdlib.inputs.orientation import UPRIGHT
from kdlib.machine.device import choose_device
from kdlib.metrics.evaluation import decode_to_image
from kdlib.readout import DECODER, Readout
from kdlib.resample.exact import warp_image
from kdlib.skeletons.reading import ENTRY, flip_pairs_by_name, numbered, skeleton_of
from kdlib.skeletons.skeleton import COCO, Skeleton
from kdlib.students.checkpoint import LEGACY_DEFAULTS, describe_misfit, read
from kdlib.students.networks import Student, build_student
from kdlib.students.norms import fold_norms
from kdlib.students.release import student_file

FORMAT: Final = "pose-student-1"
"""Entry ``format`` in the metadata of an exported student."""
INPUT: Final = "image"
"""Name of an exported student's input."""
OUTPUT: Final = "heatmaps"
"""Name of an exported student's output."""
INSTALL: Final = "pip install -e '.[export]'"
"""Command that installs the packages for exported students."""


class LoadedStudent(abc.ABC):
    """A trained student that predicts keypoints.

    Attributes:
        name: Its name in reports.
        input_size: Width and height of its crops in pixels.
        joints: Number of joints K.
        skeleton: The K joints.
        readout: How its maps are read.
        device: The device on which `heatmaps` takes crops as tensors.
    """

    name: str
    input_size: tuple[int, int]
    joints: int
    skeleton: Skeleton
    readout: Readout
    device: torch.device

    @abc.abstractmethod
    def heatmaps(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Heatmaps (B, K, H, W) of crops (B, height, width, 3) uint8 RGB; pixel u lies at crop pixel stride * u."""

    def points(
        self, crops: NDArray[np.uint8] | Tensor, affines: NDArray[np.float64], decoder: str = DECODER
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Decode the heatmaps of crops.

        Args:
            crops: (B, height, width, 3) uint8 RGB.
            affines: (B, 2, 3) image pixels to crop pixels, see `crop_boxes`.
            decoder: ``dark`` or ``argmax``.

        Returns:
            Points (B, K, 2) as x, y in image pixels, and the maxima (B, K) of the heatmaps.
        """
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
        """Predict the keypoints of the instances in one image.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of an image file. Its EXIF orientation is applied, as
                `python -m train predict` does for images without annotations: boxes and keypoints are in the pixels of
                the upright image, as viewers show it. For boxes in the pixels as they are stored, give an array, e.g.
                of ``kdlib.images.decode_image(content)``.
            boxes: (N, 4) x, y, width, height of the instances in image pixels. None takes the whole image as one box.
            decoder: ``dark`` (sub-pixel) or ``argmax`` (HRNet's quarter-pixel offset).
            batch_size: Instances per forward pass of the network.

        Returns:
            (N, K, 3) float64: x and y in image pixels, and the maximum of the joint's heatmap. Where a box has no area
            inside the image, x and y are NaN and the maximum is 0.

        Raises:
            KdlibError: If the image cannot be read or is another kind of array, the boxes are not finite numbers
                (N, 4), the decoder is unknown, or the batch size is not positive.
        """
        if decoder not in DECODERS:
            raise KdlibError(f"unknown decoder {decoder!r}; choose {', '.join(DECODERS)}")
        if batch_size < 1:
            raise KdlibError(f"the batch size must be positive, got {batch_size}")
        pixels = _read_pixels(image)
        checked = _check_boxes(boxes, pixels)
        inside = np.flatnonzero((clip_boxes(checked, _image_sizes(pixels, checked))[:, 2:] > 0).all(axis=1))
        keypoints = np.full((len(checked), self.joints, 3), np.nan)
        keypoints[..., 2] = 0
        for start in range(0, len(inside), batch_size):
            rows = inside[start : start + batch_size]
            points, heights = self.points(*crop_boxes(pixels, checked[rows], self.input_size), decoder)
            keypoints[rows, :, :2], keypoints[rows, :, 2] = points, heights
        return keypoints


class TorchStudent(LoadedStudent):
    """A student that runs in PyTorch: one of a checkpoint, or one that is being trained.

    Args:
        model: The network. It is neither copied nor moved to another device; `heatmaps` sets it to evaluation mode.
        readout: How its maps are read.
        input_size: Width and height of its crops in pixels.
        skeleton: Its K joints.
        name: Its name in reports.
        backbone: Name of its backbone, see `kdlib.students.networks.build_student`.
        head: Name of its head.
    """

    def __init__(
        self,
        model: Student,
        readout: Readout,
        input_size: tuple[int, int],
        skeleton: Skeleton = COCO,
        *,
        name: str = "student",
        backbone: str = "",
        head: str = "",
    ) -> None:
        self.model, self.readout, self.input_size = model, readout, input_size
        self.name, self.backbone, self.head = name, backbone, head
        if model.joints != len(skeleton):
            raise KdlibError(
                f"{name} computes {model.joints} heatmaps per instance, and the skeleton {skeleton.name} has "
                f"{len(skeleton)} joints; give the student's skeleton"
            )
        self.joints, self.skeleton = model.joints, skeleton

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device of the network's weights."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def heatmaps(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Heatmaps (B, K, H, W) of crops (B, height, width, 3) uint8 RGB, see `LoadedStudent.heatmaps`."""
        self.model.eval()
        maps = self.model(normalise_images(torch.as_tensor(crops).to(self.device)))
        heatmaps: NDArray[np.float32] = self.readout.heatmaps(maps).cpu().numpy()
        return heatmaps


class OnnxStudent(LoadedStudent):
    """An exported student that runs in onnxruntime (extra ``export``).

    Args:
        path: An ONNX file that `python -m train export` wrote.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` takes a GPU only if onnxruntime supports one.

    Attributes:
        metadata: The metadata of the file, texts by key.

    Raises:
        KdlibError: If onnxruntime or the file is missing, or the file is not an exported student.
    """

    device = torch.device("cpu")
    """Crops are on the CPU; onnxruntime copies them to its own device."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.session = _open_session(path, device)
        self.metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        if self.metadata.get("format") != FORMAT:
            raise KdlibError(
                f"{path} is not a student that `python -m train export` wrote: its metadata lack format {FORMAT!r}"
            )
        try:
            self.name, self.input_size = self.metadata["run"], parse_size(self.metadata["input_size"])
            self.readout = Readout.from_metadata(self.metadata)
            self._is_normalised = self.metadata["input"] == "normalised"
        except (KeyError, ValueError) as error:
            raise KdlibError(f"the metadata of {path} are not those of an exported student: {error}") from error
        self.joints = int(self.session.get_outputs()[0].shape[1])
        self.skeleton = _exported_skeleton(self.metadata, self.joints, path)

    def heatmaps(self, crops: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        """Heatmaps (B, K, H, W) of crops (B, height, width, 3) uint8 RGB, see `LoadedStudent.heatmaps`."""
        if self._is_normalised:
            inputs = np.ascontiguousarray(normalise_images(torch.as_tensor(crops)).numpy())
        else:
            inputs = np.ascontiguousarray(crops)
        heatmaps: NDArray[np.float32] = self.session.run(None, {INPUT: inputs})[0]
        return heatmaps


def _exported_skeleton(metadata: Mapping[str, str], joints: int, path: Path) -> Skeleton:
    """The skeleton of an exported student: the stated one, else that of the names, else numbered joints.

    Files that state none are of COCO's joints, or were written before students of other joints could be exported.
    """
    try:
        stated = {ENTRY: json.loads(metadata[ENTRY])} if ENTRY in metadata else {}
        names = json.loads(metadata.get("joints", "null"))
        limbs = tuple((int(a), int(b)) for a, b in json.loads(metadata.get("limbs", "[]")))
    except (ValueError, TypeError) as error:
        raise KdlibError(f"the metadata of {path} are damaged: {error}") from error
    if stated:
        return skeleton_of(stated, joints, str(path))
    if not isinstance(names, list) or len(names) != joints:
        return numbered(joints)
    known = tuple(map(str, names))
    if known == COCO.joints:
        return COCO
    inside = tuple(limb for limb in limbs if all(0 <= end < joints for end in limb))
    return Skeleton("exported", known, flip_pairs_by_name(known), inside)


def load_student(path: str | Path, device: str = "auto") -> LoadedStudent:
    """Load a run's checkpoint (``best.pt``), an exported student (``.onnx``), or the student of a release folder.

    Args:
        path: A file or a release folder. A file whose name ends in ``.onnx`` is read as an exported student, any other
            as a checkpoint. Of a release folder, all checksums are verified and its checkpoint is loaded; to load
            another of its files, give the file.
        device: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``; ``auto`` takes a GPU if there is one.

    Returns:
        The student; `LoadedStudent.predict` returns keypoints in image pixels.

    Raises:
        KdlibError: If the file is missing or is neither of the two, a release folder is not complete or was changed,
            the file needs a package that is not installed, or there is no such device.
    """
    path = student_file(path)
    return OnnxStudent(path, device) if path.suffix == ".onnx" else load_checkpoint(path, device)


def load_checkpoint(path: Path, device: str = "cpu") -> TorchStudent:
    """Load the student of a checkpoint in evaluation mode, with averaged weights if the run kept an average.

    Raises:
        KdlibError: If the file is missing, is not a checkpoint or does not fit the student that it describes, or there
            is no such device.
    """
    where, content = choose_device(device), read(path)
    try:
        recipe = LEGACY_DEFAULTS | content["recipe"]
        joints, name = content["joints"], content["name"]
        backbone, head, input_size = recipe["student"], recipe["head"], parse_size(content["input_size"])
        readout = Readout.from_supervision(content["supervision"])
        state = fold_norms(content["ema"] if "ema" in content else content["model"])
        skeleton = skeleton_of(content, joints, str(path))
        model = build_student(backbone, head, joints, input_size, recipe["stride"])
    except KdlibError as error:
        raise KdlibError(f"cannot build the student of {path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise KdlibError(f"{path} is not a complete checkpoint of a student: {error!r}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        misfit = describe_misfit(model.state_dict(), state, "student")
        raise KdlibError(f"{path} does not fit its student, {backbone} with the head {head}: {misfit}") from error
    return TorchStudent(model.eval().to(where), readout, input_size, skeleton, name=name, backbone=backbone, head=head)


def crop_boxes(
    pixels: NDArray[np.uint8], boxes: NDArray[np.float64], input_size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Crop instances out of an image, as in HRNet's evaluation.

    Args:
        pixels: (H, W, 3) uint8, in any order of channels.
        boxes: (N, 4) x, y, width, height in image pixels, each with some area inside the image.
        input_size: Width and height of the crops in pixels.

    Returns:
        Crops (N, height, width, 3) uint8, and affines (N, 2, 3) from image pixels to crop pixels.
    """
    centers, sizes = box_to_region(clip_boxes(boxes, _image_sizes(pixels, boxes)), input_size)
    affines = np.empty((len(boxes), 2, 3))
    crops = np.empty((len(boxes), input_size[1], input_size[0], 3), np.uint8)
    for i in range(len(boxes)):
        affines[i] = region_affine(centers[i], sizes[i], input_size)
        crops[i] = warp_image(pixels, affines[i], input_size)
    return crops, affines


def _image_sizes(pixels: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Width and height of the image, once for each box: (N, 2)."""
    return np.tile(np.array(pixels.shape[1::-1]), (len(boxes), 1))


def _read_pixels(image: NDArray[np.uint8] | str | Path) -> NDArray[np.uint8]:
    if isinstance(image, str | Path):
        try:
            content = Path(image).read_bytes()
            return decode_image(content, orientation=UPRIGHT.to_decode(content)[0])
        except OSError as error:
            raise KdlibError(f"cannot read the image {image}: {error.strerror}") from error
        except UnreadableImageError as error:
            raise KdlibError(f"the image {image} {error}") from error
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise KdlibError(
            f"an image must be an array (H, W, 3) of uint8 RGB, got shape {pixels.shape} and dtype {pixels.dtype}"
        )
    return pixels


def _check_boxes(boxes: ArrayLike | None, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The boxes (N, 4) as float64; one box around the whole image where they are None."""
    if boxes is None:
        height, width = pixels.shape[:2]
        return np.array([[0, 0, width, height]], np.float64)
    try:
        numbers = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise KdlibError(f"boxes must be numbers (N, 4), x, y, width, height: {error}") from error
    if numbers.shape in ((0,), (1, 0)):
        return numbers.reshape(0, 4)
    if numbers.ndim != 2 or numbers.shape[1] != 4:
        raise KdlibError(f"boxes must be numbers (N, 4), x, y, width, height; got an array of shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0])
        raise KdlibError(f"boxes must be finite; box {row} is {numbers[row].tolist()}")
    return numbers


def _open_session(path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise KdlibError(f"{path} needs onnxruntime: {INSTALL}") from error
    if not path.is_file():
        raise KdlibError(f"no student at {path}; make one with `python -m train export`, or `make export`")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # log errors only; they are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=_providers(device, onnxruntime))
    except KdlibError:
        raise
    except Exception as error:  # the only common base of onnxruntime's exceptions
        raise KdlibError(f"onnxruntime cannot open {path}: {str(error).splitlines()[0]}") from error


def _providers(device: str, onnxruntime: Any) -> list[Any]:
    """The execution providers of onnxruntime for a device."""
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not has_cuda):
        return ["CPUExecutionProvider"]
    if device.startswith("mps"):
        raise KdlibError("exported students do not run on the GPU of a Mac; give --device cpu, or the run's best.pt")
    if not has_cuda:
        raise KdlibError(f"this onnxruntime does not support CUDA; for {device} install onnxruntime-gpu, or use cpu")
    index = choose_device(device).index or 0
    return [("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0}), "CPUExecutionProvider"]
