"""Published weights: downloaded once, verified, and found by name.

    load_teacher("hrnet_w48_384x288")                      # network and input size (height x width) in one name
    load_teacher("hrnet_w48", input_size=(288, 384))       # the same
    load_teacher("hrnet_w48_coco_wholebody_384x288", ...)  # other joints than COCO's are in the name, too

An architecture lists its published weights (`Architecture.published`). Files are kept in torch's hub folder
(`$TORCH_HOME` or `~/.cache/torch`, then `hub/checkpoints`), which mmpose uses too.
"""

import dataclasses
from pathlib import Path

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
