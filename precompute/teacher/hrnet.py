"""HRNet for top-down pose: parallel branches at strides 4, 8, 16 and 32 that exchange features, and its weights.

The architecture of Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation" (CVPR
2019), with the parameter names of the official implementation (deep-high-resolution-net.pytorch), so that its
checkpoints load strictly. An `HRNetConfig` describes any width and depth; `HRNETS` lists our teachers by name:

    model = build_hrnet("hrnet_w32", joints=17)
    heatmaps = model(crops)          # (B, 3, H, W) -> (B, K, H/4, W/4), raw regressed maps, no activation

From top to bottom: the configurations, the network from the outside in, its weights, and the `Architecture` that
`precompute.teacher.loading` lists. Axes: B batch, C channels, K joints, H rows, W columns. Sizes are (width, height) in
pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from precompute.teacher import checkpoint
from precompute.teacher.architecture import Architecture
from precompute.teacher.checkpoint import COUNTER, Shapes, shapes_of
from precompute.teacher.zoo import MMPOSE

STRIDE = 4  # input pixels per heatmap pixel
DEEPEST_STRIDE = 32  # of the last branch: input sides must be multiples of it


@dataclass(frozen=True)
class HRNetConfig:
    """The sizes that distinguish HRNets.

    Attributes:
        widths: channels of the branches at strides 4, 8, 16 and 32.
        modules: number of exchange modules in stages 2, 3 and 4.
        blocks: basic blocks per branch in one module.
        stem: channels of the two stride-2 convolutions at the input.
        stage1_blocks: bottleneck blocks of stage 1 (`layer1`).
        stage1_planes: inner channels of these blocks; their output has four times as many.
        fused: whether the head takes all branches instead of the finest one, and branches are upsampled bilinearly
            (HRNetV2: Sun et al. 2019, arXiv 1904.04514; mmpose's networks for hands and faces).
    """

    widths: tuple[int, int, int, int]
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    stem: int = 64
    stage1_blocks: int = 4
    stage1_planes: int = 64
    fused: bool = False


# W32 and W48 are the pose networks of the paper. The two small ones have the backbones of the official ImageNet
# models "W18-small-v1" and "-v2" (HRNet-Image-Classification, experiments/cls_hrnet_w18_small_v{1,2}_*.yaml).
# "hrnetv2_w18" is mmpose's network for hands and faces. The last one is the teacher of the embedded sample. It is
# small enough to train on a CPU.
HRNETS: dict[str, HRNetConfig] = {
    "hrnet_w32": HRNetConfig(widths=(32, 64, 128, 256)),
    "hrnet_w48": HRNetConfig(widths=(48, 96, 192, 384)),
    "hrnet_w18_small": HRNetConfig(
        widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, stage1_blocks=1, stage1_planes=32
    ),
    "hrnet_w18_small_v2": HRNetConfig(
        widths=(18, 36, 72, 144), modules=(1, 3, 2), blocks=2, stage1_blocks=2, stage1_planes=64
    ),
    "hrnetv2_w18": HRNetConfig(widths=(18, 36, 72, 144), fused=True),
    "hrnet_w16_sample": HRNetConfig(
        widths=(16, 32, 64, 128), modules=(1, 1, 1), blocks=2, stem=32, stage1_blocks=1, stage1_planes=32
    ),
}


class HRNet(nn.Module):
    """Maps normalised RGB crops (B, 3, H, W) to raw heatmaps (B, K, H/4, W/4). H and W are multiples of 32."""

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
        upsampling = "bilinear" if config.fused else "nearest"
        self.stage2 = _make_stage(widths[:2], config.modules[0], config.blocks, upsampling)
        self.transition2 = Transition(widths[:2], widths[:3])
        self.stage3 = _make_stage(widths[:3], config.modules[1], config.blocks, upsampling)
        self.transition3 = Transition(widths[:3], widths)
        outputs = len(widths) if config.fused else 1
        self.stage4 = _make_stage(widths, config.modules[2], config.blocks, upsampling, outputs)
        channels = sum(widths[:outputs])
        if config.fused:
            layers = (nn.Conv2d(channels, channels, kernel_size=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
            self.conv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, joints, kernel_size=1)
        self.apply(_initialise)

    def forward(self, crops: Tensor) -> Tensor:
        """Compute raw heatmaps (B, K, H/4, W/4) from normalised crops (B, 3, H, W)."""
        return self.final_layer(self.features(crops))

    def features(self, crops: Tensor) -> Tensor:
        """Compute the input of the final 1x1 convolution, (B, C, H/4, W/4); C is widths[0], or their sum if fused."""
        height, width = crops.shape[-2:]
        heatmap_size((width, height))
        x = self.relu(self.bn1(self.conv1(crops)))
        x = self.relu(self.bn2(self.conv2(x)))
        branches = self.stage2(self.transition1([self.layer1(x)]))
        branches = self.stage3(self.transition2(branches))
        branches = self.stage4(self.transition3(branches))
        if not self.config.fused:
            return branches[0]
        finest = branches[0].shape[-2:]
        resized = [branches[0], *(nn.functional.interpolate(b, finest, mode="bilinear") for b in branches[1:])]
        return self.conv_layers(torch.cat(resized, dim=1))


def build_hrnet(name: str, joints: int = 17) -> HRNet:
    """Build the named HRNet with `joints` output maps, freshly initialised. Raises ValueError for an unknown name."""
    if name not in HRNETS:
        raise ValueError(f"unknown HRNet {name!r}; available: {', '.join(HRNETS)}")
    return HRNet(HRNETS[name], joints)


def heatmap_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """Heatmap (width, height) of an input (width, height). Raises ValueError unless both are multiples of 32."""
    width, height = input_size
    if width <= 0 or height <= 0 or width % DEEPEST_STRIDE or height % DEEPEST_STRIDE:
        raise ValueError(f"input sides must be multiples of {DEEPEST_STRIDE}, got {height}x{width} (height x width)")
    return width // STRIDE, height // STRIDE


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut; input and output are (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(residual + x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the shortcut is a projection (`downsample`) if the channels differ."""

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
        """Map (B, C, H, W) to (B, 4·planes, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Transition(nn.ModuleList):
    """Makes the branches of the next stage: old ones keep their resolution, new ones halve that of the last old one."""

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
        """Compute the branches of the next stage, finest first."""
        return [path(branches[min(i, len(branches) - 1)]) for i, path in enumerate(self)]


class ExchangeModule(nn.Module):
    """Runs each branch through its blocks; then each output is the sum of all branches, resampled to its size.

    The first `outputs` branches are computed: all of them, or only the finest at the end of the network.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, upsampling: str, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(channels) for _ in range(blocks))) for channels in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_path(widths, source, target, upsampling) for source in range(len(widths)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=False)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Map branches (B, widths[i], H/2^i, W/2^i), finest first, to branches of the same shapes."""
        inputs = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [self.relu(_sum_paths(paths, inputs)) for paths in self.fuse_layers]


def _sum_paths(paths: nn.Module, inputs: list[Tensor]) -> Tensor:
    """Sum path(x) over the branches, finest first: the order of additions of the official code."""
    terms = [path(x) for path, x in zip(paths.children(), inputs, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _fuse_path(widths: tuple[int, ...], source: int, target: int, upsampling: str) -> nn.Module:
    """Build the path from branch `source` to branch `target`: identity, upsampling or strided convolutions."""
    if source == target:
        return nn.Identity()
    if source < target:
        return _halvings(widths[source], widths[target], target - source, summed=True)
    return nn.Sequential(
        _conv1x1(widths[source], widths[target]),
        nn.BatchNorm2d(widths[target]),
        nn.Upsample(scale_factor=2 ** (source - target), mode=upsampling),
    )


def _halvings(channels: int, out: int, steps: int, *, summed: bool = False) -> nn.Sequential:
    """Build `steps` stride-2 convolutions. The last one changes the width; it has no ReLU if `summed`."""
    halve = [nn.Sequential(*_conv_bn_relu(channels, channels, stride=2)) for _ in range(steps - 1)]
    last = _conv_bn_relu(channels, out, stride=2)
    return nn.Sequential(*halve, nn.Sequential(*(last[:-1] if summed else last)))


def _make_layer1(config: HRNetConfig) -> tuple[nn.Sequential, int]:
    """Build stage 1; also returns its number of output channels."""
    out = config.stage1_planes * Bottleneck.EXPANSION
    channels = [config.stem] + [out] * (config.stage1_blocks - 1)
    return nn.Sequential(*(Bottleneck(c, config.stage1_planes) for c in channels)), out


def _make_stage(
    widths: tuple[int, ...], modules: int, blocks: int, upsampling: str, outputs: int | None = None
) -> nn.Sequential:
    """Build `modules` exchange modules; the last one computes only the `outputs` finest branches."""
    every = len(widths)
    counts = [every] * (modules - 1) + [outputs or every]
    return nn.Sequential(*(ExchangeModule(widths, blocks, upsampling, count) for count in counts))


def _conv_bn_relu(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [_conv3x3(channels, out, stride), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def _conv3x3(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, stride=stride, padding=1, bias=False)


def _conv1x1(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=1, bias=False)


def _initialise(module: nn.Module) -> None:
    """Initialise as the official code: convolutions N(0, 0.001²), biases 0; batch norms keep weight 1, bias 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.001)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fold_batch_norm(model: nn.Module) -> None:
    """Fold, in place, every batch norm that directly follows a convolution among its parent's children.

    Args:
        model: A network in eval mode whose modules apply their children in the order of declaration, as HRNet's do.
    """
    for parent in model.modules():
        children = list(parent.named_children())
        for (name, conv), (next_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, next_name, nn.Identity())


PREFIXES = ("module.", "backbone.", "keypoint_head.", "head.")
"""Prefixes of parameter names in checkpoints of the official training and of mmpose, removed in this order."""


def load_hrnet(model: HRNet, path: str | Path) -> None:
    """Fill an HRNet with the weights of a checkpoint of any layout of `precompute.teacher.checkpoint`.

    Raises:
        CheckpointError: See `precompute.teacher.checkpoint.load_weights`. If another registered HRNet fits, the message
            names it.
    """
    read = _read_fused if model.config.fused else None
    checkpoint.load_weights(model, path, read=read, prefixes=PREFIXES, name=_name_of(model), advice=_advice)


def _read_fused(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of an HRNetV2; mmpose 0.x keeps both convolutions of the head in one list, `final_layer`."""
    weights = checkpoint.read_state_dict(path, PREFIXES)
    renamed = {"final_layer.0.": "conv_layers.0.", "final_layer.1.": "conv_layers.1.", "final_layer.3.": "final_layer."}
    for old, new in renamed.items():
        weights = {new + key[len(old) :] if key.startswith(old) else key: value for key, value in weights.items()}
    return weights


def _name_of(model: HRNet) -> str:
    name = next((name for name, config in HRNETS.items() if config == model.config), "this HRNet")
    return f"{name} with {model.joints} joints"


def _advice(weights: Mapping[str, Tensor]) -> str:
    """Name the network that the weights belong to, as far as their names and shapes allow."""
    if "stage4.0.branches.0.0.conv1.weight" in weights and "final_layer.weight" not in weights:
        return "It is an HRNet backbone without a pose head (from ImageNet?); a pose checkpoint is needed"
    for name in HRNETS:
        joints = _joints_if_it_fits(name, shapes_of(weights))
        if joints:
            return f"It fits {name} with {joints} joints"
    return f"It fits none of {', '.join(HRNETS)}"


def _joints_if_it_fits(name: str, found: Shapes) -> int | None:
    """Return the number of joints if weights of these shapes fit the named HRNet, else None."""
    bias = found.get("final_layer.bias", ())
    if len(bias) != 1:
        return None
    joints = bias[0]
    with torch.device("meta"):
        wanted = shapes_of(build_hrnet(name, joints).state_dict())
    counters: Shapes = {key: () for key in wanted if key.endswith(COUNTER)}
    return joints if wanted == counters | found else None


# The official repository publishes its weights in shared folders of web services, which a program cannot download from.
_OFFICIAL = (
    "give --input-size 256x192 or 384x288 to download mmpose's published weights, or give a file: the official "
    "weights are in pose_coco/ of the model zoo that the README of "
    "https://github.com/leoxiaobin/deep-high-resolution-net.pytorch links to ({file})"
)

HRNET = Architecture(
    names=tuple(HRNETS),
    build=lambda name, joints, input_size: build_hrnet(name, joints),
    heatmap_size=heatmap_size,
    load_weights=load_hrnet,
    prepare=fold_batch_norm,
    float32_module="final_layer",
    published=MMPOSE,
    sources={
        "hrnet_w32": _OFFICIAL.format(file="pose_hrnet_w32_256x192.pth or _384x288.pth"),
        "hrnet_w48": _OFFICIAL.format(file="pose_hrnet_w48_256x192.pth or _384x288.pth"),
        "hrnetv2_w18": "the names of mmpose's published weights are in docs/commands.md, e.g. "
        "hrnetv2_w18_coco_wholebody_hand_256x256",
        "hrnet_w16_sample": "precompute/sample/hrnet_w16_sample.safetensors (`make teacher` trains a new one)",
    },
)
