"""Published weights: downloaded once, verified, and found by name.

    load_teacher("hrnet_w48_384x288")                      # network and input size (height x width) in one name
    load_teacher("hrnet_w48", input_size=(288, 384))       # the same
    load_teacher("hrnet_w48_coco_wholebody_384x288", ...)  # other joints than COCO's are in the name, too

An architecture lists its published weights (`Architecture.published`). Files are kept in torch's hub folder
(`$TORCH_HOME` or `~/.cache/torch`, then `hub/checkpoints`), which mmpose uses too.
"""

import dataclasses
from pathlib import Path
from typing import Final

import torch

from precompute.fetch.download import DownloadError, RemoteFile, download


@dataclasses.dataclass(frozen=True)
class Published:
    """Published weights of one network at one input size."""

    network: str
    """One of `Architecture.names`."""
    input_size: tuple[int, int]
    """Width and height in pixels."""
    remote: RemoteFile
    """Address of the file, with its digest."""
    ap: float
    """Published score in percent, of the metric `metric`."""
    skeleton: str = "coco"
    """Built-in skeleton whose joints it predicts."""
    metric: str = "AP"
    """The metric of the score."""
    variant: str = ""
    """How its training differs from the usual one of that network, e.g. `dark`."""

    @property
    def name(self) -> str:
        """The name for the command line: network, joints if they are not COCO's, and input size (height x width)."""
        joints = "" if self.skeleton == "coco" else f"_{self.skeleton}"
        return f"{self.network}{joints}_{self.input_size[1]}x{self.input_size[0]}{self.variant and f'_{self.variant}'}"


def weights_file(published: Published) -> Path:
    """Download the file if it is not in torch's hub folder, and return its path.

    Raises:
        DownloadError: If the download fails, or if the file does not have the size or digest of `published`.
    """
    try:
        return download(published.remote, Path(torch.hub.get_dir()) / "checkpoints" / published.remote.name)
    except DownloadError as error:
        raise DownloadError(f"{error}. If you have the weights already, give the file: --checkpoint FILE") from error


SITE: Final = "https://download.openmmlab.com/mmpose"
"""mmpose's checkpoints (Apache-2.0). Each was trained on one data set, whose own licence applies."""


def _coco(network: str, size: tuple[int, int], batch: str, stamp: str, ap: float) -> Published:
    """Weights of mmpose. AP is on COCO val2017 with a detector of person AP 56.4 and flip test (hrnet_coco.md)."""
    file = f"td-hm_{network.replace('_', '-')}_{batch}-210e_coco-{size[1]}x{size[0]}-{stamp}.pth"
    return Published(network, size, _file(f"v1/body_2d_keypoint/topdown_heatmap/coco/{file}"), ap)


def _other(
    folder: str, network: str, skeleton: str, size: tuple[int, int], stamp: str, score: float, metric: str = "AP"
) -> Published:
    """Weights of mmpose for other joints; the score is that of the model index of their configurations."""
    variant, _, digest = stamp.rpartition("-")
    end = f"_{variant}-{digest}" if variant else f"-{digest}"
    file = f"{folder}/{network}_{skeleton}_{size[1]}x{size[0]}{end}.pth"
    return Published(network, size, _file(file), score, skeleton, metric, variant)


def _file(path: str) -> RemoteFile:
    """A file of mmpose, whose name ends with the first eight digits of its SHA-256, and a date."""
    digest = path.rpartition("-")[2].partition("_")[0]
    return RemoteFile(f"{SITE}/{path}", digest=("sha256", digest))


_TALL, _LARGE, _SQUARE = (192, 256), (288, 384), (256, 256)
MMPOSE: Final = (
    _coco("hrnet_w32", _TALL, "8xb64", "81c58e40_20220909", 74.9),
    _coco("hrnet_w32", _LARGE, "8xb64", "ca5956af_20220909", 76.1),
    _coco("hrnet_w48", _TALL, "8xb32", "0e67c616_20220913", 75.6),
    _coco("hrnet_w48", _LARGE, "8xb32", "c161b7de_20220915", 76.7),
    _other("top_down/hrnet", "hrnet_w32", "coco_wholebody", _TALL, "853765cd_20200918", 53.6),
    _other("top_down/hrnet", "hrnet_w32", "coco_wholebody", _LARGE, "78cacac3_20200922", 58.6),
    _other("top_down/hrnet", "hrnet_w48", "coco_wholebody", _TALL, "643e18cb_20200922", 57.9),
    _other("top_down/hrnet", "hrnet_w48", "coco_wholebody", _LARGE, "6e061c6a_20200922", 63.2),
    _other("top_down/hrnet", "hrnet_w32", "coco_wholebody", _TALL, "dark-469327ef_20200922", 58.2),
    _other("top_down/hrnet", "hrnet_w48", "coco_wholebody", _LARGE, "dark-f5726563_20200918", 66.1),
    _other("top_down/hrnet", "hrnet_w32", "crowdpose", _TALL, "960be101_20201227", 67.5),
    _other("top_down/hrnet", "hrnet_w32", "aic", _TALL, "30a4e465_20200826", 32.3),
    _other("top_down/hrnet", "hrnet_w32", "mpii", _SQUARE, "6c4f923f_20200812", 90.0, "PCKh"),
    _other("top_down/hrnet", "hrnet_w48", "mpii", _SQUARE, "92cab7bd_20200812", 90.1, "PCKh"),
    _other("top_down/hrnet", "hrnet_w32", "mpii", _SQUARE, "dark-f1601c5b_20200927", 90.4, "PCKh"),
    _other("top_down/hrnet", "hrnet_w48", "mpii", _SQUARE, "dark-0decd39f_20200927", 90.5, "PCKh"),
    _other("animal/hrnet", "hrnet_w32", "ap10k", _SQUARE, "18aac840_20211029", 72.2),
    _other("animal/hrnet", "hrnet_w48", "ap10k", _SQUARE, "d95ab412_20211029", 72.8),
    _other("hand/hrnetv2", "hrnetv2_w18", "coco_wholebody_hand", _SQUARE, "1c028db7_20210908", 81.3, "PCK@0.2"),
    _other("hand/dark", "hrnetv2_w18", "coco_wholebody_hand", _SQUARE, "dark-a9228c9c_20210908", 81.4, "PCK@0.2"),
    _other("face/hrnetv2", "hrnetv2_w18", "coco_wholebody_face", _SQUARE, "c1ca469b_20210909", 5.69, "NME"),
    _other("face/darkpose", "hrnetv2_w18", "coco_wholebody_face", _SQUARE, "dark-3d9a334e_20210909", 5.13, "NME"),
)
"""HRNets of mmpose, from the model index of its repository."""
