"""HRNet for top-down pose: parallel branches at strides 4, 8, 16, 32 that exchange features.

The architecture of Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation" (CVPR
2019), with the parameter names of the official implementation (deep-high-resolution-net.pytorch), so that its
checkpoints load strictly. An `HRNetConfig` describes any width and depth; `HRNETS` names our teachers:

    from precompute.hrnet import build_hrnet
    model = build_hrnet("hrnet_w32", joints=17)
    heatmaps = model(crops)          # (B, 3, H, W) -> (B, K, H/4, W/4), raw regressed maps, no activation

Axes: B batch, C channels, K joints, H rows, W columns. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdlib.images import normalise_images

STRIDE = 4  # input pixels per heatmap pixel


DEEPEST_STRIDE = 32  # of the last branch: input sides must be multiples of it


@dataclass(frozen=True)
class HRNetConfig:
    """The numbers that tell one HRNet from another; everything else is the same in all of them.

    Attributes:
        widths: channels of the branches at strides 4, 8, 16 and 32.
        modules: number of exchange modules in stages 2, 3 and 4.
        blocks: basic blocks a branch runs through in one module.
        stem: channels of the two stride-2 convolutions at the entry.
        stage1_blocks: bottleneck blocks of stage 1 (`layer1`).
        stage1_planes: their inner channels; they put out four times as many.
    """

    widths: tuple[int, int, int, int]
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    stem: int = 64
    stage1_blocks: int = 4
    stage1_planes: int = 64


# W32 and W48 are the pose networks of the paper. The two small ones have the bodies of the official ImageNet
# models "W18-small-v1" and "-v2" (HRNet-Image-Classification, experiments/cls_hrnet_w18_small_v{1,2}_*.yaml).
# The last is the teacher of the embedded sample: small enough to train on a CPU.
HRNETS: dict[str, HRNetConfig] = {
    "hrnet_w32": HRNetConfig(widths=(32, 64, 128, 256)),
    "hrnet_w48": HRNetConfig(widths=(48, 96, 192, 384)),
    "hrnet_w18_small": HRNetConfig(
        widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, stage1_blocks=1, stage1_planes=32
    ),
    "hrnet_w18_small_v2": HRNetConfig(
        widths=(18, 36, 72, 144), modules=(1, 3, 2), blocks=2, stage1_blocks=2, stage1_planes=64
    ),
    "hrnet_w16_sample": HRNetConfig(
        widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, stem=32, stage1_blocks=1, stage1_planes=32
    ),
}


class HRNet(nn.Module):
    """(B, 3, H, W) normalised RGB crops -> (B, K, H/4, W/4) raw heatmaps; H and W must be multiples of 32."""

    def __init__(self, config: HRNetConfig, joints: int = 17) -> None:
        super().__init__()
        self.config = config
        self.joints = joints
        self.conv1, self.bn1 = _conv3x3(3, config.stem, stride=2), nn.BatchNorm2d(config.stem)
        self.conv2, self.bn2 = _conv3x3(config.stem, config.stem, stride=2), nn.BatchNorm2d(config.stem)
        self.relu = nn.ReLU(inplace=True)
        self.layer1, channels = _make_layer1(config)
        widths = config.widths
        self.transition1 = Transition((channels,), widths[:2])
        self.stage2 = _make_stage(widths[:2], config.modules[0], config.blocks)
        self.transition2 = Transition(widths[:2], widths[:3])
        self.stage3 = _make_stage(widths[:3], config.modules[1], config.blocks)
        self.transition3 = Transition(widths[:3], widths)
        self.stage4 = _make_stage(widths, config.modules[2], config.blocks, outputs=1)
        self.final_layer = nn.Conv2d(widths[0], joints, kernel_size=1)
        self.apply(_initialise)

    def forward(self, crops: Tensor) -> Tensor:
        """Raw heatmaps (B, K, H/4, W/4) of normalised crops (B, 3, H, W)."""
        return self.final_layer(self.features(crops))

    def features(self, crops: Tensor) -> Tensor:
        """What the final 1x1 convolution sees: (B, widths[0], H/4, W/4)."""
        height, width = crops.shape[-2:]
        heatmap_size((width, height))
        x = self.relu(self.bn1(self.conv1(crops)))
        x = self.relu(self.bn2(self.conv2(x)))
        branches = self.stage2(self.transition1([self.layer1(x)]))
        branches = self.stage3(self.transition2(branches))
        return self.stage4(self.transition3(branches))[0]


def build_hrnet(name: str, joints: int = 17) -> HRNet:
    """The named HRNet with `joints` output maps, freshly initialised; ValueError for an unknown name."""
    if name not in HRNETS:
        raise ValueError(f"unknown HRNet {name!r}; available: {', '.join(HRNETS)}")
    return HRNet(HRNETS[name], joints)


def heatmap_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """Heatmap (width, height) for an input (width, height); ValueError unless both are multiples of 32."""
    width, height = input_size
    if width <= 0 or height <= 0 or width % DEEPEST_STRIDE or height % DEEPEST_STRIDE:
        raise ValueError(f"input sides must be multiples of {DEEPEST_STRIDE}, got {height}x{width} (height x width)")
    return width // STRIDE, height // STRIDE


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut; keeps (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; the shortcut is projected (`downsample`) where the channels differ."""

    EXPANSION = 4

    def __init__(self, channels: int, planes: int) -> None:
        super().__init__()
        out = planes * self.EXPANSION
        self.conv1, self.bn1 = _conv1x1(channels, planes), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv3x3(planes, planes), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _conv1x1(planes, out), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        projection = [] if channels == out else [_conv1x1(channels, out), nn.BatchNorm2d(out)]
        self.downsample = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4·planes, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Transition(nn.ModuleList):
    """Opens the next stage's branches: old ones pass (or change width), new ones halve the last old one."""

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        super().__init__()
        for branch, channels in enumerate(after):
            if branch >= len(before):
                self.append(_halvings(before[-1], channels, steps=branch - len(before) + 1))
            elif before[branch] != channels:
                self.append(nn.Sequential(*_conv_bn_relu(before[branch], channels)))
            else:
                self.append(nn.Identity())

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """The branches of the next stage, finest first."""
        return [path(branches[min(i, len(branches) - 1)]) for i, path in enumerate(self)]


class ExchangeModule(nn.Module):
    """Each branch runs through its blocks; then each output is the sum of all branches brought to its size.

    `outputs` says how many branches are put out: all of them, or only the finest at the end of the network.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(channels) for _ in range(blocks))) for channels in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=False)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Branches in, branches out, finest first: (B, widths[i], H/2^i, W/2^i)."""
        inputs = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [self.relu(_sum_paths(paths, inputs)) for paths in self.fuse_layers]


def _sum_paths(paths: nn.Module, inputs: list[Tensor]) -> Tensor:
    """The sum of path(x) over the branches, from the finest on: the official order of additions."""
    terms = [path(x) for path, x in zip(paths.children(), inputs, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _fuse_path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
    """From branch `source` to the size and width of branch `target`: identity, upsampling or strides."""
    if source == target:
        return nn.Identity()
    if source < target:
        return _halvings(widths[source], widths[target], target - source, summed=True)
    return nn.Sequential(
        _conv1x1(widths[source], widths[target]),
        nn.BatchNorm2d(widths[target]),
        nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
    )


def _halvings(channels: int, out: int, steps: int, *, summed: bool = False) -> nn.Sequential:
    """`steps` stride-2 convolutions; the last changes the width, and has no ReLU if its output is summed."""
    halve = [nn.Sequential(*_conv_bn_relu(channels, channels, stride=2)) for _ in range(steps - 1)]
    last = _conv_bn_relu(channels, out, stride=2)
    return nn.Sequential(*halve, nn.Sequential(*(last[:-1] if summed else last)))


def _make_layer1(config: HRNetConfig) -> tuple[nn.Sequential, int]:
    """Stage 1 and the number of channels it puts out."""
    out = config.stage1_planes * Bottleneck.EXPANSION
    channels = [config.stem] + [out] * (config.stage1_blocks - 1)
    return nn.Sequential(*(Bottleneck(c, config.stage1_planes) for c in channels)), out


def _make_stage(widths: tuple[int, ...], modules: int, blocks: int, outputs: int | None = None) -> nn.Sequential:
    """`modules` exchange modules, of which the last puts out only the `outputs` finest branches."""
    every = len(widths)
    counts = [every] * (modules - 1) + [outputs or every]
    return nn.Sequential(*(ExchangeModule(widths, blocks, count) for count in counts))


def _conv_bn_relu(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [_conv3x3(channels, out, stride), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def _conv3x3(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)


def _conv1x1(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=1, bias=False)


def _initialise(module: nn.Module) -> None:
    """The official start: convolutions N(0, 0.001²), biases 0; batch norm stays at weight 1, bias 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.001)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fold_batch_norm(model: nn.Module) -> None:
    """Fold, in place, every batch norm that directly follows a convolution among its parent's children.

    Args:
        model: In eval mode, applying its children in the order in which it declares them (as HRNet's blocks do).
    """
    for parent in model.modules():
        children = list(parent.named_children())
        for (name, conv), (next_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, next_name, nn.Identity())


class HRNetNetwork:
    """Takes over the given model (folds and converts it); call it with (B, H, W, 3) uint8 RGB crops.

    Attributes:
        input_size: (width, height) of the crops.
        heatmap_size: (width, height) of the maps.
        joints: number of maps K.
        device: as torch names it.
        precision: `fp32` or `bf16`.
    """

    def __init__(self, model: HRNet, input_size: tuple[int, int], device: torch.device, precision: str) -> None:
        self.input_size, self.heatmap_size = input_size, heatmap_size(input_size)
        self.joints = model.joints
        self.device, self.precision = str(device), precision
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        fold_batch_norm(model.eval())
        model.to(device=device, dtype=self._dtype).to(memory_format=torch.channels_last)
        model.final_layer.float()
        self._model = model

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, H, W, 3) uint8 -> (B, K, h, w) float32."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            maps = self._forward(torch.from_numpy(crops).to(self.device))
            return np.asarray(maps.contiguous().cpu().numpy(), np.float32)

    def _forward(self, crops: Tensor) -> Tensor:
        features = self._model.features(normalise_images(crops).to(self._dtype))
        return self._model.final_layer(features.float())
