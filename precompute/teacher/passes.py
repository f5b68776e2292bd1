"""The pass of a batch through a network on a device: one copy there, one forward pass, one copy back.

On a GPU, the pass of full batches can be recorded as a CUDA graph (`DeviceNetwork.capture`), which starts all kernels
of a batch with one call. A graph takes batches of one size only. Others, such as the last batch of a shard, run kernel
by kernel, with the same kernels as without a graph: a graph therefore changes no heatmap.
"""

import abc
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.images import normalise_images
from precompute.teacher.joints import Agreement

Pending = Callable[[], NDArray[np.float32]]
"""Waits for heatmaps that a device is computing, and returns them."""
WARM_UP = 2
"""Passes before one is recorded: libraries choose their kernels in the first one."""


class DeviceNetwork(abc.ABC):
    """A network that maps normalised images to heatmaps on a device, and the pass of a batch around it.

    Attributes:
        device: The device as torch names it.
        joints: Which heatmaps of the network are the K joints of the data.
        can_capture: Whether `capture` can record a pass of this network.
        udp: Whether the network was trained with UDP: its flip test then needs no shift.
        stream: The CUDA stream of its batches, from the copy there to the copy back; None for the current one.
    """

    device: str
    can_capture = False
    udp = False
    stream: Any = None

    def __init__(self, joints: Agreement) -> None:
        self.joints = joints
        self._flip_order: Tensor | None = None
        self._taken: Tensor | None = None
        self._captured: CapturedPass | None = None

    @abc.abstractmethod
    def run(self, images: Tensor) -> Tensor:
        """All heatmaps of the network, (N, M, h, w) float32 on the device, of normalised images (N, 3, H, W) there."""

    def images(self, crops: Tensor) -> Tensor:
        """The images (N, 3, H, W) that `run` takes, from crops (N, H, W, 3) uint8 RGB."""
        return normalise_images(crops)

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute all heatmaps of the network, (B, M, h, w) float32, from crops (B, H, W, 3) uint8 RGB."""
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = self.images(torch.from_numpy(crops).to(self.device))
            return np.asarray(self.run(images).cpu().numpy(), np.float32)

    @property
    def is_asynchronous(self) -> bool:
        """Whether batches go through `launch`, which returns before the heatmaps are copied back."""
        return self.device.startswith("cuda")

    def launch(self, crops: NDArray[np.uint8], *, flip_test: bool) -> Pending:
        """Start computing the heatmaps of crops on a GPU.

        Args:
            crops: (B, V, H, W, 3) uint8 RGB in pinned memory, which must stay unchanged until the heatmaps are there.
            flip_test: Average each heatmap with that of the mirrored crop, as `kdlib.heatmaps.flip_average` does.

        Returns:
            Waits for the heatmaps (B, V, K, h, w) float32.
        """
        own = contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)
        with torch.cuda.device(self.device), own:
            batch = torch.from_numpy(crops)
            if self._captured is not None and self._captured.takes(batch, flip_test):
                maps = self._captured(batch)
            else:
                maps = self.compute(batch, flip_test=flip_test)
            # Waiting for a blocking event leaves the core to the threads that prepare and encode; others spin on it.
            host, copied = _pinned_like(maps), torch.cuda.Event(blocking=True)
            copied.record()

        def wait() -> NDArray[np.float32]:
            copied.synchronize()
            return np.asarray(host.numpy()).reshape(*crops.shape[:2], *host.shape[1:])

        return wait

    def compute(self, crops: Tensor, *, flip_test: bool) -> Tensor:
        """Compute heatmaps (B * V, K, h, w) float32 on the device from crops (B, V, H, W, 3) uint8 RGB.

        The flip test swaps the joints of the network; then those of the data are taken.
        """
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = self.images(crops.to(self.device, non_blocking=True).flatten(0, 1))
            if not flip_test:
                return self._take(self.run(images))
            maps, mirrored = self.run(torch.cat([images, images.flip(-1)])).chunk(2)
            if self._flip_order is None:
                self._flip_order = torch.tensor(self.joints.own.flip_order, device=self.device)
            back = mirrored.index_select(1, self._flip_order).flip(-1)
            if not self.udp:
                back = torch.cat([back[..., :1], back[..., :-1]], dim=-1)
            return self._take((maps + back) * 0.5)

    def _take(self, maps: Tensor) -> Tensor:
        """The heatmaps (N, K, h, w) of the data's joints from all heatmaps (N, M, h, w) of the network."""
        if self.joints.is_whole:
            return maps
        if self._taken is None:
            self._taken = torch.tensor(self.joints.order, device=self.device)
        return maps.index_select(1, self._taken)

    def capture(self, shape: tuple[int, ...], *, flip_test: bool) -> None:
        """Record the pass of batches of this shape as a CUDA graph, which `launch` then uses for them.

        Args:
            shape: (B, V, H, W, 3) of the crops.
            flip_test: As in `launch`.

        Raises:
            RuntimeError: If CUDA cannot record the pass, or (its subclass `torch.OutOfMemoryError`) the memory of the
                device is too small. Batches then run as before.
        """
        self._captured = None  # its memory is free for the next one
        with torch.cuda.device(self.device), torch.inference_mode():
            self._captured = CapturedPass(self, torch.zeros(shape, dtype=torch.uint8, device=self.device), flip_test)

    @property
    def is_captured(self) -> bool:
        """Whether `launch` has a graph."""
        return self._captured is not None

    def discard_capture(self) -> None:
        """Let all batches run kernel by kernel again."""
        self._captured = None


class CapturedPass:
    """The pass of batches of one shape as a CUDA graph, with its own input and output on the device."""

    def __init__(self, network: DeviceNetwork, crops: Tensor, flip_test: bool) -> None:
        self._crops, self._flip_test = crops, flip_test
        self._replay, self._maps = record(lambda: network.compute(crops, flip_test=flip_test))

    def takes(self, crops: Tensor, flip_test: bool) -> bool:
        """Whether this is the pass of such a batch."""
        return crops.shape == self._crops.shape and flip_test == self._flip_test

    def __call__(self, crops: Tensor) -> Tensor:
        """Start the pass; the heatmaps (B * V, K, h, w) on the device are valid until the next call."""
        with torch.inference_mode():
            self._crops.copy_(crops, non_blocking=True)
            self._replay()
        return self._maps


def record(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Record the kernels of a function on the current CUDA device; returns what runs them again, and their output."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        maps = compute()
    return graph.replay, maps


def _pinned_like(maps: Tensor) -> Tensor:
    """A copy in pinned memory, complete when the device has done what was launched so far."""
    host = torch.empty(maps.shape, dtype=maps.dtype, pin_memory=True)
    return host.copy_(maps, non_blocking=True)
