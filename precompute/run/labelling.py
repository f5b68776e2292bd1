"""`label`: the one-time run as a function, for a teacher that is any Python function from crops to heatmaps.

The function maps crops (B, H, W, 3) uint8 RGB to heatmaps (B, K, h, w). docs/extending.md has an example.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import cache
from cache.files.location import local_target
from kdlib.inputs.orientation import MODES
from kdlib.skeletons.skeleton import Skeleton
from precompute.data.folder import to_coco_split
from precompute.errors import PrecomputeError
from precompute.run.flags import build_parser
from precompute.run.job import Job, sample_crops
from precompute.run.store import Written, write_store
from precompute.run.team import SingleProcess
from precompute.teacher.joints import Agreement, JointFlags, agree
from precompute.teacher.loading import Teacher
from precompute.teacher.onnx_io import beyond_heatmaps

UNKNOWN: Final = "unknown"
"""Device and precision of a function, unless the caller states them."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
Function = Callable[[NDArray[np.uint8]], Any]
"""Maps crops (B, H, W, 3) uint8 RGB to heatmaps (B, K, h, w), as a numpy array or a torch tensor."""


def label(  # noqa: PLR0913 - the flags of the command
    *,
    store: str | Path,
    teacher: Function,
    input_size: tuple[int, int],
    name: str,
    version_hash: str,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    data: str | Path | None = None,
    split: str = "train",
    boxes: str | Path | None = None,
    category: str | None = None,
    skeleton: Skeleton | str | Path | None = None,
    unlabelled: bool = False,
    exif: str | None = None,
    limit: int | None = None,
    skip_missing: bool = False,
    views: int | None = None,
    flip_test: bool | None = None,
    seed: int = 0,
    udp: bool = False,
    any_values: bool = False,
    teacher_skeleton: Skeleton | str | Path | None = None,
    joints_from_teacher: Sequence[str] = (),
    batch_size: int = 32,
    threads: int | None = None,
    codec: str = "root4",
    frames: bool = True,
    frame_scale: float = 1.0,
    resume: bool = False,
    overwrite: bool = False,
    device: str = UNKNOWN,
    precision: str = UNKNOWN,
) -> Written:
    """Run a function once over a data set and write its heatmaps to a store, as ``python -m precompute`` does.

    Images are read ahead and heatmaps are encoded in threads, while the function runs in one other thread. It also gets
    mirrored crops (flip test). Before the run, it is called here with a black crop, which gives the number and the size
    of the heatmaps, and with a few crops of the data, whose values are checked. Progress and notices are printed to
    stderr. Messages name the flags of the command: ``--skip-missing`` is ``skip_missing``.

    Args:
        store: The store to write, ending in ``.zarr`` or ``.h5``.
        teacher: Maps crops (B, H, W, 3) uint8 RGB to heatmaps (B, K, h, w) float, as a numpy array or a torch tensor.
            Heatmap pixel u must lie at crop pixel u W / w, as in HRNet, or with ``udp`` at u (W - 1) / (w - 1). The
            heatmaps must be Gaussians of about height 1, not logits. An exception of the function ends the run, and
            is raised here unchanged.
        input_size: (width, height) of the crops in pixels.
        name: Name of the teacher in the manifest.
        version_hash: SHA-256 of what determines the heatmaps, such as the file of the weights, as 64 hexadecimal
            digits. A run with another hash is not a continuation: ``resume`` refuses it.
        images: Folder of the images of ``annotations``.
        annotations: COCO keypoint annotations.
        data: A data folder, instead of ``images`` and ``annotations``.
        split: The split of ``data``, and its name in the manifest.
        boxes: Boxes to use instead of the annotated ones: COCO detections or annotations.
        category: Category of the annotations whose instances are used; None chooses one.
        skeleton: The joints of the annotations: a `Skeleton`, a built-in name or a TOML file; None takes those that
            the annotations list.
        unlabelled: Include instances without labelled keypoints.
        exif: What to do with EXIF orientations: ``auto``, ``apply`` or ``ignore``; None is ``auto``, or with
            ``resume`` the rule of the store.
        limit: Use only the first instances; None uses all.
        skip_missing: Leave out instances whose image or box cannot be used.
        views: Number of stored views per instance; None is 1.
        flip_test: Average each heatmap with that of the mirrored crop; None does so if ``views`` is None.
        seed: Seed of the random views.
        udp: The network was trained with UDP, see `precompute.data.views.udp_scale`.
        any_values: Also take heatmaps that reach far below 0 or above 1, as logits do.
        teacher_skeleton: The joints of the heatmaps in their order: a `Skeleton`, a built-in name, a TOML file, or
            ``data`` for those of the annotations; None takes 17 heatmaps for COCO's, and others for those of the data.
        joints_from_teacher: The joints that a function which computes more is cut to; see
            `precompute.teacher.joints.JointFlags`.
        batch_size: Instances per call of the function; a store's views and mirrors are separate calls.
        threads: Threads that read images, and threads that encode heatmaps; None takes one per core.
        codec: Codec of the heatmaps.
        frames: Store the pixels of each instance. Without them, training needs the images.
        frame_scale: Frame pixels per crop pixel.
        resume: Continue an interrupted run. A finished store is compared with this run and kept.
        overwrite: Start again; an existing store is replaced when the new one is complete.
        device: Where the function computes, for the manifest, e.g. ``cuda:0``.
        precision: In which precision it computes, for the manifest, e.g. ``fp16``.

    Returns:
        The store's path, the metrics of the teacher as measured from the store, and the instances that were left out.

    Raises:
        PrecomputeError: If an argument, a file, an image or the heatmaps cannot be used, or the run was interrupted.
        cache.StoreError: If the store cannot be created, resumed or written.
    """
    _check_arguments(name, version_hash, exif, limit=limit, views=views, batch_size=batch_size, threads=threads)
    if len(input_size) != 2 or not all(isinstance(side, int) and side > 0 for side in input_size):
        raise PrecomputeError(f"input_size must be (width, height) in pixels, got {input_size!r}")
    path = local_target(store, "precompute.label(store=...) with")
    given = {
        "store": path,
        "images": _path(images),
        "annotations": _path(annotations),
        "data": _path(data),
        "split": to_coco_split(split),
        "boxes": _path(boxes),
        "category": category,
        "skeleton": str(skeleton) if isinstance(skeleton, Path) else skeleton,
        "unlabelled": unlabelled,
        "exif": exif,
        "limit": limit,
        "skip_missing": skip_missing,
        "views": views,
        "flip_test": flip_test,
        "seed": seed,
        "batch_size": batch_size,
        "threads": threads,
        "no_frames": not frames,
        "frame_scale": frame_scale,
        "resume": resume,
        "overwrite": overwrite,
    }
    arguments = build_parser("").parse_args(["--teacher", name, "--store", str(path)])
    arguments = argparse.Namespace(**{**vars(arguments), **given})
    stored_as = cache.codec_from_name(codec)
    network = FunctionNetwork(teacher, input_size, name)
    stated = teacher_skeleton if isinstance(teacher_skeleton, Skeleton) else None
    flags = JointFlags("" if stated or not teacher_skeleton else str(teacher_skeleton), tuple(joints_from_teacher))
    described = {"weights_sha256": version_hash, "udp": udp, "device": device, "precision": precision}

    def make(joints: Skeleton) -> Teacher:
        return network.to_teacher(joints, agree(name, network.maps, stated, joints, flags), **described)

    threads_of_opencv = cv2.getNumThreads()
    try:
        try:
            job = Job.from_data(arguments, make)
        except ValueError as error:  # its subclasses name what is wrong with a file, a name or a size
            raise PrecomputeError(str(error)) from error
        crops = sample_crops(job).get(job.teacher.crop_kind)
        if crops is not None and not any_values:
            network.check_values(crops[:batch_size])
        written = write_store(
            job, path, stored_as, SingleProcess(), resume=resume and not overwrite, overwrite=overwrite
        )
    finally:
        cv2.setNumThreads(threads_of_opencv)  # the run sets it to 1
    if written is None:
        raise AssertionError("a process without others gets the result")
    return written


class FunctionNetwork:
    """Calls a function as a network, and checks what it returns.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the heatmaps.
        maps: number of heatmaps M.
    """

    def __init__(self, function: Function, input_size: tuple[int, int], name: str) -> None:
        """Call the function on a black crop to find the number and the size of its heatmaps.

        Raises:
            PrecomputeError: If it does not return heatmaps.
        """
        self._function, self._name, self.input_size = function, name, input_size
        width, height = input_size
        maps = self._heatmaps(np.zeros((1, height, width, 3), np.uint8))
        if maps.ndim != 4 or maps.shape[0] != 1 or 0 in maps.shape:
            raise PrecomputeError(
                f"{name} returned {maps.shape} for crops (1, {height}, {width}, 3); heatmaps are (B, K, h, w)"
            )
        _, self.maps, rows, columns = maps.shape
        self.heatmap_size = columns, rows
        if columns * height != rows * width:
            raise PrecomputeError(
                f"{name} returned {rows}x{columns} heatmaps of {height}x{width} crops (height x width); a teacher has "
                "the same stride on both axes"
            )

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute heatmaps (B, M, h, w) float32 from crops (B, H, W, 3) uint8 RGB.

        Raises:
            PrecomputeError: If the function returns another shape than for the first crop.
        """
        maps = self._heatmaps(crops)
        wanted = len(crops), self.maps, *self.heatmap_size[::-1]
        if maps.shape != wanted:
            raise PrecomputeError(f"{self._name} returned {maps.shape} for crops {crops.shape}; expected {wanted}")
        return maps

    def _heatmaps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the function returns, as a float32 array in host memory."""
        found = self._function(crops)
        maps = found.detach().float().cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        if not np.issubdtype(maps.dtype, np.floating):
            raise PrecomputeError(
                f"{self._name} returned {maps.dtype}; heatmaps are floating-point numbers, in a numpy array or a torch "
                "tensor"
            )
        return np.ascontiguousarray(maps, np.float32)

    def check_values(self, crops: NDArray[np.uint8]) -> None:
        """Check that the function computes heatmaps on crops (B, H, W, 3) of the data.

        Raises:
            PrecomputeError: If they are none, see `precompute.teacher.onnx_io.beyond_heatmaps`.
        """
        beyond = beyond_heatmaps(torch.from_numpy(self(crops)))
        if beyond is not None:
            low, high = beyond
            raise PrecomputeError(
                f"the values of {self._name} are not those of heatmaps, which lie between 0 and 1: on images of the "
                f"data, the median map has {low:.3g} to {high:.3g}. For logits, apply a sigmoid in the function; to "
                "store the values as they are, give any_values=True"
            )

    def to_teacher(self, joints: Skeleton, agreement: Agreement, **described: Any) -> Teacher:
        """The teacher of data with these joints.

        Args:
            joints: The joints of the data.
            agreement: Which of the heatmaps these are.
            described: Further attributes of `Teacher`.
        """
        return Teacher(
            name=self._name,
            input_size=self.input_size,
            heatmap_size=self.heatmap_size,
            joints=len(joints),
            network=self,
            normalisation=None,
            skeleton=joints,
            agreement=agreement,
            **described,
        )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _check_arguments(name: str, version_hash: str, exif: str | None, **counts: int | None) -> None:
    """Raise `PrecomputeError` for values that the command's parser would refuse."""
    if not name or not name.isprintable():
        raise PrecomputeError(f"name must be printable text, got {name!r}")
    if not _SHA256.fullmatch(version_hash):
        raise PrecomputeError(
            f"version_hash must be a SHA-256 of 64 hexadecimal digits, got {version_hash!r:.80}; for a file: "
            "hashlib.sha256(Path(FILE).read_bytes()).hexdigest()"
        )
    if exif not in (None, *MODES):
        raise PrecomputeError(f"exif must be one of {', '.join(MODES)} or None, got {exif!r}")
    for flag, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise PrecomputeError(f"{flag} must be a whole number of at least 1, got {count!r}")
