"""HRNet's published pose weights by name, downloaded once and verified: mmpose's checkpoints of COCO.

    load_teacher("hrnet_w48_384x288")                      name and size in one
    load_teacher("hrnet_w48", input_size=(288, 384))       the same

Files lie in torch's hub folder (``$TORCH_HOME`` or ``~/.cache/torch``, then ``hub/checkpoints``), where mmpose keeps
them too. Each file's name carries the first eight digits of its SHA-256. The official HRNet repository publishes its
weights through link collections that no program can follow: give those files by path.
"""

import dataclasses
from pathlib import Path
from typing import Final

import torch

from precompute.fetch.download import DownloadError, RemoteFile, download

SITE: Final = "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco"
LICENCE: Final = "Apache-2.0 (mmpose), trained on COCO"


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights of one network at one input size."""

    network: str
    """Key of `precompute.teacher.hrnet.HRNETS`."""
    input_size: tuple[int, int]
    """Width and height."""
    file: str
    ap: float
    """As published: COCO val2017, detector of human AP 56.4, flip test (mmpose, hrnet_coco.md)."""

    @property
    def remote(self) -> RemoteFile:
        """The file, with the beginning of its digest as its name has it."""
        digest = self.file.rsplit("_", 1)[0].rsplit("-", 1)[-1]
        return RemoteFile(f"{SITE}/{self.file}", digest=("sha256", digest))


def _published(network: str, size: tuple[int, int], batch: str, stamp: str, ap: float) -> Published:
    text = f"{size[1]}x{size[0]}"
    file = f"td-hm_{network.replace('_', '-')}_{batch}-210e_coco-{text}-{stamp}.pth"
    return Published(network, size, file, ap)


_ALL = (
    _published("hrnet_w32", (192, 256), "8xb64", "81c58e40_20220909", 74.9),
    _published("hrnet_w32", (288, 384), "8xb64", "ca5956af_20220909", 76.1),
    _published("hrnet_w48", (192, 256), "8xb32", "0e67c616_20220913", 75.6),
    _published("hrnet_w48", (288, 384), "8xb32", "c161b7de_20220915", 76.7),
)
ZOO: Final = {f"{p.network}_{p.input_size[1]}x{p.input_size[0]}": p for p in _ALL}
"""Published weights by the name that commands use: network and input size (height x width)."""


def find(network: str, input_size: tuple[int, int] | None) -> Published | None:
    """The published weights of a network at that size (width, height), if there are any."""
    return next((p for p in _ALL if p.network == network and p.input_size == input_size), None)


def weights_file(published: Published) -> Path:
    """Where the file lies on this machine, after the download where it is needed.

    Raises:
        DownloadError: If it cannot be had or is not that file.
    """
    try:
        return download(published.remote, Path(torch.hub.get_dir()) / "checkpoints" / published.file)
    except DownloadError as error:
        raise DownloadError(
            f"{error}. Weights that are on this machine already need no network: --checkpoint FILE"
        ) from error
