"""What goes into an ONNX file and what comes out: pixels and their normalisation; heatmaps, logits, or SimCC.

Axes: B batch, M heatmaps of the network, H x W crop, h x w heatmap. SimCC networks (Li et al. 2022, arXiv 2107.03332;
RTMPose, RTMW) compute two vectors per joint instead of a heatmap: one over columns and one over rows, with s values
("bins") per pixel of the crop. Bin i lies at input pixel i / s.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from kdlib.geometry import STRIDE
from kdlib.images import IMAGENET_MEAN, IMAGENET_STD, normalise_images
from precompute.teacher.weights_file import CheckpointError

ACTIVATIONS: Final = ("none", "sigmoid", "softmax")
"""What `--activation` can be."""
LOWEST, HIGHEST = -1.0, 2.0
"""Heatmaps lie between 0 and 1, up to the error of a regression. Values beyond these are not heatmaps."""
Size = tuple[int, int]
Statistics = tuple[float, float, float]


def beyond_heatmaps(maps: Tensor) -> tuple[float, float] | None:
    """The lowest and highest value of the median map of (B, M, h, w), if below `LOWEST` or above `HIGHEST`; or None.

    Logits reach far beyond the values of heatmaps.
    """
    values = maps.flatten(2)
    low, high = (float(extreme.nanmedian()) for extreme in (values.amin(-1), values.amax(-1)))
    return (low, high) if low < LOWEST or high > HIGHEST else None


@dataclass(frozen=True)
class OnnxFlags:
    """What the user states about the input and output of ONNX files."""

    mean: Statistics | None = None
    """`--mean`, of pixels scaled to 0..1, in the channel order of the network; None is ImageNet's."""
    std: Statistics | None = None
    """`--std`, likewise."""
    bgr: bool = False
    """`--bgr`: the network takes the channels as BGR."""
    activation: str = ""
    """`--activation`, one of `ACTIVATIONS`; empty applies none, and refuses values that are not those of heatmaps."""


AS_USUAL: Final = OnnxFlags()
"""No flag: the network takes RGB with ImageNet's normalisation, and computes heatmaps."""


@dataclass(frozen=True)
class Pixels:
    """How crops become the input of a network."""

    mean: Statistics
    std: Statistics
    bgr: bool
    is_last: bool
    """Whether the channels are the last axis of the input: (B, H, W, 3)."""
    dtype: torch.dtype
    """That of the input: float32, float16, or uint8, which gets pixels that are not normalised."""

    @classmethod
    def choose(cls, dtype: torch.dtype, is_last: bool, flags: OnnxFlags, path: object) -> "Pixels":
        """The pixels of a file's input.

        Raises:
            ValueError: If a flag states a normalisation for an input of uint8.
        """
        if dtype == torch.uint8:
            if flags.mean or flags.std:
                raise ValueError(f"{path} takes uint8 pixels and normalises them; leave out --mean and --std")
            return cls((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), flags.bgr, is_last, dtype)
        return cls(flags.mean or IMAGENET_MEAN, flags.std or IMAGENET_STD, flags.bgr, is_last, dtype)

    def images(self, crops: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), float32 or uint8, from crops (B, H, W, 3) uint8 RGB."""
        ordered = crops.flip(-1) if self.bgr else crops
        if self.dtype == torch.uint8:
            return ordered.permute(0, 3, 1, 2)
        return normalise_images(ordered, self.mean, self.std)

    def arrange(self, images: Tensor) -> Tensor:
        """The input of the network from images (B, 3, H, W)."""
        return (images.permute(0, 2, 3, 1) if self.is_last else images).to(self.dtype).contiguous()


class Output(abc.ABC):
    """How the outputs of a network become heatmaps.

    Attributes:
        maps: number of heatmaps M.
        size: (width, height) of the heatmaps.
        activation: one of `ACTIVATIONS`, or empty; see `OnnxFlags.activation`.
    """

    maps: int
    size: Size
    activation: str

    @abc.abstractmethod
    def heatmaps(self, outputs: Sequence[Tensor]) -> Tensor:
        """Heatmaps (B, M, h, w) float32 from the outputs of the network."""

    @abc.abstractmethod
    def check(self, outputs: Sequence[Tensor], where: object) -> None:
        """Raise `CheckpointError` for outputs on real crops that need an activation."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The entries of the manifest; none for heatmaps that are kept as they are."""

    def _entry(self) -> dict[str, Any]:
        return {"activation": self.activation} if self.activation not in ("", "none") else {}


class Maps(Output):
    """One output (B, M, h, w), or (B, h, w, M) where the shape of the crops shows it."""

    def __init__(self, shape: Sequence[int], input_size: Size, activation: str, where: object) -> None:
        """Find the axes of the output.

        Args:
            shape: That of the output of one crop.
            input_size: (width, height) of the crop.
            activation: See `Output`.
            where: The file, for messages.

        Raises:
            CheckpointError: If the output holds no heatmaps with one stride on both axes.
            ValueError: If the activation is for SimCC.
        """
        if activation == "softmax":
            raise ValueError(f"--activation softmax is for the outputs of SimCC networks, and {where} computes maps")
        count, first, second, third = shape
        width, height = input_size
        if count != 1:
            raise CheckpointError(f"{where} computes {count} sets of heatmaps of one crop; a teacher computes one")
        self._is_last = third * height != second * width and second * height == first * width
        self.maps, rows, columns = (third, first, second) if self._is_last else (first, second, third)
        if columns * height != rows * width:
            raise CheckpointError(
                f"{where} computes {rows}x{columns} heatmaps of {height}x{width} crops (height x width); "
                "a teacher has the same stride on both axes"
            )
        self.size, self.activation = (columns, rows), activation

    def heatmaps(self, outputs: Sequence[Tensor]) -> Tensor:
        """Heatmaps (B, M, h, w) float32 from the output, after the activation."""
        (values,) = outputs
        maps = (values.permute(0, 3, 1, 2).contiguous() if self._is_last else values).float()
        return maps.sigmoid() if self.activation == "sigmoid" else maps

    def check(self, outputs: Sequence[Tensor], where: object) -> None:
        """Raise `CheckpointError` if the median heatmap reaches below `LOWEST` or above `HIGHEST`."""
        if self.activation:
            return
        beyond = beyond_heatmaps(self.heatmaps(outputs))
        if beyond is not None:
            low, high = beyond
            raise CheckpointError(
                f"the values of {where} are not those of heatmaps, which lie between 0 and 1: on photographs of the "
                f"data, the median map has {low:.3g} to {high:.3g}. For logits, which a sigmoid turns into heatmaps, "
                "give --activation sigmoid; to store the values as they are, --activation none"
            )

    def to_json(self) -> dict[str, Any]:
        """The activation, if there is one."""
        return self._entry()


class Simcc(Output):
    """Two outputs, (B, M, W s) over columns and (B, M, H s) over rows: each pair becomes one heatmap.

    The heatmap is the outer product of the two vectors, without their negative values, resampled to pixels of
    `kdlib.geometry.STRIDE`. Each bin is shared between its two nearest pixels by distance, which keeps the mean
    position. The peak of the heatmap is the network's own score of the joint: the smaller one of the two maxima
    (mmpose's ``get_simcc_maximum``). A joint whose score is 0 or less has a heatmap of zeros.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], input_size: Size, activation: str, where: object) -> None:
        """Check the outputs.

        Args:
            shapes: Those of the two outputs of one crop, columns first.
            input_size: (width, height) of the crop.
            activation: See `Output`.
            where: The file, for messages.

        Raises:
            CheckpointError: If the outputs are not those of a SimCC network.
        """
        (count, self.maps, columns), (rows_count, rows_maps, rows) = shapes
        width, height = input_size
        if (count, self.maps) != (rows_count, rows_maps) or columns * height != rows * width or count != 1:
            raise CheckpointError(
                f"{where} computes {tuple(shapes[0])} and {tuple(shapes[1])} of a {height}x{width} crop (height x "
                "width); a SimCC network computes (1, K, width * s) and (1, K, height * s)"
            )
        if width % STRIDE or height % STRIDE:
            raise CheckpointError(f"{where} takes {height}x{width} crops (height x width); multiples of 4 are needed")
        self.size, self.activation = (width // STRIDE, height // STRIDE), activation
        self.bins = (columns, rows)
        self._shares = [_shares(bins, pixels) for bins, pixels in zip(self.bins, self.size, strict=True)]

    def heatmaps(self, outputs: Sequence[Tensor]) -> Tensor:
        """Heatmaps (B, M, h, w) float32 from the vectors over columns and over rows."""
        vectors = [self._activate(values.float()) for values in outputs]
        score = torch.minimum(*(vector.amax(-1) for vector in vectors)).clamp(min=0)
        self._shares = [shares.to(score.device) for shares in self._shares]
        across, down = (
            _peak_one(vector.clamp(min=0) @ shares) for vector, shares in zip(vectors, self._shares, strict=True)
        )
        return (score[..., None] * down)[..., :, None] * across[..., None, :]

    def check(self, outputs: Sequence[Tensor], where: object) -> None:
        """Raise `CheckpointError` if the median score is above `HIGHEST`."""
        scores = torch.minimum(*(values.float().amax(-1) for values in outputs))
        if not self.activation and float(scores.nanmedian()) > HIGHEST:
            raise CheckpointError(
                f"the scores of {where} are not between 0 and 1: on photographs of the data, the median is "
                f"{float(scores.nanmedian()):.3g}. For logits, which a softmax turns into distributions, give "
                "--activation softmax; to store the values as they are, --activation none"
            )

    def to_json(self) -> dict[str, Any]:
        """That the heatmaps come from SimCC, and the activation, if there is one."""
        how = "outer product, linear resampling, peak = the smaller maximum"
        return {"simcc": {"bins": list(self.bins), "heatmaps": how}, **self._entry()}

    def _activate(self, values: Tensor) -> Tensor:
        if self.activation == "softmax":
            return values.softmax(-1)
        return values.sigmoid() if self.activation == "sigmoid" else values


def _shares(bins: int, pixels: int) -> Tensor:
    """(bins, pixels) float32: the share of each bin in each heatmap pixel; rows sum to 1."""
    places = (torch.arange(bins, dtype=torch.float64) * pixels / bins).clamp(max=pixels - 1)
    distances = (places[:, None] - torch.arange(pixels, dtype=torch.float64)).abs()
    return (1 - distances).clamp(min=0).float()


def _peak_one(vectors: Tensor) -> Tensor:
    """Vectors (..., n) scaled so that the largest value of each is 1; vectors of zeros stay zeros."""
    peaks = vectors.amax(-1, keepdim=True)
    return vectors / torch.where(peaks > 0, peaks, 1)


def order_simcc(names: Sequence[str], sizes: Sequence[Any], input_size: Size) -> list[int]:
    """Which of the two outputs of a SimCC network is over columns, and which over rows: their numbers, columns first.

    The sizes decide if the crop is not square; otherwise the names do, if they end with x and y.

    Args:
        names: Those of the outputs.
        sizes: Number of bins of each.
        input_size: (width, height) of the crop.
    """
    width, height = input_size
    if width != height:
        return [0, 1] if (sizes[0] < sizes[1]) == (width < height) else [1, 0]
    return [1, 0] if names[0].lower().endswith("y") and names[1].lower().endswith("x") else [0, 1]
