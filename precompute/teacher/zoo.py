"""Published weights: downloaded once, verified, and found by name.

    load_teacher("hrnet_w48_384x288")                      # network and input size (height x width) in one name
    load_teacher("hrnet_w48", input_size=(288, 384))       # the same

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
    """Published AP in percent."""

    @property
    def name(self) -> str:
        """The name for the command line: network and input size (height x width)."""
        return f"{self.network}_{self.input_size[1]}x{self.input_size[0]}"


def weights_file(published: Published) -> Path:
    """Download the file if it is not in torch's hub folder, and return its path.

    Raises:
        DownloadError: If the download fails, or if the file does not have the size or digest of `published`.
    """
    try:
        return download(published.remote, Path(torch.hub.get_dir()) / "checkpoints" / published.remote.name)
    except DownloadError as error:
        raise DownloadError(f"{error}. If you have the weights already, give the file: --checkpoint FILE") from error
